"""Grid levels as text drawings, and checks and mutations of levels.

A drawing has one line per row: `#` is a wall, `.` is open, `S` is the start, `X` the goal. If the
agent has a heading, one of `^ > v <` marks the start. Within walls along all sides, a space is open
too; elsewhere it would look like indentation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .core import require
from .grids import pack, square_set, unpack
from .solve import solvable

__all__ = ["Level", "check", "draw", "mutate", "parse", "require_fit"]

Array = jax.Array

# Of drawings, and of tasks to check: these are read outside of any program.
_packed = jax.jit(pack)
_unpacked = jax.jit(unpack, static_argnums=1)
_solvable = jax.jit(solvable)
_each_solvable = jax.jit(jax.vmap(solvable))

_HEADINGS = "^>v<"
_SIGNS = "#. SX" + _HEADINGS


class Level(NamedTuple):
    """A level as read from a drawing."""

    walls: Array  # [size, words] uint32, packed
    start: Array  # (2,) int32, row and column
    goal: Array  # (2,) int32
    heading: Array | None  # () int32, or None if the agent has none


def parse(text: str, size: int, faces: bool, border: bool = True) -> Level:
    """Reads a drawing into a grid of `size` by `size` squares, padded with walls.

    Args:
      text: lines of equal length; blank lines around them and common indentation are dropped.
      size: squares along a side of the grid.
      faces: whether the start is drawn as a heading.
      border: whether the squares along the sides must be walls; if not, no square is a space.

    Raises:
      ValueError: a ragged line, an unknown character, a missing or repeated start or goal, a
        drawing that is empty or too large, an open border, or a goal that no path leads to.
    """
    lines = _lines(text)
    wide = len(lines[0])
    signs = _SIGNS if border else _SIGNS.replace(" ", "")
    for number, line in enumerate(lines):
        if len(line) != wide:
            raise ValueError(f"text: line {number + 1} has {len(line)} characters, expected {wide}")
        odd = next((sign for sign in line if sign not in signs), None)
        if odd is not None:
            raise ValueError(f"text: line {number + 1} has {odd!r}, expected one of {signs!r}")
    fits = len(lines) <= size and wide <= size
    if not fits:
        raise ValueError(f"text: got {len(lines)} by {wide}, expected at most {size} by {size}")
    drawn = np.array([list(line) for line in lines])
    start = _only(drawn, _HEADINGS if faces else "S", "start")
    goal = _only(drawn, "X", "goal")
    walls = np.ones((size, size), bool)
    walls[: len(lines), :wide] = drawn == "#"
    if border and not _bordered(walls):
        raise ValueError("text: the border is open, expected walls along all four sides")
    packed = _packed(walls)
    if not _solvable(packed, start, goal):
        raise ValueError("text: no path leads from the start to the goal")
    heading = jnp.int32(_HEADINGS.index(str(drawn[tuple(start.tolist())]))) if faces else None
    return Level(packed, start, goal, heading)


def draw(walls: Array, size: int, start: Array, goal: Array, heading: Array | None) -> str:
    """The drawing of a level, `size` lines; `parse` reads it back.

    Args:
      walls: uint32 [size, words], packed rows.
      size: squares along a side of the grid.
      start: (2,) int32.
      goal: (2,) int32.
      heading: () int32, drawn as the start, or None.
    """
    signs = np.where(np.asarray(_unpacked(walls, size)), "#", ".")
    signs[tuple(np.asarray(goal))] = "X"
    signs[tuple(np.asarray(start))] = "S" if heading is None else _HEADINGS[int(heading)]
    return "\n".join("".join(line) for line in signs)


def mutate(key: Array, walls: Array, size: int, start: Array, goal: Array) -> tuple[Array, Array]:
    """Toggles a wall or moves the goal, with equal probability: the new walls and goal.

    The square is uniform over those within the rows and columns that the level's open squares span,
    without the start and the goal. If there is no other, no path would be left from the start to
    the goal, or the goal would move onto a wall, the level is returned unchanged.

    Args:
      key: typed, consumed.
      walls: uint32 [size, words], packed rows.
      size: squares along a side of the grid.
      start: (2,) int32.
      goal: (2,) int32.
    """
    key_square, key_kind = jax.random.split(key)
    opened = ~unpack(walls, size)
    line = jnp.arange(size, dtype=jnp.int32)
    # Squares beyond the last open row or column are padding or border.
    lowest = jnp.max(jnp.where(jnp.any(opened, axis=1), line, 0))
    rightmost = jnp.max(jnp.where(jnp.any(opened, axis=0), line, 0))
    highest = jnp.min(jnp.where(jnp.any(opened, axis=1), line, size))
    leftmost = jnp.min(jnp.where(jnp.any(opened, axis=0), line, size))
    rows, columns = line[:, None], line[None]
    allowed = (rows >= highest) & (rows <= lowest) & (columns >= leftmost) & (columns <= rightmost)
    for square in (start, goal):
        allowed &= ~((rows == square[0]) & (columns == square[1]))
    ticket = jnp.where(allowed, jax.random.uniform(key_square, (size, size), jnp.float32), -1.0)
    index = jnp.argmax(ticket).astype(jnp.int32)
    square = jnp.stack([index // size, index % size])
    moves_goal = jax.random.bernoulli(key_kind)
    toggled = jnp.where(moves_goal, walls, walls ^ square_set(walls, square))
    moved_goal = jnp.where(moves_goal, square, goal)
    done = jnp.any(allowed) & solvable(toggled, start, moved_goal)
    return jnp.where(done, toggled, walls), jnp.where(done, moved_goal, goal)


def check(task: Any, size: int, horizon: int, actions: int, goal: str, border: bool = True) -> None:
    """Checks that a task, or each of a batch of tasks with leading axes, fits a grid.

    Args:
      task: the task or tasks.
      size: squares along a side of the grid.
      horizon: the greatest horizon that is allowed.
      actions: how many actions there are.
      goal: the name of the task's leaf to which a path must lead.
      border: whether the squares along the sides must be walls.

    Raises:
      ValueError: a task that does not fit; the message says which leaf of which task, and why.
    """
    for name in ("walls", "start", goal, "horizon"):
        require(f"task.{name}", None, getattr(task, name, None) is not None, "an array")
    require_fit(task.walls, size)
    *lead, high, words = np.shape(task.walls)
    flat = {"walls": np.asarray(task.walls).reshape(-1, high, words)}
    for name, shape, kind in (
        ("start", (2,), np.integer),
        (goal, (2,), np.integer),
        ("horizon", (), np.integer),
        ("heading", (), np.integer),
        ("controls", (actions,), np.integer),
        ("slip", (), np.floating),
        ("rewards", (size, size), np.floating),
    ):
        if getattr(task, name, None) is None:
            continue
        leaf = np.asarray(getattr(task, name))
        if leaf.shape != (*lead, *shape) or not np.issubdtype(leaf.dtype, kind):
            expected = f"{kind.__name__} {(*lead, *shape)}"
            raise ValueError(f"task.{name}: got {leaf.dtype} {leaf.shape}, expected {expected}")
        flat[name] = leaf.reshape(-1, *shape)

    def refuse(name: str, wrong: Any, reason: str) -> None:
        """Raises for the first task where `wrong` [count] holds; `reason` may contain {value}."""
        if wrong.any():
            index = int(np.argmax(wrong))
            which = f" of task {index}" if lead else ""
            value = flat[name][index].tolist()
            raise ValueError(f"task.{name}{which}: " + reason.format(value=value))

    columns = np.arange(32 * words)
    solid = flat["walls"][..., columns // 32] >> (columns % 32).astype(np.uint32) & 1 != 0
    refuse("walls", ~solid[..., size:].all((1, 2)), f"open beyond column {size - 1}")
    if border:
        sides = [solid[:, 0], solid[:, -1], solid[..., 0], solid[..., size - 1]]
        closed = np.all([side[..., :size].all(-1) for side in sides], axis=0)
        refuse("walls", ~closed, "the border is open, expected walls along all four sides")
    for name in ("start", goal):
        square = flat[name]
        outside = ((square < 0) | (square >= size)).any(-1)
        refuse(name, outside, f"got {{value}}, expected a square in 0..{size - 1}")
        refuse(name, solid[np.arange(len(solid)), *square.T], "got {value}, which is a wall")
    refuse(goal, (flat["start"] == flat[goal]).all(-1), "got {value}, which is the start")
    for name, low, high in (("horizon", 1, horizon), ("heading", 0, 3), ("slip", 0, 1)):
        if name in flat:
            within = (flat[name] >= low) & (flat[name] <= high)
            refuse(name, ~within, f"got {{value}}, expected {low} to {high}")
    if "rewards" in flat:
        finite = np.isfinite(flat["rewards"]).all((1, 2))
        refuse("rewards", ~finite, "expected finite numbers")
    if "controls" in flat:
        controls = flat["controls"]
        wrong = (np.sort(controls, axis=-1) != np.arange(controls.shape[-1])).any(-1)
        refuse("controls", wrong, "got {value}, expected a permutation")
    squares = (jnp.asarray(flat[name], jnp.int32) for name in ("start", goal))
    paths = _each_solvable(jnp.asarray(flat["walls"]), *squares)
    refuse(goal, ~np.asarray(paths), "got {value}, where no path leads from the start")


def require_fit(walls: Array, size: int) -> None:
    """Checks, while tracing, that packed walls are those of a grid of `size` by `size` squares.

    Raises:
      ValueError: walls of another shape or dtype.
    """
    expected = (size, -(-size // 32))
    if walls.shape[-2:] != expected or walls.dtype != jnp.uint32:
        came = f"{walls.dtype} {walls.shape}"
        raise ValueError(f"task.walls: got {came}, expected uint32 {expected} for size {size}")


def _lines(text: str) -> list[str]:
    lines = [line.rstrip("\r") for line in text.split("\n")]
    filled = [index for index, line in enumerate(lines) if line.strip()]
    if not filled:
        raise ValueError("text: got nothing, expected a drawing")
    lines = lines[filled[0] : filled[-1] + 1]
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return [line[indent:] for line in lines]


def _only(drawn: np.ndarray, signs: str, what: str) -> Array:
    """The one square, (2,) int32, that shows one of `signs`."""
    places = np.argwhere(np.isin(drawn, list(signs)))
    if len(places) != 1:
        raise ValueError(f"text: got {len(places)} squares of {signs!r}, expected one {what}")
    return jnp.asarray(places[0], jnp.int32)


def _bordered(walls: np.ndarray) -> bool:
    return bool(walls[[0, -1]].all() and walls[:, [0, -1]].all())
