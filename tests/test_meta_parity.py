"""One outer step equals TorchOpt's and higher's on the same parameters and data, in doubles."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj

torch = pytest.importorskip("torch")
with warnings.catch_warnings():  # of torch, as these packages use it
    warnings.simplefilter("ignore")
    torchopt = pytest.importorskip("torchopt")
    higher = pytest.importorskip("higher")

pytestmark = pytest.mark.filterwarnings("ignore")

TASKS, RATE, OUTER_RATE = 3, 0.05, 1e-3
INNER = {
    "sgd": mj.sgd(RATE).optimizer,
    "adam": mj.adam(RATE).optimizer,
    # higher adds its epsilon before the bias correction, and knows no `eps_root`.
    "plain-adam": optax.adam(RATE, eps=1e-14, eps_root=0.0),
}

QUICK = {"xla_backend_optimization_level": 0}  # to compile, not to run

Examples = tuple[Any, Any]  # inputs and targets, of torch


@pytest.fixture
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)  # TorchOpt's bias correction is of the default type
    yield
    torch.set_default_dtype(torch.float32)


def problem() -> mj.Problem:
    """Sine waves; tanh, for every gradient to be other than 0, and parameters in doubles."""
    network = mj.networks.MLP((8, 1), activation=jnp.tanh)
    single = mj.regression(network, shots=5, query=7)

    def init(key: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), single.init(key))

    return single._replace(init=init)


@pytest.fixture(scope="module")
def start() -> Any:
    """The learner's first parameters and key, and the data that its first update draws."""
    given = problem()
    with jax.enable_x64(True):
        state = mj.maml(given, mj.sgd(RATE), optax.sgd(1.0), TASKS).init(jax.random.key(0))

        def draw(key: jax.Array) -> Any:
            key_task, key_adapt = jax.random.split(key)
            task = given.sample_task(key_task)
            key_support, key_query = jax.random.split(key_adapt)
            assert given.query is not None
            sets = (
                given.collect(state.params, task, key_support),
                given.query(state.params, task, key_query),
            )
            return tuple((examples.inputs, examples.targets) for examples in sets)

        keys = jax.random.split(jax.random.fold_in(state.key, 0), TASKS)
        drawn = jax.tree.map(to_torch, jax.device_get(jax.jit(jax.vmap(draw))(keys)))
    data = [jax.tree.map(lambda leaf, n=n: leaf[n], drawn) for n in range(TASKS)]
    return state.params, data


@functools.cache
def ours(optimiser: str, steps: int) -> tuple[Any, Any]:
    """The mean meta-gradient of the first update, and the parameters after it."""
    inner = mj.Inner(INNER[optimiser], steps)
    with jax.enable_x64(True):
        learner = mj.maml(problem(), inner, optax.adam(OUTER_RATE, b1=0.5), TASKS)
        after, _ = jax.jit(learner.update, compiler_options=QUICK)(learner.init(jax.random.key(0)))
    moment = after.opt_state[0].mu  # the gradient's half
    return jax.tree.map(lambda leaf: leaf / 0.5, moment), after.params


def to_torch(array: Any) -> Any:
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def torch_model(params: Any) -> Any:
    nn = torch.nn
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), flat(params), strict=True):
            parameter.copy_(to_torch(value))
    return model


def flat(params: Any) -> list[np.ndarray]:
    """In torch's order and shapes: each layer's weight (out, in), then its bias."""
    layers = params["params"]
    return [
        np.asarray(leaf)
        for name in sorted(layers)
        for leaf in (layers[name]["kernel"].T, layers[name]["bias"])
    ]


def loss(model: Any, examples: Examples) -> Any:
    return torch.nn.functional.mse_loss(model(examples[0]), examples[1])


def by_torchopt(model: Any, data: Any, optimiser: str, steps: int) -> None:
    """Adds the mean meta-gradient to the parameters' `grad`."""
    kinds = {
        "sgd": lambda: torchopt.MetaSGD(model, lr=RATE),
        "adam": lambda: torchopt.MetaAdam(model, lr=RATE, eps=1e-8, eps_root=1e-8),
    }
    start = torchopt.extract_state_dict(model, by="reference")
    for support, query in data:
        inner = kinds[optimiser]()
        for _ in range(steps):
            inner.step(loss(model, support))
        (loss(model, query) / len(data)).backward()
        torchopt.recover_state_dict(model, start)


def by_higher(model: Any, data: Any, optimiser: str, steps: int) -> None:
    """Adds the mean meta-gradient to the parameters' `grad`."""
    kinds = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=RATE),
        "plain-adam": lambda: torch.optim.Adam(model.parameters(), lr=RATE, eps=1e-14),
    }
    for support, query in data:
        with higher.innerloop_ctx(model, kinds[optimiser](), copy_initial_weights=False) as (
            fast,
            inner,
        ):
            for _ in range(steps):
                inner.step(loss(fast, support))
            (loss(fast, query) / len(data)).backward()


CASES = [(by_torchopt, "sgd"), (by_torchopt, "adam"), (by_higher, "sgd"), (by_higher, "plain-adam")]


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 5])
@pytest.mark.parametrize(("theirs", "optimiser"), CASES)
def test_meta_gradient_and_outer_step_agree(
    theirs: Any, optimiser: str, steps: int, start: Any, doubles: None
) -> None:
    params, data = start
    model = torch_model(params)
    parameters = list(model.parameters())
    outer = torch.optim.Adam(parameters, lr=OUTER_RATE, betas=(0.5, 0.999))
    theirs(model, data, optimiser, steps)
    gradient, after = ours(optimiser, steps)
    for actual, expected in zip(flat(gradient), parameters, strict=True):
        np.testing.assert_allclose(actual, expected.grad.numpy(), rtol=1e-7, atol=1e-10)
    outer.step()
    for actual, expected in zip(flat(after), parameters, strict=True):
        np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-7, atol=1e-10)
