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

MAZES = [name for name, env in CONFIGURATIONS.items() if isinstance(env, Maze)]
every_plain_maze = pytest.mark.parametrize(
    "env", ["maze", "maze-sees-exit", "maze-position-only"], indirect=True
)
# Where nothing is random, episodes can be told from the actions alone.
every_certain_maze = pytest.mark.parametrize(
    "env", [name for name in MAZES if not CONFIGURATIONS[name].slip], indirect=True
)
every_maze = pytest.mark.parametrize("env", MAZES, indirect=True)


def _walls(env, episodes, index):
    return reference.walls_of(np.asarray(episodes.tasks.walls)[index], env.size)


def _one_hot(size, position):
    grid = np.zeros((size, size), bool)
    grid[position] = True
    return grid


def _window(env, grid, outside, position, heading):
    """The squares of `grid` that the agent looks at, as the class documents it."""
    reach = env.view
    padded = np.pad(grid, reach, constant_values=outside)
    row, column = position[0] + reach, position[1] + reach
    if heading is None:
        half = env.view // 2
        return padded[row - half : row + half + 1, column - half : column + half + 1]
    # Turned so that ahead is up, the agent's square is where it was before in a turned grid.
    marked = np.pad(_one_hot(env.size, position), reach)
    turned = np.rot90(padded, heading)
    row, column = np.argwhere(np.rot90(marked, heading))[0]
    half = env.view // 2
    return turned[row - env.view + 1 : row + 1, column - half : column + half + 1]


def _hidden(env, window, heading):
    """The squares of a window that a wall on the straight line from the agent hides."""
    side = env.view
    agent = (side // 2 if heading is None else side - 1, side // 2)
    hidden = np.zeros_like(window)
    for end in np.ndindex(side, side):
        steps = max(abs(end[0] - agent[0]), abs(end[1] - agent[1]))
        for step in range(1, steps):
            # The nearest square to the line; halves lie nearer to the agent.
            square = [
                a + int(np.copysign(np.ceil(abs((e - a) * step / steps) - 0.5), e - a))
                for a, e in zip(agent, end, strict=True)
            ]
            hidden[end] |= window[tuple(square)]
    return hidden


def _observation(env, walls, position, exit, heading):
    """As the class documents it."""
    parts = []
    hidden = False
    if env.view:
        seen = _window(env, walls, True, position, heading)
        hidden = _hidden(env, seen, heading) if env.occlusion else np.zeros_like(seen)
        parts.append((seen | hidden).ravel())
    if env.see_exit:
        exits = _window(env, _one_hot(env.size, exit), False, position, heading)
        parts.append((exits & ~hidden).ravel())
    if env.position:
        parts.append(_one_hot(env.size, position)[1:-1, 1:-1].ravel())
    if env.full:
        parts.append(walls.ravel())
        parts += [_one_hot(env.size, square).ravel() for square in (exit, position)]
    if heading is not None and (env.position or env.full):
        parts.append(np.arange(4) == heading)
    return np.concatenate(parts).astype(np.uint8)


def _one(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


@every_certain_maze
def test_episodes_are_those_of_a_maze_written_square_by_square(env, erring_episodes):
    episodes = erring_episodes
    for index in range(12):
        walls = _walls(env, episodes, index)
        task = _one(episodes.tasks, index)
        position, exit = (tuple(square.tolist()) for square in (task.start, task.exit))
        heading = None if task.heading is None else int(task.heading)
        for time in range(episodes.lengths[index] + 1):
            if time > 0:
                action = episodes.actions[index, time - 1]
                action = action if task.controls is None else task.controls[action]
                moves = heading is None or action == 2
                if heading is not None and action < 2:
                    heading = (heading + (-1, 1)[action]) % 4
                down, right = reference.MOVES[action if heading is None else heading]
                target = (position[0] + down, position[1] + right)
                position = target if moves and not walls[target] else position
                reward = 1 - 0.9 * time / env.horizon if position == exit else 0.0
                if task.rewards is not None:
                    reward += task.rewards[position]
                terminated = position == exit
                timesteps = episodes.timesteps
                assert timesteps.reward[index, time] == pytest.approx(reward, abs=1e-6)
                assert timesteps.terminated[index, time] == terminated
                assert timesteps.truncated[index, time] == (time == env.horizon and not terminated)
            assert tuple(episodes.states.position[index, time].tolist()) == position
            np.testing.assert_array_equal(
                episodes.timesteps.observation[index, time],
                _observation(env, walls, position, exit, heading),
            )


@every_maze
def test_the_agent_is_never_in_a_wall(env, random_episodes):
    for index in range(COUNT):
        rows, columns = random_episodes.states.position[index].T
        assert not _walls(env, random_episodes, index)[rows, columns].any()


@every_plain_maze
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


@pytest.mark.parametrize("density", [0.1, 0.4])
def test_the_exit_is_far_behind_scattered_walls_too(density):
    env = Maze(size=9, generator="scatter", density=density, random_start=True)
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), 50))
    for words, start, exit in zip(tasks.walls, tasks.start, tasks.exit, strict=True):
        walls = reference.walls_of(np.asarray(words), 9)
        moves = reference.distances(walls, tuple(map(int, start)))
        assert 2 * moves[tuple(map(int, exit))] >= max(moves.values()) > 0


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
    state, timestep = jax.jit(env.reset)(key, task)
    assert jax.jit(env.optimal_return)(task) == pytest.approx(1 - 0.9 * 3 / 10)
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
    assert jax.jit(env.optimal_return)(task) == pytest.approx(1 - 0.9 * distance / 1000)
    state, _ = jax.jit(env.reset)(key, task)
    best_step = jax.jit(lambda state: env.step(key, state, env.optimal_action(state, task), task))
    for _ in range(distance):
        state, timestep = best_step(state)
    assert timestep.terminated


@every_plain_maze
def test_mazes_of_a_batch_differ(env):
    words = np.asarray(sample_tasks(env).walls)
    assert len(np.unique(words, axis=0)) > (1 if env.size == 5 else COUNT // 2)


def test_tasks_of_all_kinds_are_of_all_kinds():
    env = CONFIGURATIONS["maze-of-all-kinds"]
    tasks = jax.tree.map(np.asarray, sample_tasks(env))
    walls = [reference.walls_of(words, env.size) for words in tasks.walls]
    sides = {np.argwhere(~grid).max() + 2 for grid in walls}
    assert sides == {5, 7, 9, 11}
    assert len(np.unique(tasks.start, axis=0)) > 10
    assert {tuple(sorted(row)) for row in tasks.controls.tolist()} == {(0, 1, 2, 3)}
    assert len(np.unique(tasks.controls, axis=0)) > 12
    assert tasks.rewards.std() == pytest.approx(0.05, rel=0.05)
    env.check(sample_tasks(env))


def test_horizons_and_slips_are_uniform_over_their_ranges():
    env = Maze(size=5, horizon=20, shortest_horizon=11, slip=0.4)
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), 2000))
    horizons, counts = np.unique(np.asarray(tasks.horizon), return_counts=True)
    assert horizons.tolist() == list(range(11, 21))
    assert (np.abs(counts - 200) < 4 * np.sqrt(200)).all()
    slips = np.sort(np.asarray(tasks.slip))
    assert np.abs(slips - np.linspace(0, 0.4, 2000)).max() < 0.4 * 2 / np.sqrt(2000)


def test_a_slip_takes_any_action_as_often():
    env = Maze(size=5, horizon=5)
    task = env.from_text("#####\n#..X#\n#...#\n#S..#\n#####")
    task = dataclasses.replace(task, start=jnp.array([2, 2], jnp.int32), slip=jnp.float32(0.4))
    state, _ = jax.jit(env.reset)(jax.random.key(0), task)
    keys = jax.random.split(jax.random.key(1), 4000)
    step = jax.jit(jax.vmap(lambda key: env.step(key, state, jnp.int32(0), task)[0].position))
    squares, counts = np.unique(np.asarray(step(keys)), axis=0, return_counts=True)
    expected = {(1, 2): 0.7, (2, 3): 0.1, (3, 2): 0.1, (2, 1): 0.1}
    for square, count in zip(squares.tolist(), counts, strict=True):
        assert abs(count / 4000 - expected[tuple(square)]) < 4 * 0.5 / np.sqrt(4000)
    assert len(squares) == 4
