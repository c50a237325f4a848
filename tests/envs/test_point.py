"""Point navigation: the definition, and the exact figures it implies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import PointNavigation
from envs.point import PointTask

ENV = PointNavigation()


def _tasks(goals):
    goals = jnp.asarray(goals, jnp.float32)
    return PointTask(goal=goals, horizon=jnp.full(goals.shape[:1], 100, jnp.int32))


def _lattice(points):
    """The midpoints of `points` by `points` equal squares of [-0.5, 0.5]^2."""
    line = (np.arange(points) + 0.5) / points - 0.5
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def _undiscounted(goals, actions):
    """Returns of `actions` [T, 2], the same for every goal."""

    def run(task):
        def step(carry, action):
            state, over = carry
            state, timestep = ENV.step(jax.random.key(0), state, action, task)
            reward = jnp.where(over, 0.0, timestep.reward)
            return (state, over | timestep.terminated | timestep.truncated), reward

        state, _ = ENV.reset(jax.random.key(0), task)
        return jax.lax.scan(step, (state, jnp.array(False)), actions)[1].sum()

    return jax.jit(jax.vmap(run))(_tasks(goals))


@pytest.mark.smoke
def test_mean_optimum_is_the_integral_over_goals():
    """-0.506; on the 40 goals of cbfinn/maml_rl, which are a little farther off, it is -0.54."""
    goals = _lattice(64)
    left = np.maximum(np.abs(goals)[:, None] - 0.1 * np.arange(1, 6)[:, None], 0)
    optimal = jax.jit(jax.vmap(ENV.optimal_return))(_tasks(goals))
    np.testing.assert_allclose(optimal, -np.hypot(*left.T).sum(axis=0), atol=1e-5)
    assert optimal.mean() == pytest.approx(-0.506, abs=1e-3)


def test_standing_still_costs_a_hundred_mean_distances():
    """The mean distance from the centre of a unit square: (sqrt 2 + log(1 + sqrt 2)) / 6 = 0.38260.

    The published -40.1 is of 40 goals: well within their spread, 100 * 0.14 / sqrt 40 = 2.3.
    """
    mean_distance = (np.sqrt(2) + np.log1p(np.sqrt(2))) / 6
    still = _undiscounted(_lattice(64), jnp.zeros((100, 2)))
    assert still.mean() == pytest.approx(-100 * mean_distance, rel=1e-3)


def test_goals_are_uniform_in_the_square():
    tasks = jax.jit(jax.vmap(ENV.sample_task))(jax.random.split(jax.random.key(0), 4000))
    goals = np.asarray(tasks.goal)
    assert np.abs(goals).max() <= 0.5
    counts, *_ = np.histogram2d(*goals.T, bins=4, range=[[-0.5, 0.5]] * 2)
    assert np.abs(counts - 250).max() < 4.5 * np.sqrt(250)


@pytest.mark.smoke
def test_a_walk_by_hand():
    task = PointTask(goal=jnp.array([0.25, -0.1]), horizon=jnp.int32(5))
    key = jax.random.key(0)
    step = jax.jit(ENV.step)
    state, timestep = ENV.reset(key, task)
    assert timestep.observation.tolist() == [0, 0]
    state, timestep = step(key, state, jnp.array([9.0, -0.05]), task)  # clipped along x only
    np.testing.assert_allclose(timestep.observation, [0.1, -0.05], atol=1e-7)
    assert timestep.reward == pytest.approx(-np.hypot(0.15, 0.05))
    state, timestep = step(key, state, jnp.array([0.1, -0.05]), task)
    assert not timestep.terminated
    state, timestep = step(key, state, jnp.array([0.045, 0.012]), task)
    assert not timestep.terminated  # near along x only
    state, timestep = step(key, state, jnp.array([0.0, -0.007]), task)
    assert timestep.terminated
    assert not timestep.truncated
    assert timestep.reward == pytest.approx(-np.hypot(0.005, 0.005), abs=1e-6)
    _, timestep = step(key, state, jnp.array([0.1, 0.1]), task)
    assert timestep.truncated
    assert not timestep.terminated
