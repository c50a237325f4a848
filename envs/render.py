"""Pictures of tasks and of episodes on them.

`rgb` is pure JAX, to be compiled and batched, with one tile per square. The others draw in more
detail, in numpy, one task at a time.

A wrapped environment, `Informed` or `Trial`, is drawn as the one that it holds.

A ring marks the start, a target the goal and a disc the agent, or an arrow head if it has a
heading; a line is the path it took, darker for later steps. An agent that has left the visible part
of a plane is drawn at the nearest edge.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .grids import unpack
from .gridworld import Gridworld
from .informed import Informed
from .maze import Maze
from .minigrid import MiniGrid, world
from .minigrid.view import full_grid
from .paint import (
    AGENT,
    GOAL,
    LINE,
    OUTSIDE,
    PAPER,
    SHADE,
    START,
    TRAIL,
    WALL,
    arrow,
    blend,
    disc,
    segment,
)
from .point import PointNavigation
from .point_corners import PointCorners
from .tiles import COLOURS, LEAST, picture, tile_of
from .trial import Trial

Array = jax.Array

__all__ = ["frame", "frames", "has_picture", "rgb", "sheet", "still", "text"]

_SUPERSAMPLED = 3


class _Plane(NamedTuple):
    """The visible part of a plane, with (0, 0) in the middle."""

    stride: float  # side of a square: the length of a step
    squares: int  # along a side
    reach: int  # squares from the middle to the farthest goal, along a side


_PLANES = {PointNavigation: _Plane(0.1, 15, 5), PointCorners: _Plane(0.2, 25, 10)}


class _Scene(NamedTuple):
    """A task as squares; places are (down, right) from the top left corner, in squares."""

    side: int
    walls: np.ndarray  # bool [side, side]
    start: np.ndarray  # (2,)
    goal: np.ndarray  # (2,)
    marks: float = 1.0  # size of the marks drawn on it, in squares
    margin: float = 0.0  # width of the band along the sides in which no goal lies


def has_picture(env: Any) -> bool:
    """Whether `still` draws the environment, wrapped or not."""
    env, _ = _unwrapped(env)
    return isinstance(env, Maze | Gridworld | MiniGrid) or type(env) in _PLANES


def frame(
    env: Any, task: Any, position: Any, trail: Any = None, pixels: int = 320, heading: Any = None
) -> np.ndarray:
    """A picture of one task and of the agent on it.

    Args:
      env: a `Maze`, a `Gridworld`, a `PointNavigation` or a `PointCorners`.
      task: one task of `env`.
      position: (2,), the agent's position.
      trail: [t, 2], its earlier positions, oldest first; None for no trail.
      pixels: side of the picture, at least 32.
      heading: (), the direction the agent faces, 0 up, 1 right, 2 down, 3 left; None for none.

    Returns:
      uint8 [pixels, pixels, 3].

    Raises:
      ValueError: another environment, too few pixels, or a heading outside 0 to 3.
    """
    path = np.asarray(position, float)[None]
    if trail is not None:
        path = np.concatenate([np.asarray(trail, float), path])
    env, _ = _unwrapped(env)
    scene = _scene(env, task)
    faced = _headings(None if heading is None else [heading], 1)
    return _draw(scene, _background(scene, pixels), _places(env, path), len(path), faced[0])


def frames(
    env: Any, task: Any, positions: Any, length: int, pixels: int = 320, headings: Any = None
) -> np.ndarray:
    """An episode as pictures, with a trail that grows from one to the next.

    Args:
      env: as in `frame`.
      task: one task of `env`.
      positions: [T, 2], the agent's positions from the start of the episode on.
      length: how many pictures, one for each of the first `length` positions.
      pixels: side of a picture, at least 32.
      headings: [T], the directions the agent faces there; None for none.

    Returns:
      uint8 [length, pixels, pixels, 3].

    Raises:
      ValueError: as `frame`, a length outside 1 to T, or other than T headings.
    """
    path = np.asarray(positions, float)
    if not 1 <= length <= len(path):
        raise ValueError(f"length: got {length}, expected from 1 to {len(path)}")
    env, _ = _unwrapped(env)
    scene = _scene(env, task)
    background, places = _background(scene, pixels), _places(env, path)
    faced = _headings(headings, len(path))
    ends = range(1, length + 1)
    return np.stack(
        [_draw(scene, background, places[:end], length, faced[end - 1]) for end in ends]
    )


def still(env: Any, state: Any, task: Any, pixels: int = 320) -> np.ndarray:
    """A picture of a state, uint8 [H, W, 3]: by `rgb` for a `MiniGrid`, else by `frame`.

    Args:
      env: as in `frame`, or a `MiniGrid`.
      state: a state of `env`.
      task: the task of that state.
      pixels: greatest height and width of the picture.

    Raises:
      ValueError: another environment, or too few pixels.
    """
    env, state = _unwrapped(env, state)
    if not has_picture(env):
        known = "Maze, Gridworld, MiniGrid, PointNavigation or PointCorners"
        raise ValueError(f"env: got {type(env).__name__}, expected {known}")
    if isinstance(env, MiniGrid):
        squares = max(env.shape)
        if pixels < LEAST * squares:
            expected = f"at least {LEAST * squares} for {squares} squares along a side"
            raise ValueError(f"pixels: got {pixels}, expected {expected}")
        draw = jax.jit(rgb, static_argnums=(0, 3))
        return np.asarray(draw(env, state, task, pixels // squares))
    heading = getattr(state, "heading", None)
    return frame(env, task, state.position, pixels=pixels, heading=heading)


def rgb(env: Any, state: Any, task: Any, pixels: int = 8) -> Array:
    """A picture of a state in pure JAX: `jax.vmap` it over states and tasks, and `jit` it.

    Args:
      env: a `Maze`, a `Gridworld` or a `MiniGrid`.
      state: a state of `env`.
      task: the task of that state.
      pixels: side of a square, at least 4.

    Returns:
      uint8 [H * pixels, W * pixels, 3] for H by W squares.

    Raises:
      ValueError: another environment, or too few pixels.
    """
    env, state = _unwrapped(env, state)
    if isinstance(env, MiniGrid):
        image = full_grid(state, task, env.shape[1]).transpose(1, 0, 2).astype(jnp.int32)
        tiles = jnp.asarray(_minigrid_tiles())[image[..., 0], image[..., 1], image[..., 2]]
        return picture(tiles, state.position, (state.heading + 1) & 3, pixels)
    if not isinstance(env, Maze | Gridworld):
        known = "Maze, Gridworld or MiniGrid"
        raise ValueError(f"env: got {type(env).__name__}, expected {known}")
    tiles = jnp.where(unpack(task.walls, env.size), tile_of("wall"), tile_of("floor"))
    goal = task.exit if isinstance(env, Maze) else task.goal
    for name, square in (("start", task.start), ("target", goal)):
        tiles = tiles.at[square[0], square[1]].set(tile_of(name))
    return picture(tiles, state.position, getattr(state, "heading", None), pixels)


@functools.cache
def _minigrid_tiles() -> np.ndarray:
    """The tile of each of MiniGrid's (kind, colour, state), int32 [kinds, colours, states]."""
    tiles = np.full((world.AGENT + 1, len(COLOURS), 4), tile_of("floor"), np.int32)
    for kind, thing in ((0, "unseen"), (world.WALL, "wall"), (world.GOAL, "goal")):
        tiles[kind] = tile_of(thing)
    tiles[world.LAVA] = tile_of("lava")
    colour = np.arange(len(COLOURS))[:, None]
    for kind, thing in (
        (world.FLOOR, "painted floor"),
        (world.KEY, "key"),
        (world.BALL, "ball"),
        (world.BOX, "box"),
    ):
        tiles[kind] = tile_of(thing) + colour
    for state, thing in (
        (world.OPEN, "open door"),
        (world.CLOSED, "closed door"),
        (world.LOCKED, "locked door"),
    ):
        tiles[world.DOOR, :, state] = tile_of(thing) + colour[:, 0]
    return tiles


def sheet(env: Any, tasks: Any, columns: int | None = None, pixels: int = 160) -> np.ndarray:
    """Pictures of many tasks side by side, each before the first step of an episode.

    Args:
      env: as in `frame`, or a `MiniGrid`.
      tasks: tasks of `env` with a leading axis N.
      columns: pictures in a row; about as many as rows if None.
      pixels: side of one picture; a smaller one is in the middle of its place.

    Returns:
      uint8 [rows * (pixels + gap) + gap, columns * (pixels + gap) + gap, 3].

    Raises:
      ValueError: as `still`, or no tasks or columns.
    """
    count = len(jax.tree.leaves(tasks)[0])
    columns = math.isqrt(max(count - 1, 0)) + 1 if columns is None else columns
    if count < 1 or columns < 1:
        raise ValueError(f"sheet: got {count} tasks in {columns} columns, expected at least 1")
    rows, gap = -(-count // columns), max(4, pixels // 16)
    tasks = jax.tree.map(np.asarray, tasks)
    step = pixels + gap
    paper = np.broadcast_to(PAPER.astype(np.uint8), (rows * step + gap, columns * step + gap, 3))
    page = paper.copy()
    for index in range(count):
        task = jax.tree.map(lambda leaf: leaf[index], tasks)  # noqa: B023
        shown = _first_picture(env, task, pixels)
        high, wide = shown.shape[:2]
        row, column = divmod(index, columns)
        top = gap + step * row + (pixels - high) // 2
        left = gap + step * column + (pixels - wide) // 2
        page[top : top + high, left : left + wide] = shown
    return page


def _first_picture(env: Any, task: Any, pixels: int) -> np.ndarray:
    """A task before the first step of an episode, uint8, at most `pixels` high and wide."""
    env, _ = _unwrapped(env)
    if isinstance(env, MiniGrid):
        state, _ = env.reset(jax.random.key(0), task)
        return still(env, state, task, pixels)
    start, heading = getattr(task, "start", np.zeros(2)), getattr(task, "heading", None)
    return frame(env, task, start, pixels=pixels, heading=heading)


def text(env: Any, task: Any, state: Any) -> str:
    """A state drawn for a terminal, two columns a square: @ the agent, X the goal, o the start.

    Raises:
      ValueError: an environment that `frame` does not draw.
    """
    env, state = _unwrapped(env, state)
    scene = _scene(env, task)
    floor = "  " if isinstance(env, Maze) else "· "
    lines = np.where(scene.walls, "██", floor)
    agent = _places(env, np.asarray(state.position, float)[None])[0]
    for sign, place in (("o ", scene.start), ("X ", scene.goal), ("@ ", agent)):
        if np.isfinite(place).all():
            row, column = np.floor(np.clip(place, 0, scene.side - 1)).astype(int)
            lines[row, column] = sign
    return "\n".join("".join(line).rstrip() for line in lines)


def _unwrapped(env: Any, state: Any = None) -> tuple[Any, Any]:
    """The environment within all wrappers, and its part of their state if that is given."""
    while isinstance(env, Informed | Trial):
        if isinstance(env, Trial) and state is not None:
            state = state.inner
        env = env.env
    return env, state


def _scene(env: Any, task: Any) -> _Scene:
    plane = _PLANES.get(type(env))
    if plane:
        start, goal = _places(env, np.stack([np.zeros(2), np.asarray(task.goal, float)]))
        side = plane.squares
        walls = np.zeros((side, side), bool)
        return _Scene(side, walls, start, goal, marks=side / 10, margin=side / 2 - plane.reach)
    if not isinstance(env, Maze | Gridworld):
        known = "Maze, Gridworld, PointNavigation or PointCorners"
        raise ValueError(f"env: got {type(env).__name__}, expected {known}")
    words = np.asarray(task.walls)
    columns = np.arange(env.size)
    walls = words[:, columns // 32] >> (columns % 32).astype(np.uint32) & 1 != 0
    goal = task.exit if isinstance(env, Maze) else task.goal
    marks = 1.0 if isinstance(env, Maze) else 0.8
    return _Scene(env.size, walls, np.asarray(task.start) + 0.5, np.asarray(goal) + 0.5, marks)


def _places(env: Any, positions: np.ndarray) -> np.ndarray:
    """Positions in the environment, [t, 2], as places in its scene."""
    plane = _PLANES.get(type(env))
    if plane:
        right, up = positions.T / plane.stride
        return plane.squares / 2 + np.stack([-up, right], axis=-1)
    return positions + 0.5


def _headings(headings: Any, count: int) -> list[int | None]:
    """The heading at each of `count` places, or None."""
    if headings is None:
        return [None] * count
    faced = np.asarray(headings)
    if faced.shape != (count,) or not np.isin(faced, range(4)).all():
        raise ValueError(f"heading: got {faced.tolist()}, expected {count} from 0 to 3")
    return [int(heading) for heading in faced]


def _background(scene: _Scene, pixels: int) -> np.ndarray:
    """Floor, grid lines and walls: float [pixels, pixels, 3]."""
    if pixels < 32:
        raise ValueError(f"pixels: got {pixels}, expected at least 32")
    picture = np.broadcast_to(PAPER, (pixels, pixels, 3)).copy()
    unit = pixels / scene.side
    # Distances are measured in pixels from the middle of each pixel.
    middle = (np.arange(pixels) + 0.5) / unit
    within = np.clip(
        np.minimum(middle, scene.side - middle) - scene.margin, -0.5 / unit, 0.5 / unit
    )
    within = within * unit + 0.5
    blend(picture, 1 - within[:, None] * within[None], OUTSIDE)
    gap = np.abs(middle - np.round(middle)) * unit
    line = np.clip(1.1 - gap, 0, 1)
    blend(picture, np.maximum(line[:, None], line[None]), LINE)
    edge = np.clip(2 - np.minimum(middle, scene.side - middle) * unit, 0, 1)
    blend(picture, np.maximum(edge[:, None], edge[None]), SHADE)
    if scene.walls.any():
        fine = np.arange(pixels * _SUPERSAMPLED) * scene.side // (pixels * _SUPERSAMPLED)
        walls = _rounded(scene.walls[np.ix_(fine, fine)], unit * _SUPERSAMPLED)
        drop = max(1, round(0.14 * unit))
        shadow = np.pad(walls, ((drop, 0), (0, 0)), mode="edge")[:pixels]
        blend(picture, shadow, SHADE)
        blend(picture, walls, WALL)
    return picture


def _rounded(mask: np.ndarray, unit: float) -> np.ndarray:
    """How much of each pixel a supersampled mask covers, with rounded corners: [pixels, pixels].

    Blurring a mask and thresholding it moves no straight edge, only corners.
    """
    reach = max(1, round(0.16 * unit))
    soft = mask.astype(float)
    for axis in (0, 1):
        padding = [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(soft, padding, mode="edge"), axis=axis)
        later = np.take(total, np.arange(2 * reach + 1, total.shape[axis]), axis=axis)
        earlier = np.take(total, np.arange(total.shape[axis] - 2 * reach - 1), axis=axis)
        soft = (later - earlier) / (2 * reach + 1)
    side = mask.shape[0] // _SUPERSAMPLED
    blocks = (soft > 0.5).reshape(side, _SUPERSAMPLED, side, _SUPERSAMPLED)
    return blocks.mean(axis=(1, 3))


def _draw(
    scene: _Scene, background: np.ndarray, path: np.ndarray, length: int, heading: int | None
) -> np.ndarray:
    """The scene with the agent at the end of `path` [t, 2]; `length` places span the colours."""
    picture = background.copy()
    unit = len(picture) / scene.side
    goal, start, places = scene.goal * unit, scene.start * unit, path * unit
    mark = unit * scene.marks
    age = np.arange(len(path)) / max(length - 1, 1)
    colours = TRAIL[0] + (TRAIL[1] - TRAIL[0]) * age[:, None]
    for tail, head, colour in zip(places[:-1], places[1:], colours[1:], strict=True):
        segment(picture, tail, head, 0.11 * unit, colour)
    for radius, colour in ((0.42, GOAL), (0.29, PAPER), (0.17, GOAL)):
        disc(picture, goal, radius * mark, colour)
    disc(picture, start, 0.2 * mark, START)
    disc(picture, start, 0.11 * mark, PAPER)
    agent = np.clip(places[-1], 0.36 * mark, len(picture) - 0.36 * mark)
    if heading is None:
        disc(picture, agent, 0.36 * mark, PAPER)
        disc(picture, agent, 0.3 * mark, AGENT)
    else:
        arrow(picture, agent, heading, mark)
    return np.round(picture).astype(np.uint8)
