"""Removes walls from a grid: what was connected stays connected."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..core import require_integer
from ..grids import DOWN, LEFT, RIGHT, UP, pack, unpack
from .cells import around

__all__ = ["braid", "rooms"]

Array = jax.Array


def braid(key: Array, walls: Array, share: Array | float) -> Array:
    """Opens a share of the dead ends of a packed grid, uint32 [H, words] -> [H, words].

    A dead end is an open square with one open neighbour. Each is opened with probability `share`
    (), to a precision of 2^-16, on a side drawn uniformly from those with an open square behind the
    wall; one without such a side is left as it is. So no outer wall is opened, nor one to the
    padding of a small maze. Opening one dead end may remove another.
    """
    closed = unpack(walls, 32 * walls.shape[1])
    beside = around(closed, True)
    exits = sum((~wall).astype(jnp.uint32) for wall in beside)
    # For each direction, the squares with a wall there and an open square behind it.
    candidates = [wall & ~around(wall, True)[direction] for direction, wall in enumerate(beside)]
    count = sum(candidate.astype(jnp.uint32) for candidate in candidates)
    draws = jax.random.bits(key, (closed.size,), jnp.uint32).reshape(closed.shape)
    opens = draws >> jnp.uint32(16) < (share * jnp.float32(2**16)).astype(jnp.uint32)
    dead_end = ~closed & (exits == 1) & opens
    pick = ((draws & jnp.uint32(2**16 - 1)) * count) >> jnp.uint32(16)
    opened, before = jnp.zeros_like(closed), jnp.zeros_like(pick)
    for direction, back in ((UP, DOWN), (RIGHT, LEFT), (DOWN, UP), (LEFT, RIGHT)):
        candidate = candidates[direction]
        opened |= around(dead_end & candidate & (pick == before), False)[back]
        before += candidate.astype(jnp.uint32)
    return pack(closed & ~opened)


def rooms(
    key: Array,
    walls: Array,
    count: int,
    smallest: int,
    largest: int,
    high: Array | int,
    wide: Array | int,
) -> Array:
    """Carves rectangular rooms out of a maze: the walls, uint32 [2 * cells_high + 1, words].

    Sides are uniform from `smallest` to `largest` cells, limited to the maze, and positions are
    uniform; rooms may overlap.

    Args:
      key: typed, consumed.
      walls: uint32 [2 * cells_high + 1, words], a maze with all cells connected, or any grid in
        which every cell has an open square.
      count: how many rooms.
      smallest: the fewest cells along a side.
      largest: the most cells along a side.
      high: () int32, the rows of cells of this maze, which may be a part of the grid.
      wide: () int32, its columns of cells.

    Raises:
      ValueError: a count below 0, or sides that are not 1 <= smallest <= largest.
    """
    require_integer("count", count, 0)
    require_integer("smallest", smallest, 1)
    require_integer("largest", largest, smallest)
    draws = jax.random.uniform(key, (4 * count,), jnp.float32).reshape(4, count, 1)

    def inside(length: int, size: Array, place: Array, cells: Array | int) -> Array:
        """bool [count, length], the squares of the rooms along one axis."""
        side = smallest + jnp.floor(size * (largest - smallest + 1)).astype(jnp.int32)
        side = jnp.minimum(side, cells)
        first = jnp.floor(place * (cells - side + 1).astype(jnp.float32)).astype(jnp.int32)
        square = jnp.arange(length, dtype=jnp.int32)[None]
        return (square > 2 * first) & (square < 2 * (first + side))

    rows = inside(walls.shape[0], draws[0], draws[1], high)
    columns = inside(32 * walls.shape[1], draws[2], draws[3], wide)
    carved = jnp.any(rows[:, :, None] & columns[:, None], axis=0)
    return walls & pack(~carved)
