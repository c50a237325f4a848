"""Exploration's ε by meta-gradient, where every outcome of a task's batches is listed."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import envs
import metajax as mj
from envs.core import TimeStep, first_timestep

PAYS = np.array([0.2, 0.5, 1.0])  # of each arm
GUESSED = np.array([0.3, 0.1, 0.0])  # its first value: the worst arm looks best
EXPLORING, RATE, STEPS, EPSILON, SPEED = 3, 1.7, 2, 0.3, 2.0


class Arms:
    """One pull of an arm that pays what it always pays."""

    observation_space = envs.Box(1.0, 1.0, (1,))
    action_space = envs.Discrete(len(PAYS))
    max_horizon = 1

    def sample_task(self, key):
        return jnp.zeros(())

    def reset(self, key, task):
        return jnp.int32(0), first_timestep(jnp.ones(1))

    def step(self, key, state, action, task):
        pay = jnp.asarray(PAYS, jnp.float32)[action]
        return state + 1, TimeStep(jnp.ones(1), pay, jnp.array(True), jnp.array(False))


class Values:
    """One of each arm."""

    def init(self, key, observation, carry):
        return jnp.asarray(GUESSED, jnp.float32)

    def apply(self, params, observation, carry):
        values = jnp.broadcast_to(params, (*observation.shape[:-1], len(PAYS)))
        return values, jnp.zeros_like(values[..., 0]), carry


@pytest.fixture(scope="module", params=[False, True], ids=["fresh", "one-batch"])
def learner(request):
    """Whether all inner steps are on the first batch; a learner, its update compiled."""
    problem = mj.q_learning(
        Arms(),
        Values(),
        episodes=EXPLORING + 1,
        epsilon=EPSILON,
        judging_epsilon=0.0 if request.param else None,
    )
    learned, inner = mj.meta_learned(problem, mj.sgd(RATE, STEPS), ["epsilon"], speed=SPEED)
    # The log-probability is a mean over the exploring pulls, the return's derivative takes a sum.
    made = mj.emaml(learned, inner, optax.sgd(1.0), 4096, exploration=EXPLORING)
    return request.param, made._replace(update=jax.jit(made.update))


def expected_return(epsilon, one_batch, values=GUESSED, steps=STEPS):
    """After adaptation, by the chance of every batch: a greedy pull and the exploring ones."""
    if steps == 0:
        return PAYS[values.argmax()]
    greedy = values.argmax()
    chance = np.full(len(PAYS), epsilon / len(PAYS))
    chance[greedy] += 1 - epsilon
    total = 0.0
    for pulls in itertools.product(range(len(PAYS)), repeat=EXPLORING):
        count = np.bincount([greedy, *pulls], minlength=len(PAYS))
        after = values
        for _ in range(steps if one_batch else 1):
            after = after + RATE * count / (EXPLORING + 1) * (PAYS - after)
        left = 0 if one_batch else steps - 1
        total += chance[[*pulls]].prod() * expected_return(epsilon, one_batch, after, left)
    return total


def test_the_gradient_of_epsilon_is_that_of_the_expected_return_after_adaptation(learner):
    one_batch, made = learner
    h = 1e-6
    ends = (expected_return(EPSILON + sign * h, one_batch) for sign in (1, -1))
    slope = (next(ends) - next(ends)) / (2 * h)
    expected = -slope * SPEED * EPSILON * (1 - EPSILON)  # a loss, by log-odds
    state = made.init(jax.random.key(0))
    gradients = []
    for _ in range(24):
        after, _ = made.update(state)
        gradients.append(-after.params["hyper"]["epsilon"])
        state = dataclasses.replace(after, params=state.params)
    error = np.std(gradients) / np.sqrt(len(gradients))
    assert error < 0.01 * abs(expected)
    assert abs(np.mean(gradients) - expected) < 4 * error


def test_an_epsilon_that_is_too_low_is_learned_to_be_higher(learner):
    _, made = learner
    state = made.init(jax.random.key(0))
    rows = []
    for _ in range(8):
        state, metrics = made.update(state)
        rows.append(metrics)
    np.testing.assert_allclose(rows[0]["learned_epsilon"], EPSILON, rtol=1e-6)
    assert rows[-1]["learned_epsilon"] > 0.6
    assert rows[-1]["score_after"] > rows[0]["score_after"] + 0.1


def test_rounding_of_equal_scores_is_no_credit():
    class Costly(Arms):
        max_horizon = 7

        def step(self, key, state, action, task):
            cost, over = jnp.float32(-0.1), state + 1 >= self.max_horizon
            return state + 1, TimeStep(jnp.ones(1), cost, jnp.array(False), over)

    problem = mj.policy_gradient(Costly(), Values(), episodes=3)
    learner = mj.emaml(problem, mj.sgd(RATE), optax.sgd(1.0), 7, normalise=True)
    _, metrics = jax.jit(learner.update)(learner.init(jax.random.key(0)))
    assert metrics["gradient_norm"] == 0.0


def test_q_learning_with_a_given_epsilon_has_nothing_to_credit():
    problem = mj.q_learning(Arms(), Values(), episodes=2)
    with pytest.raises(ValueError, match="E-MAML needs one that samples"):
        mj.emaml(problem, mj.sgd(RATE), optax.sgd(1.0), 2)


def test_normalised_credit_is_in_units_of_the_scores_deviation():
    problem = problems.quadratic()._replace(log_prob=lambda p, task: p["theta"] @ task["centre"])

    with jax.enable_x64(True):

        def step(**options):
            learner = mj.emaml(problem, mj.sgd(RATE, STEPS), optax.sgd(1.0), 4, **options)
            state = learner.init(jax.random.key(0))
            return state, np.asarray(jax.jit(learner.update)(state)[0].params["theta"])

        state, none = step(exploration=0.0)
        plain, scaled = (step(normalise=normalise)[1] - none for normalise in (False, True))
        adapt = mj.adaptation(problem, mj.sgd(RATE, STEPS))
        keys = jax.random.split(jax.random.fold_in(state.key, 0), 4)
        scores = [
            adapt(state.params, problem.sample_task(jax.random.split(key)[0]), key)[1].score[-1]
            for key in keys
        ]
    np.testing.assert_allclose(scaled, plain / np.std(scores), rtol=1e-6)
