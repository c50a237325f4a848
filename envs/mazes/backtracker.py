"""Depth-first mazes: long winding corridors, few and deep dead ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..grids import DOWN, LEFT, RIGHT, UP
from .cells import cells_inside, require_cells, walls_of

__all__ = ["recursive_backtracker"]

Array = jax.Array

# The state of a cell: unseen, the direction it was entered in (1 + UP ... 1 + LEFT), or closed: the
# start of the walk and what surrounds the maze, which are never entered.
_UNSEEN, _CLOSED = 0, 5


def recursive_backtracker(
    key: Array,
    cells_high: int,
    cells_wide: int,
    high: Array | None = None,
    wide: Array | None = None,
) -> Array:
    """A random depth-first spanning tree from cell (0, 0): uint32 [2 * cells_high + 1, words].

    The walk goes on to a random unseen neighbour, or else back to the cell it came from. Every cell
    but the first is entered once and left backwards once, so 2 * (cells - 1) iterations always
    suffice, and their number is fixed. There is no stack: a cell remembers the direction it was
    entered in.

    The choice among k neighbours is floor(k * u / 2^16) of 16 random bits u, so no probability is
    off by more than 2^-16.

    Args: those of every generator; see `envs.mazes`.

    Raises:
      ValueError: a side below 1, or more than 31 cells wide.
    """
    require_cells(cells_high, cells_wide)
    trips = 2 * (cells_high * cells_wide - 1)
    draws = jax.random.bits(key, (trips,), jnp.uint16).astype(jnp.uint32)
    inside = cells_inside(cells_high, cells_wide, high, wide)
    # Flat, with a closed row above and below and a closed column on the right, which also closes
    # the next row on its left. Bytes, so that the cells of a batch stay in the cache.
    stride = cells_wide + 1
    known = jnp.where(inside, jnp.uint8(_UNSEEN), jnp.uint8(_CLOSED)).at[0, 0].set(_CLOSED)
    known = jnp.pad(known, ((1, 1), (0, 1)), constant_values=_CLOSED).reshape(-1)
    start = jnp.int32(stride)
    moves = {UP: -stride, RIGHT: 1, DOWN: stride, LEFT: -1}

    def trip(carry: tuple[Array, Array], draw: Array) -> tuple[tuple[Array, Array], None]:
        cell, known = carry
        unseen = [(known[cell + moves[d]] == _UNSEEN).astype(jnp.uint32) for d in moves]
        onward, forward = _choose(unseen, draw)
        entered = known[cell].astype(jnp.int32) - 1
        # A walk that is back at its start, early in a small maze, stays there.
        back = jnp.where(entered == _CLOSED - 1, -1, entered ^ 2)
        direction = jnp.where(forward, onward, back)
        target = cell
        for d, move in moves.items():
            target = jnp.where(direction == d, cell + move, target)
        mark = jnp.where(forward, (onward + 1).astype(jnp.uint8), known[target])
        return (target, known.at[target].set(mark, mode="promise_in_bounds")), None

    (_, known), _ = jax.lax.scan(trip, (start, known), draws)
    entered = known.reshape(cells_high + 2, stride)[1:-1, :-1].astype(jnp.int32) - 1
    right = (entered == LEFT) | jnp.pad(entered[:, 1:] == RIGHT, ((0, 0), (0, 1)))
    below = (entered == UP) | jnp.pad(entered[1:] == DOWN, ((0, 1), (0, 0)))
    return walls_of(inside, right, below)


def _choose(free: list[Array], draw: Array) -> tuple[Array, Array]:
    """A direction, () int32, uniform over those where `free` is 1, and whether there is one."""
    up, right, down, left = free
    count = up + right + down + left
    pick = (draw * count) >> jnp.uint32(16)
    direction = jnp.int32(LEFT)
    for d, is_free, before in ((DOWN, down, up + right), (RIGHT, right, up), (UP, up, None)):
        rank = jnp.uint32(0) if before is None else before
        direction = jnp.where((is_free == 1) & (pick == rank), jnp.int32(d), direction)
    return direction, count > 0
