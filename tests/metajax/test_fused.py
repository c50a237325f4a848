"""The perceptron that is one kernel, interpreted here, against the same in plain operations."""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metajax as mj
from metajax import experiments, fused, kernels, presets
from metajax.algorithms.maml_trpo import curvature_product
from metajax.inner import run

# A GPU rounds the operands of its products to 10 bits, there as in plain operations.
CLOSE = 2e-6 if jax.default_backend() == "cpu" else 5e-3


def layers_of(key, widths):
    keys = iter(jax.random.split(key, 2 * len(widths)))
    draw = jax.random.normal
    return tuple(
        (draw(next(keys), pair) / pair[0] ** 0.5, draw(next(keys), pair[1:]))
        for pair in itertools.pairwise(widths)
    )


def of_tasks(widths, rows=70, tasks=2):
    keys = jax.random.split(jax.random.key(0), tasks)
    layers, along = (
        jax.vmap(lambda key, s=salt: layers_of(jax.random.fold_in(key, s), widths))(keys)
        for salt in (0, 1)
    )
    inputs = jax.random.normal(jax.random.key(2), (tasks, rows, widths[0]))
    target = jax.random.normal(jax.random.key(3), (tasks, rows, widths[-1]))
    return layers, along, inputs, target


def passes(network, activation):
    """Outputs, gradients and the forward derivatives of both, of all tasks."""

    def loss(layers, inputs, target):
        return jnp.mean((network(layers, inputs, activation) - target) ** 2 * jnp.cos(target))

    def of_one(layers, along, inputs, target):
        gradient = jax.grad(loss, (0, 1))
        return (
            network(layers, inputs, activation),
            gradient(layers, inputs, target),
            jax.jvp(lambda at: gradient(at, inputs, target)[0], (layers,), (along,))[1],
            jax.jvp(lambda *at: gradient(*at, target), (layers, inputs), (along, inputs))[1],
        )

    return jax.jit(jax.vmap(of_one))


@pytest.mark.parametrize(
    ("widths", "activation"),
    [((3, 40, 16, 1), jnp.tanh), ((2, 20, 3), jax.nn.relu), ((5, 7), jnp.tanh)],
)
def test_every_pass_is_that_of_plain_operations(widths, activation):
    args = of_tasks(widths)
    found = passes(fused.mlp, activation)(*args)
    expected = passes(kernels.plain, activation)(*args)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=CLOSE * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("rows", [1, pytest.param(31, marks=pytest.mark.smoke), 64, 1100])
def test_rows_are_all_there_whatever_their_number(rows):
    layers, _, inputs, target = of_tasks((2, 16, 2), rows, tasks=1)
    args = jax.tree.map(lambda leaf: leaf[0], (layers, inputs))
    cotangent = target[0]

    @partial(jax.jit, static_argnums=0)
    def pulled(network, layers, inputs):
        outputs, pull = jax.vjp(lambda layers: network(layers, inputs, jnp.tanh), layers)
        return outputs, pull(cotangent)

    found, expected = (pulled(network, *args) for network in (fused.mlp, kernels.plain))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        bound = 5 * CLOSE
        np.testing.assert_allclose(ours, theirs, rtol=bound, atol=bound * np.abs(theirs).max())


def test_tasks_that_share_their_parameters_are_one_kernel():
    layers, _, inputs, _ = of_tasks((2, 16, 2), rows=5, tasks=30)
    shared = jax.tree.map(lambda leaf: leaf[0], layers)
    of_all = jax.vmap(lambda inputs: fused.mlp(shared, inputs, jnp.tanh))
    np.testing.assert_allclose(
        of_all(inputs), kernels.plain(shared, inputs.reshape(-1, 2), jnp.tanh).reshape(30, 5, 2),
        atol=CLOSE,
    )  # fmt: skip
    assert "f32[150,2]" in str(jax.make_jaxpr(of_all)(inputs))


def test_tanh_is_exact_to_rounding_and_bounded():
    x = jnp.concatenate([jnp.linspace(-12, 12, 4001), jnp.array([-1e30, 1e30, 0.0])])
    np.testing.assert_allclose(kernels._tanh(x), np.tanh(np.float64(x)), atol=3e-7)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(kernels._tanh(x)))(x),
                               1 - np.tanh(np.float64(x)) ** 2, atol=1e-6)  # fmt: skip


def test_it_is_for_gpus_where_products_may_round(monkeypatch):
    monkeypatch.setattr(fused, "_capability", lambda: 9.0)
    with fused.once_differentiated():
        assert not fused.enabled()
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        assert fused.enabled()
        with jax.default_matmul_precision("highest"):
            assert not fused.enabled()
        monkeypatch.setattr(fused, "_capability", lambda: 7.5)
        assert not fused.enabled()
    monkeypatch.setattr(fused, "_capability", lambda: 9.0)
    assert not fused.enabled()
    inputs = jnp.ones((3, 2))
    assert fused.takes((2, 64, 64, 2), inputs, jnp.tanh)
    assert fused.takes((2, 128, 2), inputs, jax.nn.relu)
    assert not fused.takes((2, 100, 100, 2), inputs, jnp.tanh)  # more than shared memory holds
    assert not fused.takes((2, 8, 2), inputs, jax.nn.standardize)  # it would see the padding
    assert not fused.takes((2, 8, 2), inputs[:0], jnp.tanh)
    assert not fused.takes((2, 129, 2), inputs, jnp.tanh)
    assert not fused.takes((2, 8, 2), inputs.astype(jnp.bfloat16), jnp.tanh)


@pytest.fixture
def take_kernels(monkeypatch):
    """To be called: from then on engines take kernels, interpreted. Returns the list of those."""

    def take():
        calls, kept = [], kernels.mlp
        monkeypatch.setattr(fused, "enabled", lambda: fused._enabled.value)
        monkeypatch.setattr(fused, "_capability", lambda: 9.0)
        monkeypatch.setattr(kernels, "mlp", lambda *args: calls.append(1) or kept(*args))
        return calls

    return take


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", "norml"])
def test_an_update_is_the_same(take_kernels, algorithm):
    config = presets.preset("point", algorithm)
    sizes = dict(tasks=2, episodes=3, hidden=(8, 8), updates=5)
    sizes["inner_steps"] = min(config.inner_steps, 2)
    config = config.__class__(**{**vars(config), **sizes, "chunk": 2, "tile": 2})

    state = jax.jit(experiments.build(config).learner.init)(jax.random.key(0))

    def update():
        return jax.jit(experiments.build(config).learner.update)(state)[0].params

    expected = update()
    calls = take_kernels()
    found = update()
    assert calls
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_trust_regions_curvature_is_the_same(take_kernels):
    config = presets.preset("point", "maml-trpo")
    config = config.__class__(**{**vars(config), "tasks": 2, "episodes": 3, "hidden": (8, 8)})
    problem, inner = experiments.build(config).problem, mj.sgd(0.1, 1)
    ratio_loss = problem.ratio_loss
    problem = problem._replace(inner_loss=lambda params, batch: ratio_loss(params, batch, None))
    params = jax.jit(problem.init)(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    record = jax.jit(lambda at: run(problem, inner, at, task, jax.random.key(2)))(params)[1]
    vector = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params)

    def product():
        program = jax.jit(lambda at: curvature_product(problem, inner, at, record, vector))
        return jax.tree.leaves(program(params))

    expected = product()
    calls = take_kernels()
    found = product()
    assert calls
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


def test_a_curvature_through_what_only_plain_networks_have(take_kernels):
    """Q-learning's targets move with the parameters: reverse mode over a gradient."""
    config = presets.preset("maze-q", "maml")
    config = config.__class__(**{**vars(config), "tasks": 2, "episodes": 3, "inner_steps": 2})
    calls = take_kernels()
    learner = experiments.build(config).learner
    state = jax.eval_shape(learner.init, jax.random.key(0))
    assert isinstance(jax.eval_shape(learner.update, state)[0], mj.MetaState)
    assert calls


def test_a_network_that_was_jitted_in_an_engine_is_plain_outside(take_kernels):
    calls = take_kernels()
    network = mj.networks.MLP((8, 1), jnp.tanh)
    inputs = jnp.linspace(-1.0, 1.0, 6)[:, None]
    params = network.init(jax.random.key(0), inputs)
    apply = jax.jit(network.apply)

    def gradient(at):
        return jax.grad(lambda at: jnp.sum(apply(at, inputs) ** 2))(at)

    with fused.once_differentiated():
        inside = gradient(params)
    assert calls
    outside, pull = jax.vjp(gradient, params)  # reverse mode over a gradient: not of kernels
    chex.assert_trees_all_close(inside, outside, rtol=1e-4, atol=1e-6)
    chex.assert_tree_all_finite(pull(outside))
