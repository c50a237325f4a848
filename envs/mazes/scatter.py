"""Walls scattered over an open grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..core import require_integer
from ..grids import pack
from ..solve import solvable

__all__ = ["scatter"]

Array = jax.Array


def scatter(
    key: Array,
    squares_high: int,
    squares_wide: int,
    density: Array | float,
    start: Array,
    exit: Array,
    high: Array | None = None,
    wide: Array | None = None,
) -> Array:
    """Random walls within an outer wall, with a path: uint32 [squares_high, words].

    Every inner square but the start and the exit is a wall with probability `density`. If no path
    joins those two, a random one without detours is opened, all of them being equally likely; a
    grid that has a path is left as it was drawn.

    Args:
      key: typed, consumed.
      squares_high: the rows of the grid, the outer wall included.
      squares_wide: the columns of the grid.
      density: () float32, a probability.
      start: (2,) int32, an inner square.
      exit: (2,) int32, an inner square.
      high: () int32, the rows of this level; the rest is wall. None: all of them.
      wide: () int32, its columns, likewise.

    Raises:
      ValueError: fewer than 3 rows or columns.
    """
    require_integer("squares_high", squares_high, 3)
    require_integer("squares_wide", squares_wide, 3)
    shape = (squares_high, squares_wide)
    key_walls, key_path = jax.random.split(key)
    rows = jnp.arange(squares_high, dtype=jnp.int32)
    columns = jnp.arange(squares_wide, dtype=jnp.int32)
    inner_row = (rows > 0) & (rows < (squares_high if high is None else high) - 1)
    inner_column = (columns > 0) & (columns < (squares_wide if wide is None else wide) - 1)
    drawn = jax.random.uniform(key_walls, (squares_high * squares_wide,), jnp.float32).reshape(
        shape
    )
    walls = (drawn < density) | ~(inner_row[:, None] & inner_column[None])
    for square in (start, exit):
        walls = walls.at[square[0], square[1]].set(False)

    # The moves of a path without detours, in random order: each move has a random number, and those
    # with the lowest numbers are vertical.
    way = exit - start
    down, right = jnp.abs(way)
    moves = squares_high + squares_wide - 6
    taken = jnp.arange(moves, dtype=jnp.int32) < down + right
    order = jnp.where(taken, jax.random.uniform(key_path, (moves,), jnp.float32), 2.0)
    is_down = jnp.argsort(jnp.argsort(order)).astype(jnp.int32) < down
    gone_down = jnp.cumsum(is_down.astype(jnp.int32))
    gone_right = jnp.cumsum((taken & ~is_down).astype(jnp.int32))
    path_rows = start[0] + jnp.sign(way[0]) * gone_down
    path_columns = start[1] + jnp.sign(way[1]) * gone_right
    path = jnp.zeros(shape, bool).at[path_rows, path_columns].set(True)
    packed = pack(walls)
    return jnp.where(solvable(packed, start, exit), packed, pack(walls & ~path))
