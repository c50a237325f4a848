"""A picture shows what is there, where it is."""

import itertools

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_episodes import first_task

import envs
from envs import grids, render
from envs.gridworld import GridworldState, GridworldTask
from envs.maze import MazeState, MazeTask
from envs.point import PointTask

PIXELS = 180
PICTURED = ["maze", "gridworld", "point"]


def _middle(picture, square, side):
    """The colour in the middle of a square."""
    row, column = ((np.array(square) + 0.5) * len(picture) / side).astype(int)
    return picture[row, column].astype(int)


def _near(colour, other):
    return np.abs(colour - np.round(other)).max() <= 1


def _corridor():
    walls = np.ones((5, 5), bool)
    walls[1, 1:4] = False
    task = MazeTask(
        walls=grids.pack(jnp.asarray(walls)),
        start=jnp.array([1, 1], jnp.int32),
        exit=jnp.array([1, 3], jnp.int32),
        horizon=jnp.int32(9),
    )
    return envs.Maze(size=5), task


def test_a_maze_shows_walls_floor_exit_agent_and_trail():
    env, task = _corridor()
    first = render.frame(env, task, (1, 1), pixels=PIXELS)
    assert first.shape == (PIXELS, PIXELS, 3)
    assert first.dtype == np.uint8
    assert _near(_middle(first, (3, 2), 5), render._WALL)
    assert _near(_middle(first, (1, 2), 5), render._PAPER)
    assert _near(_middle(first, (1, 1), 5), render._AGENT)
    assert _near(_middle(first, (1, 3), 5), render._GOAL)
    later = render.frame(env, task, (1, 3), trail=[(1, 1), (1, 2)], pixels=PIXELS)
    assert _near(_middle(later, (1, 3), 5), render._AGENT)
    # The second of two parts starts in the middle of its square, over the first one's end.
    assert _near(_middle(later, (1, 2), 5), render._TRAIL[1])
    assert not _near(_middle(later, (1, 1), 5), render._AGENT)


@pytest.mark.parametrize("size", [9, 31, 63])
def test_every_square_of_a_maze_has_its_colour(size):
    env = envs.Maze(size=size)
    walls = reference.random_walls(size, size, size, 0.5)
    task = MazeTask(grids.pack(jnp.asarray(walls)), jnp.array([1, 1]), jnp.array([1, 1]), 9)
    picture = render.frame(env, task, (1, 1), pixels=12 * size)
    for square in np.argwhere(np.ones_like(walls)).tolist():
        if square != [1, 1]:
            dark = _middle(picture, square, size).mean() < 150
            assert dark == walls[tuple(square)]


@pytest.mark.parametrize("id", PICTURED)
def test_frames_grow_to_the_picture_of_the_whole_episode(id):
    env = envs.make(id)
    positions = [(1, 1), (1, 2), (2, 2), (2, 3), (0, 0)]
    if id == "point":
        positions = np.array(positions) * 0.1
    task = first_task(env)
    found = render.frames(env, task, positions, 4, PIXELS)
    assert found.shape == (4, PIXELS, PIXELS, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(
        found[-1], render.frame(env, task, positions[3], positions[:3], PIXELS)
    )
    for one, next_one in itertools.pairwise(found):
        assert (one != next_one).any()


def test_the_plane_has_x_to_the_right_and_y_upwards():
    task = PointTask(goal=jnp.array([0.5, 0.3]), horizon=jnp.int32(9))
    picture = render.frame(envs.PointNavigation(), task, (-0.4, 0.2), pixels=300)
    # Twenty pixels a stride of 0.1, (0, 0) in the middle.
    assert _near(picture[150 - 60, 150 + 100].astype(int), render._GOAL)
    assert _near(picture[150 - 40, 150 - 80].astype(int), render._AGENT)


def test_an_agent_outside_the_visible_plane_is_not_drawn():
    task = PointTask(goal=jnp.array([0.5, 0.3]), horizon=jnp.int32(9))
    picture = render.frame(envs.PointNavigation(), task, (7.0, -3.0), [(0.0, 0.0), (7.0, -2.9)])
    assert not (np.abs(picture - render._AGENT).max(axis=-1) <= 1).any()


@pytest.mark.smoke
def test_text_of_a_maze_and_of_a_gridworld():
    env, task = _corridor()
    state = MazeState(position=jnp.array([1, 2], jnp.int32), steps=jnp.int32(1))
    lines = ["█" * 10, "██o @ X ██", "█" * 10, "█" * 10, "█" * 10]
    assert render.text(env, task, state).splitlines() == lines
    open_grid = GridworldTask(
        walls=grids.pack(jnp.zeros((3, 3), bool)),
        start=jnp.array([0, 0], jnp.int32),
        goal=jnp.array([2, 1], jnp.int32),
        horizon=jnp.int32(9),
    )
    state = GridworldState(position=jnp.array([0, 0], jnp.int32), steps=jnp.int32(0))
    lines = ["@ · ·", "· · ·", "· X ·"]
    assert render.text(envs.Gridworld(size=3), open_grid, state).splitlines() == lines


@pytest.mark.smoke
def test_bad_input_is_refused_in_one_line():
    env, task = _corridor()
    bandit = envs.BernoulliBandit()
    arms = bandit.sample_task(jax.random.key(0))
    with pytest.raises(ValueError, match="got BernoulliBandit, expected Maze, Gridworld or"):
        render.frame(bandit, arms, (0, 0))
    with pytest.raises(ValueError, match="pixels: got 8, expected at least 32"):
        render.frame(env, task, (1, 1), pixels=8)
    with pytest.raises(ValueError, match="length: got 3, expected from 1 to 2"):
        render.frames(env, task, [(1, 1), (1, 2)], 3)
