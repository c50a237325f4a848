"""The gridworld of VariBAD, its exact optima, and walls that a task may add."""

import dataclasses

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import Gridworld
from envs.grids import pack, unpack
from envs.gridworld import GridworldTask


def _task(start, goal, walls, horizon):
    return GridworldTask(
        walls=pack(jnp.asarray(walls)),
        start=jnp.array(start, jnp.int32),
        goal=jnp.array(goal, jnp.int32),
        horizon=jnp.int32(horizon),
    )


def _goals(size):
    return [(r, c) for r in range(size) for c in range(size) if r > 1 or c > 1]


@pytest.mark.parametrize("size", [3, 5])
def test_goals_are_uniform_outside_the_block_of_the_start(size):
    env, count = Gridworld(size=size), 8000
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), count))
    goals, counts = np.unique(np.asarray(tasks.goal), axis=0, return_counts=True)
    assert sorted(map(tuple, goals.tolist())) == _goals(size)
    share = 1 / len(goals)
    assert np.abs(counts / count - share).max() < 4.5 * np.sqrt(share / count)
    assert not np.asarray(tasks.start).any()
    for words in np.unique(np.asarray(tasks.walls), axis=0):
        assert not reference.walls_of(words, size).any()


@pytest.mark.smoke
def test_optimum_is_the_published_one():
    """Given the goal, 11.071 an episode on average: the exact figure from the second episode on,
    where a Bayes-optimal agent of VariBAD's setting has found it."""
    env = Gridworld()
    open_grid = np.zeros((5, 5), bool)
    tasks = [_task((0, 0), goal, open_grid, 15) for goal in _goals(5)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    optimal = jax.jit(jax.vmap(env.optimal_return))(batch)
    assert optimal.mean() == pytest.approx(11.071, abs=5e-4)
    steps = np.array([row + column for row, column in _goals(5)])
    np.testing.assert_allclose(optimal, -0.1 * (steps - 1) + (15 - steps + 1), rtol=1e-6)


def _best_return(walls, start, goal, horizon):
    """By dynamic programming over squares and time."""
    squares = [tuple(square) for square in np.argwhere(~walls).tolist()]
    value = dict.fromkeys(squares, 0.0)
    for _ in range(horizon):
        paid = {square: value[square] + (1.0 if square == goal else -0.1) for square in squares}
        value = {
            (row, column): max(
                paid.get((row + down, column + right), paid[row, column])
                for down, right in [(0, 0), *reference.MOVES]
            )
            for row, column in squares
        }
    return value[start]


def test_optimum_among_walls_is_that_of_dynamic_programming():
    env, start = Gridworld(size=6, horizon=12), (0, 0)
    tasks, expected = [], []
    for seed in range(60):
        walls = reference.random_walls(seed, 6, 6, 0.35)
        goal = (seed % 6, seed // 6 % 6)
        walls[start] = walls[goal] = False
        tasks.append(_task(start, goal, walls, 1 + seed % 12))
        expected.append(_best_return(walls, start, goal, 1 + seed % 12))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    optimal = jax.jit(jax.vmap(env.optimal_return))(batch)
    np.testing.assert_allclose(optimal, expected, atol=1e-5)
    assert len({seed for seed, best in enumerate(expected) if best < 0}) > 5


def test_moves_walls_and_rewards_by_hand():
    env = Gridworld(size=3, horizon=4)
    walls = np.zeros((3, 3), bool)
    walls[0, 1] = True
    task = _task((0, 0), (2, 0), walls, 4)
    key = jax.random.key(0)
    step = jax.jit(env.step)
    state, timestep = jax.jit(env.reset)(key, task)
    assert timestep.observation.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    expected = [  # action, square, reward, truncated
        (2, 0, -0.1, False),  # right, into the wall
        (1, 0, -0.1, False),  # up, off the grid
        (3, 3, -0.1, False),  # down
        (3, 6, 1.0, True),  # down, to the goal
    ]
    for action, square, reward, truncated in expected:
        state, timestep = step(key, state, jnp.int32(action), task)
        assert np.argmax(timestep.observation) == square
        assert timestep.observation.sum() == 1
        assert timestep.reward == pytest.approx(reward)
        assert not timestep.terminated
        assert timestep.truncated == truncated
    state = dataclasses.replace(state, steps=jnp.int32(0))
    _, timestep = step(key, state, jnp.int32(0), task)  # stays, and is paid again
    assert timestep.reward == 1.0


def test_with_random_starts_the_goal_is_uniform_over_all_squares_but_the_start():
    env, count = Gridworld(size=3, random_start=True), 8000
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), count))
    ends = np.concatenate([tasks.start, tasks.goal], axis=1)
    pairs, counts = np.unique(ends, axis=0, return_counts=True)
    assert len(pairs) == 9 * 8
    assert not (pairs[:, :2] == pairs[:, 2:]).all(axis=1).any()
    assert np.abs(counts / count - 1 / 72).max() < 4.5 * np.sqrt(1 / 72 / count)


def test_walls_are_as_dense_as_asked():
    env = Gridworld(size=9, density=0.1)
    draw = jax.jit(jax.vmap(lambda key: env.sample_task(key).walls))
    walls = unpack(draw(jax.random.split(jax.random.key(0), 50)), 9)
    assert np.mean(walls) == pytest.approx(0.1, abs=0.02)
