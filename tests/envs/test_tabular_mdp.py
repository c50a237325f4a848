"""The random decision processes of RL², and their published optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import TabularMDP
from envs.tabular_mdp import TabularMDPState, TabularMDPTask


@pytest.fixture(scope="module")
def tasks():
    keys = jax.random.split(jax.random.key(0), 4000)
    return jax.jit(jax.vmap(TabularMDP().sample_task))(keys)


def test_tasks_are_those_of_the_paper(tasks):
    assert tasks.transition.shape == (4000, 10, 5, 10)
    np.testing.assert_allclose(tasks.transition.sum(axis=-1), 1.0, atol=1e-6)
    # Of Dirichlet(1, ..., 1) over ten: mean 1/10, variance 9/1100.
    assert np.std(tasks.transition) == pytest.approx(np.sqrt(9 / 1100), rel=0.01)
    assert np.mean(tasks.reward) == pytest.approx(1.0, abs=0.01)
    assert np.std(tasks.reward) == pytest.approx(1.0, abs=0.01)


@pytest.mark.smoke
def test_mean_optimum_is_the_exact_one(tasks):
    """21.81 an episode where the process is known."""
    optimal = np.asarray(jax.jit(jax.vmap(TabularMDP().optimal_return))(tasks))
    assert optimal.mean() == pytest.approx(21.81, abs=4 * optimal.std() / np.sqrt(len(optimal)))


@pytest.mark.smoke
def test_states_and_rewards_are_as_likely_as_the_task_says():
    env, count = TabularMDP(states=4, actions=2), 20_000
    chance = np.array([0.0, 0.25, 0.75, 0.0], np.float32)
    transition = np.full((4, 2, 4), 0.25, np.float32)
    transition[2, 1] = chance
    reward = np.zeros((4, 2), np.float32)
    reward[2, 1] = -3.0
    task = TabularMDPTask(jnp.asarray(transition), jnp.asarray(reward), jnp.int32(5))
    state = TabularMDPState(jnp.int32(2), jnp.int32(0))
    step = jax.jit(jax.vmap(lambda key: env.step(key, state, jnp.int32(1), task)))
    after, timestep = step(jax.random.split(jax.random.key(1), count))
    found = np.bincount(after.state, minlength=4) / count
    assert (found[chance == 0] == 0).all()
    np.testing.assert_allclose(found, chance, atol=4 * 0.5 / np.sqrt(count))
    np.testing.assert_array_equal(np.argmax(timestep.observation, axis=1), after.state)
    assert np.mean(timestep.reward) == pytest.approx(-3.0, abs=4 / np.sqrt(count))
    assert np.std(timestep.reward) == pytest.approx(1.0, abs=4 / np.sqrt(2 * count))


def test_the_last_step_takes_the_greater_reward_and_earlier_ones_look_ahead():
    """State 1 pays 9 but is reached only by the action that pays less."""
    env = TabularMDP(states=2, actions=2, horizon=2)
    transition = jnp.array([[[1.0, 0.0], [0.0, 1.0]]] * 2)
    task = TabularMDPTask(transition, jnp.array([[1.0, 0.0], [9.0, 0.0]]), jnp.int32(2))
    for steps, action in ((0, 1), (1, 0)):
        state = TabularMDPState(jnp.int32(0), jnp.int32(steps))
        assert env.optimal_action(state, task) == action
    assert jax.jit(env.optimal_return)(task) == 9.0
    # An episode that has ended may be stepped on.
    ended = TabularMDPState(jnp.int32(0), jnp.int32(2))
    assert env.optimal_action(ended, task) in range(2)
