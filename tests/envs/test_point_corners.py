"""ProMP's corners: the definition, against one written after its source, and why no oracle."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import PointCorners
from envs.point import PointTask

ENV = PointCorners()
CORNERS = np.array([[-2, -2], [2, -2], [-2, 2], [2, 2]], np.float32)


def published_reward(before, after, goal):
    """`MetaPointEnvCorner.reward`, "sparse", branch for branch."""
    if np.abs(after).sum() < 0.5:
        return 0.0
    distances = np.linalg.norm(after - CORNERS, axis=1)
    if np.linalg.norm(after - goal) == distances.min():
        return np.linalg.norm(before - goal) - np.linalg.norm(after - goal)
    return 0.0


@pytest.fixture(scope="module")
def walk():
    """start (2,), actions (T, 2), goal (2,) -> positions (T+1, 2) and rewards (T,)."""

    @jax.jit
    def run(start, actions, goal):
        task = PointTask(goal, jnp.int32(100))
        state, _ = ENV.reset(jax.random.key(0), task)

        def step(state, action):
            state, timestep = ENV.step(jax.random.key(0), state, action, task)
            return state, (timestep.observation, timestep.reward)

        first = type(state)(start, state.steps)
        _, (positions, rewards) = jax.lax.scan(step, first, actions)
        return jnp.concatenate([start[None], positions]), rewards

    return run


def test_rewards_are_the_published_ones(walk):
    random = np.random.default_rng(0)
    paid = 0
    for goal in CORNERS:
        for _ in range(5):
            start = random.uniform(-0.2, 0.2, 2).astype(np.float32)
            actions = random.normal(goal / 40, 0.2, size=(100, 2)).astype(np.float32)
            positions, rewards = map(np.asarray, walk(start, actions, goal))
            moves = np.diff(positions, axis=0)
            np.testing.assert_allclose(moves, np.clip(actions, -0.2, 0.2), atol=1e-6)
            pairs = itertools.pairwise(positions)
            expected = [published_reward(before, after, goal) for before, after in pairs]
            np.testing.assert_allclose(rewards, expected, atol=1e-6)
            paid += np.count_nonzero(rewards)
    assert paid > 500


def test_who_goes_in_and_out_earns_more_than_who_arrives(walk):
    goal = jnp.array([2.0, 2.0])
    straight = jnp.full((100, 2), 0.2).at[10:].set(0.0)
    in_and_out = jnp.where((jnp.arange(100) % 2 == 0)[:, None], 0.2, -0.2) * jnp.ones((100, 2))
    start = jnp.array([0.15, 0.15])
    arrives, cycles = (walk(start, actions, goal)[1].sum() for actions in (straight, in_and_out))
    assert 2.2 < arrives < 2.7
    assert cycles == pytest.approx(50 * 0.2 * np.sqrt(2), abs=1e-3)


def test_corners_are_equally_likely_and_starts_uniform():
    keys = jax.random.split(jax.random.key(0), 4000)
    tasks = jax.jit(jax.vmap(ENV.sample_task))(keys)
    counts = (np.asarray(tasks.goal)[:, None] == CORNERS).all(-1).sum(0)
    assert counts.sum() == 4000
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(1000)
    _, timestep = jax.jit(jax.vmap(ENV.reset))(keys, tasks)
    starts = np.asarray(timestep.observation)
    assert 0.19 < np.abs(starts).max() <= 0.2
    counts, *_ = np.histogram2d(*starts.T, bins=4, range=[[-0.2, 0.2]] * 2)
    assert np.abs(counts - 250).max() < 4.5 * np.sqrt(250)
