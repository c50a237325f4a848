"""The learned advantage: what it is at first, its derivative, what it can tell."""

import dataclasses
from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from differences import directional_error, to_x64

import metajax as mj
from metajax.algorithms.norml import learned_advantage
from metajax.inner import Record, descend, merge, run
from metajax.replays import replay
from metajax.transitions import first_visits, transition_features

STEPS, RATE = 2, 0.5


@pytest.fixture(scope="module")
def gridworld():
    return problems.gridworld()


@pytest.fixture(scope="module")
def learned(gridworld):
    """Problem, inner optimiser, meta-parameters of a critic that has been learned, and a task."""
    problem, inner = learned_advantage(gridworld, mj.sgd(RATE, STEPS), hidden=(4,))
    meta = jax.jit(problem.init)(jax.random.key(0))
    return problem, inner, meta, problem.sample_task(jax.random.key(1))


def trained(meta):
    """As if it had been: no leaf is 0."""
    leaves, structure = jax.tree.flatten(meta["norml"])
    keys = jax.random.split(jax.random.key(5), len(leaves))
    noise = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return {**meta, "norml": jax.tree.unflatten(structure, noise)}


def test_the_critic_has_the_layers_it_was_given(gridworld):
    one, several = (
        jax.eval_shape(
            learned_advantage(gridworld, mj.sgd(RATE, STEPS), hidden=hidden)[0].init,
            jax.random.key(0),
        )
        for hidden in (4, (4,))
    )
    assert one == several
    with pytest.raises(ValueError, match="hidden: expected at least 1, got 0"):
        learned_advantage(gridworld, mj.sgd(RATE, STEPS), hidden=(0,))


def test_at_first_it_is_maml(gridworld, learned):
    problem, inner, meta, task = learned
    actual = jax.jit(lambda meta: run(problem, inner, meta, task, jax.random.key(2))[0])(meta)
    expected = jax.jit(
        lambda params: run(gridworld, mj.sgd(RATE, STEPS), params, task, jax.random.key(2))[0]
    )(meta["params"])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), actual["params"], expected)


def test_meta_gradient_matches_finite_differences_in_x64():
    point = problems.point("log_prob")  # the value of a ratio to itself does not move
    problem, inner = learned_advantage(point, mj.sgd(RATE, STEPS), hidden=(4,))
    meta = trained(jax.jit(problem.init)(jax.random.key(0)))
    task = problem.sample_task(jax.random.key(1))
    collect = jax.jit(problem.collect)
    keys = jax.random.split(jax.random.key(2), STEPS + 1)
    *batches, judged = (collect(meta, task, key) for key in keys)

    def plain(meta, batches):
        """Steps without the engine's record, and their gradients."""
        fast, slow = inner.split(meta)
        state, recorded = inner.optimizer.init(fast), []
        for batch in batches:
            gradient = jax.grad(lambda fast, b=batch: problem.inner_loss(merge(fast, slow), b)[0])
            recorded.append(gradient(fast))
            fast, state = descend(inner.optimizer, recorded[-1], state, fast, meta=meta)
        return problem.outer_loss(merge(fast, slow), judged)[0], recorded

    def every(meta, batches):
        loss, recorded = plain(meta, batches)
        record = Record(*(jax.tree.map(lambda *x: jnp.stack(x), *t) for t in (batches, recorded)),
                        judged)  # fmt: skip

        def objective(meta):
            return problem.outer_loss(replay(problem, inner, meta, record), judged)[0]

        return loss, jax.grad(objective)(meta)

    with jax.enable_x64(True):
        meta, batches, judged = to_x64((meta, batches, judged))
        compiled = jax.jit(every)
        gradient = compiled(meta, batches)[1]
        error = directional_error(
            lambda meta: compiled(meta, batches)[0], gradient, meta, jax.random.key(4)
        )
    assert error < 1e-6
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["norml"]))


def test_it_teaches_where_no_episode_was_rewarded(gridworld, learned):
    *_, meta, task = learned

    def collect(params, task, key):
        nothing = jnp.zeros((6, 4))
        return dataclasses.replace(
            gridworld.collect(params, task, key), advantage=nothing, reward=nothing
        )

    unrewarded = gridworld._replace(collect=collect)
    learner = mj.norml(unrewarded, mj.sgd(RATE, STEPS), optax.sgd(1.0), tasks=2, hidden=(4,))
    adapt = jax.jit(lambda meta: learner.adapt(meta, task, jax.random.key(3))[0]["params"])
    jax.tree.map(np.testing.assert_array_equal, adapt(meta), meta["params"])
    offset = jax.tree.map(jnp.zeros_like, meta["params"])
    critic = {**trained(meta), "norml": {**trained(meta)["norml"], "offset": offset}}
    moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), adapt(critic), meta["params"])
    assert all(change > 0 for change in jax.tree.leaves(moved))


def test_what_says_how_wide_features_are_is_traced_once(gridworld):
    traced = []

    def collect(params, task, key):
        traced.append(params)
        return gridworld.collect(params, task, key)

    watched = gridworld._replace(collect=collect)
    problem, _ = learned_advantage(watched, mj.sgd(RATE, STEPS), hidden=(4,))
    for _ in range(2):  # a function of its own each time, for jax remembers a trace
        jax.eval_shape(lambda key: problem.init(key), jax.random.key(0))
    assert len(traced) == 1


@hypothesis.given(st.integers(0, 2**32 - 1), st.booleans())
@hypothesis.settings(max_examples=25, deadline=None)
def test_a_first_visit_is_one_that_no_earlier_observation_equals(seed, floats):
    rng = np.random.default_rng(seed)
    observation = rng.integers(0, 2, (6, 3, 2, 2))
    observation = observation.astype(np.float32) * -0.5 if floats else observation.astype(bool)
    expected = [
        [
            not any((observation[j, b] == observation[t, b]).all() for j in range(t))
            for b in (0, 1, 2)
        ]
        for t in range(6)
    ]
    np.testing.assert_array_equal(jax.jit(first_visits)(observation), expected)


def test_features_are_of_the_step_and_of_what_it_led_to():
    observation = jnp.array([[[1.0]], [[2.0]], [[1.0]], [[3.0]]])
    action, mask = jnp.ones((4, 1, 1)), jnp.array([[1.0], [1.0], [1.0], [0.0]])
    reward = jnp.array([[0.0], [0.5], [0.0], [0.0]])
    features, known = jax.jit(transition_features)(observation, action, reward, mask)
    np.testing.assert_array_equal(known[:, 0], [1, 1, 0, 0])
    #                                            o  a  o' r   t/T  new  rewards differ
    np.testing.assert_allclose(features[0, 0], [1, 1, 2, 0, 0.0, 1, 1])
    np.testing.assert_allclose(features[1, 0], [2, 1, 1, 0.5, 0.25, 0, 1])


@pytest.mark.parametrize("problem", [problems.quadratic(), problems.point("dice")])
def test_a_problem_without_advantages_is_refused(problem):
    with pytest.raises(ValueError, match="problem: a learned advantage is for policy gradients"):
        mj.norml(problem, mj.sgd(0.1), optax.sgd(0.1), 4)


def test_the_offset_is_added_once():
    gridworld = problems.gridworld()

    def collect(params, task, key):
        nothing = jnp.zeros((6, 4))
        batch = gridworld.collect(params, task, key)
        return dataclasses.replace(batch, advantage=nothing, reward=nothing)

    unrewarded = gridworld._replace(collect=collect)
    learner = mj.norml(unrewarded, mj.sgd(0.5, 3), optax.sgd(1.0), tasks=2, hidden=(4,))
    meta = learner.init(jax.random.key(0)).params
    offset = jax.tree.map(jnp.ones_like, meta["params"])
    meta = {**meta, "norml": {**meta["norml"], "offset": offset}}
    task = gridworld.sample_task(jax.random.key(1))
    adapted, _ = jax.jit(learner.adapt)(meta, task, jax.random.key(2))
    expected = jax.tree.map(lambda leaf: leaf + 1.0, meta["params"])
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), adapted["params"], expected
    )


def test_a_step_whose_outcome_is_not_known_has_no_learned_advantage():
    gridworld = problems.gridworld()
    problem, _ = learned_advantage(gridworld, mj.sgd(0.5, 2), hidden=(4,))
    meta = problem.init(jax.random.key(0))
    meta["norml"] = jax.tree.map(lambda leaf: leaf + 0.3, meta["norml"])
    task = gridworld.sample_task(jax.random.key(1))
    batch = jax.jit(gridworld.collect)(meta["params"], task, jax.random.key(2))
    single = dataclasses.replace(batch, mask=batch.mask.at[1:].set(0.0))
    learned, given = jax.jit(problem.inner_loss), jax.jit(gridworld.inner_loss)
    loss = learned(meta, single)[0]
    np.testing.assert_allclose(loss, given(meta["params"], single)[0], rtol=1e-6)
    assert learned(meta, batch)[0] != given(meta["params"], batch)[0]


def test_a_step_that_was_not_taken_has_no_reward_to_differ():
    reward, mask = jnp.array([[0.5], [9.0]]), jnp.array([[1.0], [0.0]])
    ones = jnp.ones((2, 1, 1))
    features, _ = jax.jit(transition_features)(ones, ones, reward, mask)
    assert features[0, 0, -1] == 0
