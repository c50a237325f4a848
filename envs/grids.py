"""Grids of walls packed into machine words, and operations on them.

A grid of H rows and W columns is `walls`, uint32 [H, ceil(W / 32)]: bit c % 32 of word c // 32 of
a row is set if column c is a wall. Bits beyond the last column are set, so nothing leaks out of the
grid. Squares are (row, column), row 0 at the top; directions are 0 up, 1 right, 2 down, 3 left.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "DOWN",
    "LEFT",
    "RIGHT",
    "UP",
    "is_wall",
    "mark",
    "moved",
    "pack",
    "read",
    "read_rows",
    "spread",
    "square_set",
    "unpack",
]

Array = jax.Array

UP, RIGHT, DOWN, LEFT = range(4)
_WORD = 32
_WALL = np.uint32(0xFFFFFFFF)


def pack(walls: Array) -> Array:
    """Packs bool [H, W], true at walls, into uint32 [H, ceil(W / 32)]."""
    high, wide = walls.shape
    words = -(-wide // _WORD)
    bits = jnp.pad(walls, ((0, 0), (0, words * _WORD - wide)), constant_values=True)
    place = jnp.arange(_WORD, dtype=jnp.uint32)
    bits = bits.reshape(high, words, _WORD).astype(jnp.uint32) << place[None, None]
    return jnp.sum(bits, axis=-1, dtype=jnp.uint32)


def unpack(words: Array, wide: int) -> Array:
    """The first `wide` columns of packed rows: uint32 [..., words] to bool [..., wide]."""
    place = jnp.arange(_WORD, dtype=jnp.uint32).reshape((1,) * words.ndim + (_WORD,))
    bits = (words[..., None] >> place) & jnp.uint32(1)
    return bits.reshape(*words.shape[:-1], -1)[..., :wide] != 0


def read(walls: Array, row: Array, column: Array) -> Array:
    """32 squares of a row from `column` on, () uint32, lowest bit first; 1 outside the grid."""
    return read_rows(walls, row, column, 1)[0]


def read_rows(walls: Array, row: Array, column: Array, count: int) -> Array:
    """`read` for `count` rows at once: uint32 [count].

    Args:
      walls: uint32 [H, words].
      row: () int32, the first row.
      column: () int32, the first column.
      count: how many rows.
    """
    # One slice of a padded copy, which is never materialised: on a CPU this takes a third of the
    # time of a gather by row.
    padded = jnp.pad(walls, ((count, count), (0, 0)), constant_values=_WALL)
    first = row + count
    rows = jax.lax.dynamic_slice_in_dim(padded, first, count, allow_negative_indices=False)

    def word(number: Array) -> Array:
        found = jnp.full((count,), _WALL)
        for candidate in range(walls.shape[1]):
            found = jnp.where(number == candidate, rows[:, candidate], found)
        return found

    number, shift = column >> 5, (column & 31).astype(jnp.uint32)
    # The next word is shifted in two steps, because a shift by 32 is undefined.
    next_word = word(number + 1) << jnp.uint32(1) << (jnp.uint32(31) - shift)
    return (word(number) >> shift) | next_word


def is_wall(walls: Array, position: Array) -> Array:
    """Whether the square `position` (2,) is a wall or outside the grid, () bool."""
    return read(walls, position[0], position[1]) & jnp.uint32(1) != 0


def mark(index: Array, length: int) -> Array:
    """bool [length], true at `index` () only; all false if that is out of range."""
    return jnp.arange(length, dtype=index.dtype) == index


def moved(position: Array, direction: Array) -> Array:
    """`position` (2,) one square further in `direction` (); any other value leaves it as it is."""
    # Row and column at once: a stack of the two has another layout, which accelerators transpose.
    ahead = (direction == jnp.array([DOWN, RIGHT], direction.dtype)).astype(position.dtype)
    back = (direction == jnp.array([UP, LEFT], direction.dtype)).astype(position.dtype)
    return position + ahead - back


def square_set(walls: Array, position: Array) -> Array:
    """The set of the one square `position` (2,), packed like `walls`: uint32 [H, words]."""
    high, words = walls.shape
    in_row = jnp.arange(high, dtype=jnp.int32) == position[0]
    in_word = jnp.arange(words, dtype=jnp.int32) == position[1] // _WORD
    bit = jnp.uint32(1) << (position[1] % _WORD).astype(jnp.uint32)
    return jnp.where(in_row[:, None] & in_word[None], bit, jnp.uint32(0))


def spread(squares: Array) -> Array:
    """The set `squares`, uint32 [H, words], together with the four neighbours of each square."""
    later = squares << jnp.uint32(1)
    earlier = squares >> jnp.uint32(1)
    if squares.shape[-1] > 1:
        later = later | jnp.pad(squares[:, :-1] >> jnp.uint32(_WORD - 1), ((0, 0), (1, 0)))
        earlier = earlier | jnp.pad(squares[:, 1:] << jnp.uint32(_WORD - 1), ((0, 0), (0, 1)))
    # Two slices of one padded copy: on a CPU twice as fast as a pad for each neighbour.
    padded = jnp.pad(squares, ((1, 1), (0, 0)))
    return squares | later | earlier | padded[:-2] | padded[2:]
