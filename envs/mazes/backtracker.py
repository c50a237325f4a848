"""Generators of perfect mazes: between any two cells there is exactly one path.

A maze of `cells_high` by `cells_wide` cells is a packed grid (see `grids`) of 2 * cells_high + 1
rows and 2 * cells_wide + 1 columns: cell (i, j) is the square (2i + 1, 2j + 1), the square between
two cells is open where they are joined, and everything else is wall.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .grids import DOWN, LEFT, RIGHT, UP, pack, unpack

__all__ = ["recursive_backtracker"]

Array = jax.Array

_MOST_CELLS_WIDE = 31


def recursive_backtracker(key: Array, cells_high: int, cells_wide: int) -> Array:
    """A random depth-first spanning tree from cell (0, 0): uint32 [2 * cells_high + 1, words].

    The walk goes on to a random neighbour that it has not seen, or else back to the cell it came
    from. Every cell but the first is entered once and left once, so 2 * (cells - 1) trips always
    finish it: the trip count is fixed and a batch waits for nobody. There is no stack: two bits
    per cell keep the direction it was entered in.

    The choice among k neighbours is floor(k * u / 2^16) of 16 random bits u: no probability is off
    by more than 2^-16.

    Raises:
      ValueError: a side below 1, or more than 31 cells wide.
    """
    if cells_high < 1 or not 1 <= cells_wide <= _MOST_CELLS_WIDE:
        raise ValueError(
            f"cells: got {cells_high} high by {cells_wide} wide; "
            f"expected at least 1 each way and at most {_MOST_CELLS_WIDE} wide"
        )
    trips = 2 * (cells_high * cells_wide - 1)
    draws = jax.random.bits(key, (trips,), jnp.uint16).astype(jnp.uint32)
    # Rows of cells, one bit a cell, between a row above and a row below that count as seen, as does
    # everything to the right of the last column.
    rows = jnp.arange(cells_high + 2, dtype=jnp.int32)
    edge = (rows == 0) | (rows == cells_high + 1)
    seen = jnp.where(edge, ~jnp.uint32(0), ~jnp.uint32(2**cells_wide - 1)) | (
        (rows == 1).astype(jnp.uint32)
    )
    entered = jnp.zeros((cells_high + 2,), jnp.uint32)

    def trip(carry: _Walk, draw: Array) -> tuple[_Walk, None]:
        row, column, seen, entered_low, entered_high = carry
        onward, forward = _choose(seen, row, column, draw)
        low = (entered_low[row] >> column) & jnp.uint32(1)
        high = (entered_high[row] >> column) & jnp.uint32(1)
        back = (low | high << jnp.uint32(1)) ^ jnp.uint32(2)
        direction = jnp.where(forward, onward, back)

        row = row + (direction == DOWN).astype(jnp.int32) - (direction == UP).astype(jnp.int32)
        column = column + (direction == RIGHT).astype(jnp.uint32)
        column = column - (direction == LEFT).astype(jnp.uint32)
        bit = jnp.uint32(1) << column
        fresh = jnp.where(forward, bit, jnp.uint32(0))
        seen = _add(seen, row, bit)
        entered_low = _add(entered_low, row, jnp.where(direction & 1 != 0, fresh, jnp.uint32(0)))
        entered_high = _add(entered_high, row, jnp.where(direction & 2 != 0, fresh, jnp.uint32(0)))
        return (row, column, seen, entered_low, entered_high), None

    first = (jnp.int32(1), jnp.uint32(0), seen, entered, entered)
    (_, _, _, low, high), _ = jax.lax.scan(trip, first, draws)
    direction = unpack(low[1:-1, None], cells_wide).astype(jnp.int32)
    direction = direction + 2 * unpack(high[1:-1, None], cells_wide).astype(jnp.int32)
    return _walls_of_tree(direction)


# The cell, row () int32 counted from the row above the maze and column () uint32, and three planes
# [cells_high + 2] uint32, a bit a cell: whether it was seen, and the low and the high digit of the
# direction it was entered in.
_Walk = tuple[Array, Array, Array, Array, Array]


def _add(plane: Array, row: Array, bits: Array) -> Array:
    # On a CPU an update in place is twice as fast as a masked pass over the plane.
    return plane.at[row].set(plane[row] | bits, mode="promise_in_bounds")


def _choose(seen: Array, row: Array, column: Array, draw: Array) -> tuple[Array, Array]:
    """A random direction () uint32 to a cell not yet seen, and whether there is one () bool."""
    here = seen[row]
    blocked_up = seen[row - 1] >> column
    blocked_right = here >> jnp.uint32(1) >> column
    blocked_down = seen[row + 1] >> column
    blocked_left = (here << jnp.uint32(1) | jnp.uint32(1)) >> column
    up, right, down, left = (
        ~blocked & jnp.uint32(1)
        for blocked in (blocked_up, blocked_right, blocked_down, blocked_left)
    )
    count = up + right + down + left
    pick = (draw * count) >> jnp.uint32(16)
    direction = jnp.where(
        (up == 1) & (pick == 0),
        jnp.uint32(UP),
        jnp.where(
            (right == 1) & (pick == up),
            jnp.uint32(RIGHT),
            jnp.where((down == 1) & (pick == up + right), jnp.uint32(DOWN), jnp.uint32(LEFT)),
        ),
    )
    return direction, count > 0


def _walls_of_tree(entered: Array) -> Array:
    """The packed maze of a spanning tree.

    `entered`, int32 [cells_high, cells_wide], is the direction in which each cell was entered from
    its parent; cell (0, 0) is the root and its direction is not read.
    """
    high, wide = entered.shape
    root = (jnp.arange(high)[:, None] == 0) & (jnp.arange(wide)[None] == 0)
    after_row = jnp.pad(entered[1:] == DOWN, ((0, 1), (0, 0)))
    after_column = jnp.pad(entered[:, 1:] == RIGHT, ((0, 0), (0, 1)))
    south = after_row | (entered == UP) & ~root
    east = after_column | (entered == LEFT) & ~root
    cell = jnp.stack([jnp.ones_like(east), east], axis=-1).reshape(high, 2 * wide)
    below = jnp.stack([south, jnp.zeros_like(south)], axis=-1).reshape(high, 2 * wide)
    opened = jnp.stack([cell, below], axis=1).reshape(2 * high, 2 * wide)
    return pack(~jnp.pad(opened, ((1, 0), (1, 0))))
