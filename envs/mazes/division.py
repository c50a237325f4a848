"""Mazes of chambers divided again and again: long straight walls, each with one gap."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..core import require
from ..grids import unpack
from .cells import cells_inside, have_next, require_cells, walls_of

__all__ = ["recursive_division"]

Array = jax.Array

_MOST_CELLS_HIGH = 255


def recursive_division(
    key: Array,
    cells_high: int,
    cells_wide: int,
    high: Array | None = None,
    wide: Array | None = None,
) -> Array:
    """Open space, divided recursively: uint32 [2 * cells_high + 1, words].

    A chamber is divided by a wall across its longer side (a random one if they are equal), at a
    uniformly random place with a uniformly random gap; the parts are divided until they are one
    cell high or wide. Each division closes at least one of the (cells_high - 1) * (cells_wide - 1)
    passages to be closed, so that many iterations always suffice. Chambers wait in a queue.

    The choice among k places is floor(k * u / 2^15) of 15 random bits u, so no probability is off
    by more than 2^-15.

    Args: those of every generator; see `envs.mazes`.

    Raises:
      ValueError: a side below 1, more than 31 cells wide, or more than 255 high: a chamber is four
        bytes.
    """
    require_cells(cells_high, cells_wide)
    require("cells_high", cells_high, cells_high <= _MOST_CELLS_HIGH, "at most 255")
    trips = (cells_high - 1) * (cells_wide - 1)
    rows = jnp.arange(cells_high, dtype=jnp.uint32)

    def divide(carry: _Chambers, current: tuple[Array, Array]) -> tuple[_Chambers, None]:
        queue, end, right, below = carry
        number, draw = current
        top, left, tall, broad = _unfolded(queue[number])
        divided = (tall > 1) & (broad > 1)
        level = (tall > broad) | (tall == broad) & (draw >> jnp.uint32(30) & jnp.uint32(1) == 1)
        cut = jnp.uint32(1) + _scaled(draw, jnp.where(level, tall, broad) - 1)
        gap = _scaled(draw >> jnp.uint32(15), jnp.where(level, broad, tall))

        # A horizontal wall is bits of one row, a vertical one is the same bit of several rows.
        span = ((jnp.uint32(1) << broad) - 1) & ~(jnp.uint32(1) << gap)
        beneath = divided & level & (rows == top + cut - 1)
        below = below & ~jnp.where(beneath, span << left, jnp.uint32(0))
        within = (rows >= top) & (rows < top + tall) & (rows != top + gap)
        beside = divided & ~level & within
        right = right & ~jnp.where(beside, jnp.uint32(1) << left + cut - 1, jnp.uint32(0))

        first = jnp.where(level, _folded(top, left, cut, broad), _folded(top, left, tall, cut))
        second = jnp.where(
            level,
            _folded(top + cut, left, tall - cut, broad),
            _folded(top, left + cut, tall, broad - cut),
        )
        for chamber in (first, second):
            # The end moves past the chamber only if it is to be divided; else it is overwritten.
            queue = queue.at[end].set(jnp.where(divided, chamber, queue[end]))
            _, _, tall, broad = _unfolded(chamber)
            end = end + (divided & (tall > 1) & (broad > 1)).astype(jnp.int32)
        return (queue, end, right, below), None

    inside = cells_inside(cells_high, cells_wide, high, wide)
    right, below = (_bits(cells) for cells in have_next(inside))
    tall = jnp.asarray(cells_high if high is None else high, jnp.uint32)
    broad = jnp.asarray(cells_wide if wide is None else wide, jnp.uint32)
    zero = jnp.uint32(0)
    queue = jnp.zeros((trips + 2,), jnp.uint32).at[0].set(_folded(zero, zero, tall, broad))
    draws = jax.random.bits(key, (trips,), jnp.uint32)
    current = (jnp.arange(trips, dtype=jnp.int32), draws)
    first = (queue, jnp.int32(1), right, below)
    (_, _, right, below), _ = jax.lax.scan(divide, first, current)
    return walls_of(inside, unpack(right[:, None], cells_wide), unpack(below[:, None], cells_wide))


# The queue of chambers, uint32 [trips + 2], and its end, () int32; by row, uint32 [cells_high] with
# a bit a cell, whether a cell is joined to the one on its right, and to the one below.
_Chambers = tuple[Array, Array, Array, Array]


def _folded(top: Array, left: Array, tall: Array, broad: Array) -> Array:
    """A chamber in one word: its first row, first column, height and width, a byte each."""
    byte = jnp.uint32(8)
    return ((top << byte | left) << byte | tall) << byte | broad


def _unfolded(chamber: Array) -> tuple[Array, ...]:
    return tuple((chamber >> jnp.uint32(8 * place)) & jnp.uint32(255) for place in (3, 2, 1, 0))


def _scaled(bits: Array, count: Array) -> Array:
    """floor(count * u / 2^15), where u is the low 15 bits."""
    return ((bits & jnp.uint32(2**15 - 1)) * count) >> jnp.uint32(15)


def _bits(cells: Array) -> Array:
    """Packs bool [cells_high, cells_wide] into uint32 [cells_high], a bit a cell."""
    place = jnp.arange(cells.shape[1], dtype=jnp.uint32)
    return jnp.sum(cells.astype(jnp.uint32) << place[None], axis=1, dtype=jnp.uint32)
