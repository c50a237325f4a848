"""The maze, against one written a square at a time in numpy."""

import dataclasses

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_episodes import CONFIGURATIONS, COUNT, sample_tasks

from envs import Maze
from envs.grids import pack
from envs.maze import MazeTask

MAZES = [name for name, (id, _) in CONFIGURATIONS.items() if id == "maze"]
every_maze = pytest.mark.parametrize("env", MAZES, indirect=True)


def _walls(env, episodes, index):
    return reference.walls_of(np.asarray(episodes.tasks.walls)[index], env.size)


def _observation(env, walls, position, exit):
    """As the class documents it."""
    reach = env.view // 2
    padded = np.pad(walls, reach, constant_values=True)
    row, column = position
    parts = [padded[row : row + env.view, column : column + env.view].ravel()]
    if env.see_exit:
        exits = np.pad(np.zeros_like(walls), reach)
        exits[exit[0] + reach, exit[1] + reach] = True
        parts.append(exits[row : row + env.view, column : column + env.view].ravel())
    if env.position:
        here = np.zeros((env.size - 2, env.size - 2), bool)
        here[row - 1, column - 1] = True
        parts.append(here.ravel())
    return np.concatenate(parts).astype(np.uint8)


@every_maze
def test_episodes_are_those_of_a_maze_written_square_by_square(env, erring_episodes):
    episodes = erring_episodes
    for index in range(12):
        walls = _walls(env, episodes, index)
        position = tuple(np.asarray(episodes.tasks.start)[index].tolist())
        exit = tuple(np.asarray(episodes.tasks.exit)[index].tolist())
        for time in range(episodes.lengths[index] + 1):
            if time > 0:
                down, right = reference.MOVES[episodes.actions[index, time - 1]]
                target = (position[0] + down, position[1] + right)
                position = position if walls[target] else target
                reward = 1 - 0.9 * time / env.horizon if position == exit else 0.0
                terminated = position == exit
                timesteps = episodes.timesteps
                assert timesteps.reward[index, time] == pytest.approx(reward, abs=1e-6)
                assert timesteps.terminated[index, time] == terminated
                assert timesteps.truncated[index, time] == (time == env.horizon and not terminated)
            assert tuple(episodes.states.position[index, time].tolist()) == position
            np.testing.assert_array_equal(
                episodes.timesteps.observation[index, time],
                _observation(env, walls, position, exit),
            )


@every_maze
def test_the_agent_is_never_in_a_wall(env, random_episodes):
    for index in range(COUNT):
        rows, columns = random_episodes.states.position[index].T
        assert not _walls(env, random_episodes, index)[rows, columns].any()


@every_maze
def test_the_exit_is_far_and_the_oracle_takes_the_shortest_path(env, optimal_episodes):
    for index in range(COUNT):
        start, exit = (
            tuple(np.asarray(leaf)[index].tolist())
            for leaf in (optimal_episodes.tasks.start, optimal_episodes.tasks.exit)
        )
        assert start == (1, 1)
        assert exit[0] % 2 == exit[1] % 2 == 1
        steps = reference.distances(_walls(env, optimal_episodes, index), start)
        assert 2 * steps[exit] >= max(steps.values())
        best = 1 - 0.9 * steps[exit] / env.horizon if steps[exit] <= env.horizon else 0.0
        assert optimal_episodes.optimal[index] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(("far_exit", "expected"), [(True, 2), (False, 3)])
def test_the_exit_is_uniform_over_the_far_half_or_all_cells_but_the_start(far_exit, expected):
    """Among all the mazes that come out alike."""
    env, count = Maze(size=5, far_exit=far_exit), 4000
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), count))
    words, exits = np.asarray(tasks.walls)[..., 0], np.asarray(tasks.exit)
    kinds = np.unique(words, axis=0)
    assert len(kinds) == 2  # 2 by 2 cells: the path goes round one way or the other
    for kind in kinds:
        alike = exits[(words == kind).all(axis=1)]
        cells, counts = np.unique(alike, axis=0, return_counts=True)
        # Moves from the start: 2, 4 and 6 of which the far half is 4 and 6.
        assert len(cells) == expected
        assert (np.abs(counts / len(alike) - 1 / expected) < 4 * 0.5 / np.sqrt(len(alike))).all()
        assert [1, 1] not in cells.tolist()


@pytest.mark.smoke
def test_a_corridor_by_hand():
    """Five squares in a row, walked to the end, with every observation written out."""
    walls = np.ones((7, 7), bool)
    walls[1, 1:6] = False
    task = MazeTask(
        walls=pack(jnp.asarray(walls)),
        start=jnp.array([1, 1], jnp.int32),
        exit=jnp.array([1, 4], jnp.int32),
        horizon=jnp.int32(10),
    )
    env = Maze(size=7, horizon=10, position=False, see_exit=True)
    key = jax.random.key(0)
    state, timestep = env.reset(key, task)
    assert env.optimal_return(task) == pytest.approx(1 - 0.9 * 3 / 10)
    dead_end = [1, 1, 1, 1, 0, 0, 1, 1, 1]
    assert timestep.observation.tolist() == dead_end + [0] * 9
    step = jax.jit(env.step)
    state, timestep = step(key, state, jnp.int32(3), task)  # into the wall
    assert timestep.observation.tolist() == dead_end + [0] * 9
    state, timestep = step(key, state, jnp.int32(1), task)
    assert timestep.observation.tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1] + [0] * 9
    state, timestep = step(key, state, jnp.int32(1), task)
    assert timestep.observation[9:].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert (timestep.reward, timestep.terminated) == (0, False)
    state, timestep = step(key, state, jnp.int32(1), task)
    assert timestep.reward == pytest.approx(1 - 0.9 * 4 / 10)
    assert (timestep.terminated, timestep.truncated) == (True, False)
    # The exit on the very last step is an exit, not a time-out.
    last = dataclasses.replace(task, horizon=jnp.int32(4))
    before = dataclasses.replace(state, position=jnp.array([1, 3], jnp.int32), steps=jnp.int32(3))
    _, timestep = step(key, before, jnp.int32(1), last)
    assert (timestep.terminated, timestep.truncated) == (True, False)
    assert timestep.reward == pytest.approx(0.1)


def test_a_maze_wider_than_a_word_is_whole():
    env = Maze(size=35, horizon=1000)
    key_task, key = jax.random.split(jax.random.key(5))
    task = jax.jit(env.sample_task)(key_task)
    walls = reference.walls_of(np.asarray(task.walls), 35)
    steps = reference.distances(walls, (1, 1))
    assert len(steps) == (~walls).sum() == 2 * 17**2 - 1
    distance = steps[tuple(np.asarray(task.exit).tolist())]
    assert env.optimal_return(task) == pytest.approx(1 - 0.9 * distance / 1000)
    state, _ = env.reset(key, task)
    best_step = jax.jit(lambda state: env.step(key, state, env.optimal_action(state, task), task))
    for _ in range(distance):
        state, timestep = best_step(state)
    assert timestep.terminated


@every_maze
def test_mazes_of_a_batch_differ(env):
    words = np.asarray(sample_tasks(env).walls)
    assert len(np.unique(words, axis=0)) > (1 if env.size == 5 else COUNT // 2)
