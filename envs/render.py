"""Pictures of tasks and of episodes on them.

`rgb` is pure JAX, to be compiled and batched, with one tile per square. The others draw in more
detail, in numpy, one task at a time.

A wrapped environment, `Informed` or `Trial`, is drawn as the one that it holds, and a `MazeSeries`
as the maze that the agent is in. One of a user's own draws itself, if it has a `picture`, see
`core.Environment`.

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
from .maze_series import MazeSeries, maze_of
from .minigrid import MiniGrid
from .minigrid.drawing import as_text, as_tiles
from .paint import PAPER
from .point import PointNavigation
from .point_corners import PointCorners
from .scenes import Scene, background, draw
from .tiles import LEAST, picture, tile_of
from .trial import Trial

Array = jax.Array

__all__ = ["frame", "frames", "has_picture", "rgb", "sheet", "still", "text"]


class _Plane(NamedTuple):
    """The visible part of a plane, with (0, 0) in the middle."""

    stride: float  # side of a square: the length of a step
    squares: int  # along a side
    reach: int  # squares from the middle to the farthest goal, along a side


_PLANES = {PointNavigation: _Plane(0.1, 15, 5), PointCorners: _Plane(0.2, 25, 10)}


def has_picture(env: Any) -> bool:
    """Whether `still` draws the environment, wrapped or not."""
    env, _ = _unwrapped(env)
    return _is_ours(env) or isinstance(env, MazeSeries) or callable(getattr(env, "picture", None))


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
    return draw(scene, background(scene, pixels), _places(env, path), len(path), faced[0])


def frames(env: Any, task: Any, states: Any, pixels: int = 320) -> np.ndarray:
    """An episode as pictures: with the agent's trail where `frame` draws, else as by `still`.

    Args:
      env: as in `still`.
      task: one task of `env`.
      states: those of the episode, from its start on, each leaf [T, ...].
      pixels: greatest height and width of a picture.

    Returns:
      uint8 [T, H, W, 3].

    Raises:
      ValueError: as `still`, or no states.
    """
    env, states = _unwrapped(env, states)
    _require_picture(env)
    count = len(jax.tree.leaves(states)[0])
    if not count:
        raise ValueError("states: got none, expected those of an episode")
    if isinstance(env, MiniGrid):
        states = jax.tree.map(jnp.asarray, states)
        return np.asarray(_film(env, states, task, _side(env, pixels)))
    if not _is_ours(env):
        each = (jax.tree.map(lambda leaf: leaf[i], states) for i in range(count))  # noqa: B023
        return np.stack([_by_itself(env, state, task, pixels) for state in each])
    scene = _scene(env, task)
    empty, places = background(scene, pixels), _places(env, np.asarray(states.position))
    faced = _headings(getattr(states, "heading", None), count)
    return np.stack([draw(scene, empty, places[: i + 1], count, faced[i]) for i in range(count)])


def still(env: Any, state: Any, task: Any, pixels: int = 320) -> np.ndarray:
    """A picture of a state, uint8 [H, W, 3]: a `MiniGrid`'s by `rgb`, others of ours by `frame`.

    Args:
      env: as in `frame`, a `MiniGrid`, or one that has a `picture`.
      state: a state of `env`.
      task: the task of that state.
      pixels: greatest height and width of the picture.

    Raises:
      ValueError: another environment, or too few pixels.
    """
    env, state = _unwrapped(env, state)
    _require_picture(env)
    if isinstance(env, MiniGrid):
        drawn = jax.jit(rgb, static_argnums=(0, 3))
        return np.asarray(drawn(env, state, task, _side(env, pixels)))
    if not _is_ours(env):
        return _by_itself(env, state, task, pixels)
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
        return as_tiles(state, task, env.shape[1], pixels)
    if not isinstance(env, Maze | Gridworld):
        known = "Maze, Gridworld or MiniGrid"
        raise ValueError(f"env: got {type(env).__name__}, expected {known}")
    tiles = jnp.where(unpack(task.walls, env.size), tile_of("wall"), tile_of("floor"))
    goal = task.exit if isinstance(env, Maze) else task.goal
    for name, square in (("start", task.start), ("target", goal)):
        tiles = tiles.at[square[0], square[1]].set(tile_of(name))
    return picture(tiles, state.position, getattr(state, "heading", None), pixels)


_film = jax.jit(jax.vmap(rgb, in_axes=(None, 0, None, None)), static_argnums=(0, 3))


def sheet(env: Any, tasks: Any, columns: int | None = None, pixels: int = 160) -> np.ndarray:
    """Pictures of many tasks side by side, each before the first step of an episode.

    Args:
      env: as in `still`.
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


@functools.lru_cache(maxsize=16)
def _reset(env: Any) -> Any:
    return jax.jit(env.reset)  # compiled once: a bound method is another object each time


def _first_picture(env: Any, task: Any, pixels: int) -> np.ndarray:
    """A task before the first step of an episode, uint8, at most `pixels` high and wide."""
    env, _ = _unwrapped(env)
    if isinstance(env, MiniGrid) or not _is_ours(env):
        state, _ = _reset(env)(jax.random.key(0), task)
        return still(env, state, task, pixels)
    start, heading = getattr(task, "start", np.zeros(2)), getattr(task, "heading", None)
    return frame(env, task, start, pixels=pixels, heading=heading)


def text(env: Any, task: Any, state: Any) -> str:
    """A state drawn for a terminal, two columns a square: @ the agent, X the goal, o the start.

    In a `MiniGrid` a door is D, L if it is locked and _ if it is open, a key K, a ball B, a box O,
    painted floor a dot, each with its colour's first letter behind it, grey's being G, and ~~ lava.

    Raises:
      ValueError: an environment that is none of ours, or is not drawn.
    """
    env, state = _unwrapped(env, state)
    if isinstance(env, MiniGrid):
        return as_text(state, task, env.shape[1])
    scene = _scene(env, task)
    floor = "  " if isinstance(env, Maze) else "· "
    lines = np.where(scene.walls, "██", floor)
    agent = _places(env, np.asarray(state.position, float)[None])[0]
    for sign, place in (("o ", scene.start), ("X ", scene.goal), ("@ ", agent)):
        if np.isfinite(place).all():
            row, column = np.floor(np.clip(place, 0, scene.side - 1)).astype(int)
            lines[row, column] = sign
    return "\n".join("".join(line).rstrip() for line in lines)


def _is_ours(env: Any) -> bool:
    return isinstance(env, Maze | Gridworld | MiniGrid) or type(env) in _PLANES


def _require_picture(env: Any) -> None:
    if not has_picture(env):
        known = "Maze, Gridworld, MiniGrid, PointNavigation, PointCorners, MazeSeries"
        got = type(env).__name__
        raise ValueError(f"env: got {got}, expected {known}, or one with a `picture`")


def _by_itself(env: Any, state: Any, task: Any, pixels: int) -> np.ndarray:
    """What an environment of a user's own draws; of mazes in a row, the current one."""
    if isinstance(env, MazeSeries):
        return still(env.maze, state.maze, maze_of(task, state.index), pixels)
    shown = np.asarray(env.picture(state, task, pixels))
    form = f"{shown.dtype.name} {list(shown.shape)}"
    if shown.dtype != np.uint8 or shown.ndim != 3 or shown.shape[2] != 3 or not shown.size:
        raise ValueError(f"{type(env).__name__}.picture: expected uint8 [H, W, 3], got {form}")
    if max(shown.shape) > max(pixels, 3):
        raise ValueError(f"{type(env).__name__}.picture: expected at most {pixels}, got {form}")
    return shown


def _side(env: MiniGrid, pixels: int) -> int:
    """Of a square, in pixels, where a picture has at most `pixels` along a side."""
    squares = max(env.shape)
    if pixels < LEAST * squares:
        expected = f"at least {LEAST * squares} for {squares} squares along a side"
        raise ValueError(f"pixels: got {pixels}, expected {expected}")
    return pixels // squares


def _unwrapped(env: Any, state: Any = None) -> tuple[Any, Any]:
    """The environment within all wrappers, and its part of their state if that is given."""
    while isinstance(env, Informed | Trial):
        if isinstance(env, Trial) and state is not None:
            state = state.inner
        env = env.env
    return env, state


def _scene(env: Any, task: Any) -> Scene:
    plane = _PLANES.get(type(env))
    if plane:
        start, goal = _places(env, np.stack([np.zeros(2), np.asarray(task.goal, float)]))
        side = plane.squares
        walls = np.zeros((side, side), bool)
        return Scene(side, walls, start, goal, marks=side / 10, margin=side / 2 - plane.reach)
    if not isinstance(env, Maze | Gridworld):
        known = "Maze, Gridworld, PointNavigation or PointCorners"
        raise ValueError(f"env: got {type(env).__name__}, expected {known}")
    words = np.asarray(task.walls)
    columns = np.arange(env.size)
    walls = words[:, columns // 32] >> (columns % 32).astype(np.uint32) & 1 != 0
    goal = task.exit if isinstance(env, Maze) else task.goal
    marks = 1.0 if isinstance(env, Maze) else 0.8
    return Scene(env.size, walls, np.asarray(task.start) + 0.5, np.asarray(goal) + 0.5, marks)


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
