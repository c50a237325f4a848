"""A picture shows what is there, where it is."""

import dataclasses
import itertools

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_episodes import first_task

import envs
from envs import grids, paint, render, tiles
from envs.gridworld import GridworldState, GridworldTask
from envs.maze import MazeState, MazeTask
from envs.minigrid import drawing, world
from envs.point import PointState, PointTask
from envs.trial import TrialState

PIXELS = 180
PICTURED = ["maze", "gridworld", "point", "point-corners"]


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
    assert _near(_middle(first, (3, 2), 5), paint.WALL)
    assert _near(_middle(first, (1, 2), 5), paint.PAPER)
    assert _near(_middle(first, (1, 1), 5), paint.AGENT)
    assert _near(_middle(first, (1, 3), 5), paint.GOAL)
    later = render.frame(env, task, (1, 3), trail=[(1, 1), (1, 2)], pixels=PIXELS)
    assert _near(_middle(later, (1, 3), 5), paint.AGENT)
    # The second of two parts starts in the middle of its square, over the first one's end.
    assert _near(_middle(later, (1, 2), 5), paint.TRAIL[1])
    assert not _near(_middle(later, (1, 1), 5), paint.AGENT)


def test_an_agent_with_a_heading_is_drawn_facing_it():
    env, task = envs.Maze(size=5, heading=True), _corridor()[1]
    pictures = []
    for heading in range(4):
        task = dataclasses.replace(task, heading=jnp.int32(heading))
        state, _ = jax.jit(env.reset)(jax.random.key(0), task)
        pictures.append(render.still(env, state, task, PIXELS))
        first = render.sheet(env, jax.tree.map(lambda leaf: leaf[None], task), pixels=PIXELS)
        np.testing.assert_array_equal(first[11:-11, 11:-11], pictures[-1])
    # What of its square the agent covers when it faces up, turned clockwise.
    up, *others = (np.abs(picture[36:72, 36:72] - paint.AGENT).max(-1) <= 1 for picture in pictures)
    assert 100 < up.sum() < 600
    assert up[:18].sum() < up[18:].sum()  # the tip is ahead, the base behind
    for turns, other in enumerate(others, 1):
        np.testing.assert_array_equal(np.rot90(up, -turns), other)
    still = dataclasses.replace(state, position=np.ones((4, 2), int), heading=np.arange(4))
    found = render.frames(env, task, still, PIXELS)
    last = render.frame(env, task, (1, 1), [(1, 1)] * 3, PIXELS, heading=3)
    np.testing.assert_array_equal(found[3], last)


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
    positions = [(1, 1), (1, 2), (2, 2), (2, 3)]
    if id.startswith("point"):
        positions = np.array(positions) * 0.1
    task = first_task(env)
    state, _ = jax.jit(env.reset)(jax.random.key(0), task)
    states = dataclasses.replace(state, position=np.array(positions))
    found = render.frames(env, task, states, PIXELS)
    assert found.shape == (4, PIXELS, PIXELS, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(
        found[-1], render.frame(env, task, positions[3], positions[:3], PIXELS)
    )
    in_trial = TrialState(states, np.zeros(4, int))
    np.testing.assert_array_equal(render.frames(envs.Trial(env), task, in_trial, PIXELS), found)
    for one, next_one in itertools.pairwise(found):
        assert (one != next_one).any()


def test_the_plane_has_x_to_the_right_and_y_upwards():
    task = PointTask(goal=jnp.array([0.5, 0.3]), horizon=jnp.int32(9))
    picture = render.frame(envs.PointNavigation(), task, (-0.4, 0.2), pixels=300)
    # Twenty pixels a stride of 0.1, (0, 0) in the middle.
    assert _near(picture[150 - 60, 150 + 100].astype(int), paint.GOAL)
    assert _near(picture[150 - 40, 150 - 80].astype(int), paint.AGENT)


def test_a_corner_is_ten_strides_from_the_middle_of_its_plane():
    task = PointTask(goal=jnp.array([-2.0, 2.0]), horizon=jnp.int32(9))
    picture = render.frame(envs.PointCorners(), task, (1.0, -1.0), pixels=250)
    assert _near(picture[125 - 100, 125 - 100].astype(int), paint.GOAL)
    assert _near(picture[125 + 50, 125 + 50].astype(int), paint.AGENT)


def test_an_agent_outside_the_visible_plane_is_drawn_at_the_nearest_edge():
    env, task = envs.PointNavigation(), PointTask(goal=jnp.array([0.5, 0.3]), horizon=jnp.int32(9))
    path = [(0.0, 0.0), (7.0, 0.2)]
    picture = render.frame(env, task, (7.0, 0.2), path, pixels=300)
    rows, columns = np.nonzero(np.abs(picture - paint.AGENT).max(axis=-1) <= 1)
    assert rows.mean() == pytest.approx(150 - 40, abs=1)
    assert 280 < columns.min() < columns.max() < 300
    lines = render.text(env, task, PointState(jnp.array([7.0, 0.2]), jnp.int32(1))).splitlines()
    assert [line.find("@") for line in lines].index(2 * 14) == 5
    # One whose policy diverged is nowhere.
    lost = render.frame(env, task, (np.nan, 0.2), path, pixels=300)
    assert not (np.abs(lost - paint.AGENT).max(axis=-1) <= 1).any()


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
    arms = jax.jit(bandit.sample_task)(jax.random.key(0))
    with pytest.raises(ValueError, match="got BernoulliBandit, expected Maze, Gridworld, Point"):
        render.frame(bandit, arms, (0, 0))
    with pytest.raises(ValueError, match="pixels: got 8, expected at least 32"):
        render.frame(env, task, (1, 1), pixels=8)
    none = MazeState(position=np.zeros((0, 2), int), steps=np.zeros(0, int))
    with pytest.raises(ValueError, match="states: got none, expected those of an episode"):
        render.frames(env, task, none)
    with pytest.raises(ValueError, match=r"heading: got \[4\], expected 1 from 0 to 3"):
        render.frame(env, task, (1, 1), heading=4)


@pytest.mark.smoke
def test_compiled_pictures_show_a_tile_a_square_of_every_task_of_a_batch():
    env = envs.Maze(size=7, heading=True)
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), 3))
    states, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), 3), tasks)
    draw = jax.jit(jax.vmap(lambda state, task: render.rgb(env, state, task, pixels=8)))
    pictures = np.asarray(draw(states, tasks))
    assert pictures.shape == (3, 56, 56, 3)
    assert pictures.dtype == np.uint8
    corners = pictures[:, 4::8, 1::8].astype(int)  # off the middle of each square
    walls = np.asarray(jax.vmap(lambda words: grids.unpack(words, 7))(tasks.walls))
    np.testing.assert_array_equal(np.abs(corners - paint.WALL).max(-1) <= 1, walls)
    agent = pictures[0, 8:16, 8:16].astype(int)
    assert _near(agent[4, 4], paint.AGENT)
    middles = pictures[0].reshape(7, 8, 7, 8, 3)[:, 4, :, 4].astype(int)
    assert (np.abs(middles - paint.GOAL).max(-1) <= 1).sum() == 1
    # An agent that faces another way is drawn turned.
    turned = dataclasses.replace(states, heading=(states.heading + 1) % 4)
    np.testing.assert_allclose(
        np.rot90(pictures[0, 9:15, 9:15], -1).astype(int),
        np.asarray(draw(turned, tasks))[0, 9:15, 9:15],
        atol=40,
    )


def test_minigrid_is_drawn_with_its_objects_in_their_colours():
    env = envs.MiniGrid("unlockpickup")
    task = jax.jit(env.sample_task)(jax.random.key(3))
    state, _ = jax.jit(env.reset)(jax.random.key(0), task)
    drawn_at_once = jax.jit(render.rgb, static_argnums=(0, 3))
    shown = np.asarray(drawn_at_once(env, state, task, 16)).astype(int)
    high, wide = env.shape
    assert shown.shape == (16 * high, 16 * wide, 3)
    colours = list(tiles.COLOURS.values())
    for kind, colour, square in zip(
        *(np.asarray(leaf).tolist() for leaf in (task.kinds, task.colours, task.squares)),
        strict=True,
    ):
        if kind:
            row, column = square
            drawn = shown[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            assert (np.abs(drawn - np.round(colours[colour])).max(-1) <= 1).sum() > 8
    row, column = task.start.tolist()
    agent = shown[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
    assert (np.abs(agent - np.round(paint.AGENT)).max(-1) <= 1).sum() > 20
    up, floor = (state.heading + 1) % 4, jnp.full((1, 1), tiles.tile_of("floor"))  # its 0 is east
    alone = jax.jit(tiles.picture, static_argnums=3)(floor, jnp.zeros(2, int), up, 16)
    np.testing.assert_array_equal(agent, alone)
    page = render.sheet(env, jax.tree.map(lambda leaf: leaf[None], task), pixels=176)
    top = 11 + (176 - 16 * high) // 2  # in the middle, as it is wider than it is high
    np.testing.assert_array_equal(page[top : top + 16 * high, 11 : 11 + 16 * wide], shown)


def test_films_and_sheets_compile_their_pictures_once(monkeypatch):
    traced = []

    class Counted(Drawn):
        def reset(self, key, task):
            traced.append("reset")
            return super().reset(key, task)

    drawn = render.as_tiles
    monkeypatch.setattr(render, "as_tiles", lambda *args: traced.append("film") or drawn(*args))
    env = envs.MiniGrid("doorkey", size=5)
    keys = jax.random.split(jax.random.key(0), 2)
    task = jax.jit(env.sample_task)(keys[0])
    states, _ = jax.jit(jax.vmap(env.reset, (0, None)))(keys, task)
    for _ in range(2):
        render.frames(env, task, states, 65)  # no other test has pictures of this size
        render.sheet(Counted(), jax.vmap(Counted().sample_task)(keys), pixels=65)
    assert traced == ["film", "reset"]


@pytest.mark.smoke
def test_minigrid_has_frames_and_text():
    env = envs.MiniGrid("doorkey", size=5)
    task = jax.jit(env.sample_task)(jax.random.key(3))
    first, _ = jax.jit(env.reset)(jax.random.key(0), task)
    turned, _ = jax.jit(env.step)(jax.random.key(0), first, jnp.int32(world.RIGHT), task)
    states = jax.tree.map(lambda *leaves: np.stack(leaves), first, turned)
    film = render.frames(env, task, states, pixels=PIXELS)
    assert film.shape == (2, PIXELS, PIXELS, 3)
    for shown, state in zip(film, (first, turned), strict=True):
        np.testing.assert_array_equal(shown, render.still(env, state, task, PIXELS))
    wall = "█" * 10
    lines = [wall, "██KyLy  ██", "██  ██  ██", "██@v██X ██", wall]
    assert render.text(env, task, first).splitlines() == lines
    assert render.text(env, task, turned).splitlines()[3] == "██@<██X ██"


class Drawn(envs.PointNavigation):
    def picture(self, state, task, pixels):
        return jnp.full((pixels // 2, pixels, 3), state.steps, jnp.uint8)


class Doubled(Drawn):
    def picture(self, state, task, pixels):
        return super().picture(state, task, 2 * pixels)


class Grey(Drawn):
    def picture(self, state, task, pixels):
        return np.zeros((pixels, pixels), np.uint8)


def test_an_environment_of_a_users_own_draws_itself():
    env = Drawn()
    task = jax.jit(env.sample_task)(jax.random.key(0))
    states = PointState(np.zeros((2, 2)), np.arange(2))
    film = render.frames(env, task, states, 40)
    assert film.shape == (2, 20, 40, 3)
    assert (film == np.arange(2)[:, None, None, None]).all()
    page = render.sheet(env, jax.tree.map(lambda leaf: leaf[None], task), pixels=40)
    assert (page[14:34, 4:44] == 0).all()
    for wrong, message in (
        (Doubled(), "at most 40, got uint8 .40, 80, 3"),
        (Grey(), "uint8 .40, 40"),
    ):
        with pytest.raises(ValueError, match=message):
            render.still(wrong, PointState(np.zeros(2), 0), task, 40)


def test_of_mazes_in_a_row_the_current_one_is_drawn():
    env = envs.MazeSeries(count=2, maze=envs.Maze(size=5))
    task = jax.jit(env.sample_task)(jax.random.key(0))
    state, _ = jax.jit(env.reset)(jax.random.key(0), task)
    states = dataclasses.replace(
        jax.tree.map(lambda leaf: np.stack([leaf, leaf]), state), index=np.arange(2)
    )
    film = render.frames(envs.Trial(env), task, TrialState(states, np.zeros(2)), PIXELS)
    for index in (0, 1):
        maze = jax.tree.map(lambda leaf: leaf[index], task.mazes)  # noqa: B023
        expected = render.still(env.maze, state.maze, maze, PIXELS)
        np.testing.assert_array_equal(film[index], expected)
    assert (film[0] != film[1]).any()


def test_a_sheet_has_a_picture_of_each_task():
    env = envs.Maze(size=5)
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), 5))
    page = render.sheet(env, tasks, pixels=40)
    assert page.shape == (2 * 44 + 4, 3 * 44 + 4, 3)
    second = jax.tree.map(lambda leaf: leaf[1], tasks)
    expected = render.frame(env, second, second.start, pixels=40)
    np.testing.assert_array_equal(page[4:44, 48:88], expected)
    assert _near(page[48:88, 92:132].astype(int), paint.PAPER).all()  # no sixth task


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda env, task: render.rgb(envs.PointNavigation(), None, None),
            "expected Maze, Gridworld or",
        ),
        (lambda env, task: render.rgb(env, env.reset(None, task)[0], task, 3), "pixels: got 3"),
        (lambda env, task: render.sheet(env, task, columns=0), "expected at least 1"),
        (
            lambda env, task: render.still(envs.BernoulliBandit(), None, None),
            "env: got BernoulliBandit, expected Maze, Gridworld, MiniGrid, Point.*`picture`",
        ),
        (
            lambda env, task: render.still(envs.Trial(envs.TabularMDP()), None, None),
            "env: got TabularMDP, expected Maze",
        ),
        (
            lambda env, task: render.still(envs.MiniGrid("fourrooms", size=19), None, None, 60),
            "pixels: got 60, expected at least 76 for 19 squares along a side",
        ),
    ],
)
def test_pictures_that_cannot_be_are_refused(call, message):
    env = envs.Maze(size=5)
    with pytest.raises(ValueError, match=message):
        call(env, jax.jit(env.sample_task)(jax.random.key(0)))


def test_a_door_has_the_tile_of_its_state():
    table = drawing._tiles()
    for state, name in enumerate(("open", "closed", "locked")):  # as in `minigrid.world`
        assert tiles.TILES[table[world.DOOR, world.BLUE, state]] == f"blue {name} door"
