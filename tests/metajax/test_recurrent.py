"""Policies with a memory: what a step remembers, and sequences as steps one after another."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
import metajax as mj
from metajax import recurrent

TIME, COLUMNS, SIZE = 5, 3, 6
ACTIONS = {"discrete": envs.Discrete(4), "continuous": envs.Box(-1.0, 1.0, (2,))}


class Plain:
    """Any network with a memory: no way of its own through a sequence."""

    def __init__(self, network):
        self.init, self.apply = network.init, network.apply
        self.initial_carry = network.initial_carry


@pytest.fixture(scope="module", params=ACTIONS)
def made(request):
    """A network, its parameters and observations of a few sequences."""
    network = recurrent.gru_policy(ACTIONS[request.param], SIZE, hidden=(7,))
    observations = jax.random.normal(jax.random.key(0), (TIME, COLUMNS, 4))
    init = jax.jit(network.init)
    params = init(jax.random.key(1), observations[0, 0], network.initial_carry)
    # Parameters that begin at 0, or nearly so, would hide what they do.
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [leaf + jax.random.normal(keys[i], leaf.shape) for i, leaf in enumerate(leaves)]
    return network, jax.tree.unflatten(structure, moved), observations


def start(network):
    return jnp.broadcast_to(network.initial_carry, (COLUMNS, SIZE))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_step_is_that_of_the_gated_unit(made):
    network, params, observations = made
    carry = jax.random.normal(jax.random.key(3), (COLUMNS, SIZE))
    outputs, value, after = jax.jit(network.apply)(params, observations[0], carry)
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    x, h = (np.asarray(leaf, np.float64) for leaf in (observations[0], carry))
    x = np.tanh(x @ w["Dense_0"]["kernel"] + w["Dense_0"]["bias"])
    into = np.split(x @ w["Dense_1"]["kernel"] + w["Dense_1"]["bias"], 3, axis=-1)
    kept = np.split(h @ w["Dense_2"]["kernel"], 3, axis=-1)
    reset, update = (sigmoid(into[i] + kept[i]) for i in (0, 1))
    new = np.tanh(into[2] + reset * (kept[2] + w["bias"]))
    expected = (1 - update) * new + update * h
    np.testing.assert_allclose(after, expected, rtol=2e-5, atol=1e-6)
    worth = (expected @ w["Dense_3"]["kernel"] + w["Dense_3"]["bias"])[:, 0]
    np.testing.assert_allclose(value, worth, rtol=1e-4, atol=1e-5)
    logits = expected @ w["Dense_4"]["kernel"] + w["Dense_4"]["bias"]
    found = outputs if network.continuous is False else outputs[0]
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)


def test_a_sequence_is_its_steps(made):
    network, params, observations = made
    carry, steps = start(network), []
    step = jax.jit(network.apply)
    for observation in observations:
        outputs, value, carry = step(params, observation, carry)
        steps.append((outputs, value))
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps)
    for way in (network, Plain(network)):
        found = jax.jit(partial(recurrent.over_time, way))(params, observations, start(network))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_gradients_through_a_sequence_are_those_of_its_steps(made):
    network, params, observations = made

    def loss(way, params):
        outputs, value = recurrent.over_time(way, params, observations, start(network))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((outputs, value)))

    found, expected = (
        jax.jit(jax.grad(partial(loss, way)))(params) for way in (network, Plain(network))
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


def test_leading_axes_are_those_of_observations_and_memories(made):
    network, params, observations = made
    step = jax.jit(network.apply)
    one = step(params, observations[0, 0], network.initial_carry)
    many = step(params, observations[0], start(network))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-5, atol=1e-5), one, many)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 0}, "memory: expected at least 1, got 0"),
        ({"hidden": (4, 0)}, "hidden: expected at least 1, got 0"),
        ({"initial_std": 0.0}, "initial_std: expected above 0"),
        ({"activation": "tanh"}, "activation: expected a function"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        recurrent.gru_policy(ACTIONS["discrete"], **options)


def test_the_gradient_of_a_sequence_is_exact():
    """In double precision: by the memory that it begins with too, with any axes of columns."""
    with jax.enable_x64(True):
        shapes = [(TIME, 2, COLUMNS, 3 * SIZE), (2, COLUMNS, SIZE), (SIZE, 3 * SIZE), (SIZE,)]
        keys = jax.random.split(jax.random.key(0), len(shapes))
        given = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]

        def loss(run, *given):
            return jnp.sum(jnp.sin(3.0 * run(*given, None)))

        gradient = jax.jit(jax.grad(loss, (1, 2, 3, 4)), static_argnums=0)
        found, expected = (gradient(way, *given) for way in (recurrent._run, recurrent._memories))
        chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)


def test_bfloat16_rounds_operands_alone(made):
    network, params, observations = made
    rounding = network.clone(dtype=jnp.bfloat16)

    def loss(way, params):
        outputs, value = recurrent.over_time(way, params, observations, start(network))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((outputs, value)))

    found, expected = (jax.jit(jax.grad(partial(loss, way)))(params) for way in (rounding, network))
    differences = []
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float32
        differences.append(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)))
    assert 0 < max(differences) < 0.05


@pytest.mark.slow
def test_a_policy_with_a_memory_takes_part_in_gradients_of_gradients():
    """MAML's second derivative through the faster way is that through plain steps."""
    trial = envs.Trial(envs.make("bandit", arms=2, horizon=3), episodes=2)
    network = recurrent.gru_policy(trial.action_space, 4)
    whole, by_steps = (
        mj.policy_gradient(trial, way, episodes=3, baseline="critic")
        for way in (network, Plain(network))
    )

    def learner(problem):
        return mj.maml(problem, mj.sgd(1.0), optax.sgd(1.0), 2)

    start = jax.jit(learner(whole).init)(jax.random.key(0))
    task = whole.sample_task(jax.random.key(1))
    # The same trials for both, for each acts a step at a time.
    batch = jax.jit(whole.collect)(start.params, task, jax.random.key(2))
    states = []
    for problem in (whole, by_steps):
        played = problem._replace(collect=lambda params, task, key: batch)
        state, _ = jax.jit(learner(played).update)(start)
        states.append(state.params)
    chex.assert_trees_all_close(*states, rtol=1e-4, atol=1e-5)


def test_what_a_memory_or_a_critic_returns_is_checked():
    trial = envs.Trial(envs.make("bandit", arms=2, horizon=3), episodes=2)
    network = recurrent.gru_policy(trial.action_space, 4)

    class Wrong(Plain):
        def __init__(self, change):
            super().__init__(network)
            whole = self.apply
            self.apply = lambda *args: change(*whole(*args))

    def collect(way):
        problem = mj.policy_gradient(trial, way, episodes=3, baseline="critic")
        params, task = problem.init(jax.random.key(0)), problem.sample_task(jax.random.key(0))
        jax.eval_shape(problem.collect, params, task, jax.random.key(0))

    with pytest.raises(ValueError, match=r"network: expected values of shape \(\), got \(1,\)"):
        collect(Wrong(lambda outputs, value, carry: (outputs, value[..., None], carry)))
    with pytest.raises(ValueError, match=r"expected a carry as before, carry \(4,\) float32, got"):
        collect(Wrong(lambda outputs, value, carry: (outputs, value, carry[..., :2])))


def test_q_learning_takes_no_memory():
    trial = envs.Trial(envs.make("bandit", arms=2, horizon=3), episodes=2)
    network = recurrent.gru_policy(trial.action_space, 4)
    with pytest.raises(ValueError, match="network: expected none with a memory"):
        mj.q_learning(trial, network, episodes=3)


def test_a_gaussian_policy_begins_small_and_in_its_units():
    plain, scaled = (
        recurrent.gru_policy(ACTIONS["continuous"], SIZE, initial_std=0.5, action_scale=scale)
        for scale in (1.0, 0.1)
    )
    given = jnp.ones(4), plain.initial_carry
    params = plain.init(jax.random.key(0), *given)
    (mean, log_std), *_ = plain.apply(params, *given)
    (small, log_small), *_ = scaled.apply(params, *given)
    np.testing.assert_allclose(small, 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose([log_std, log_small], np.log([[0.5] * 2, [0.05] * 2]), rtol=1e-6)
    assert 0 < np.abs(mean).max() < 0.02


def test_each_gate_begins_with_an_orthogonal_matrix_of_its_own():
    network = recurrent.gru_policy(ACTIONS["discrete"], SIZE)
    params = network.init(jax.random.key(0), jnp.ones(4), network.initial_carry)
    gates = np.split(params["params"]["Dense_1"]["kernel"], 3, axis=1)
    for gate in gates:
        np.testing.assert_allclose(gate.T @ gate, np.eye(SIZE), atol=1e-5)
    assert not np.allclose(gates[0], gates[1])
    assert not np.allclose(gates[1], gates[2])
