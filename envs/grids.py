"""Grids of walls packed into machine words, and what an agent reads of them.

A grid of H rows and W columns is `walls`, uint32 [H, ceil(W / 32)]: bit c % 32 of word c // 32 of
a row is set where column c is a wall. Bits beyond the last column are set, so nothing leaks out of
the grid. Squares are (row, column), row 0 at the top; directions are 0 up, 1 right, 2 down, 3 left.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "DOWN",
    "LEFT",
    "RIGHT",
    "UP",
    "is_wall",
    "moved",
    "one_hot",
    "pack",
    "spread",
    "unpack",
    "window",
]

Array = jax.Array

UP, RIGHT, DOWN, LEFT = range(4)
_WORD = 32


def pack(walls: Array) -> Array:
    """bool [H, W], true where a wall is, to uint32 [H, ceil(W / 32)]."""
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


def _columns(rows: Array, columns: Array) -> Array:
    """The bits at `columns` [C] of packed `rows` [R, words]: bool [R, C], true outside."""
    count = rows.shape[-1]
    inside = (columns >= 0) & (columns < count * _WORD)
    shift = (columns & (_WORD - 1)).astype(jnp.uint32)
    words = jnp.broadcast_to(rows[:, :1], (rows.shape[0], columns.shape[0]))
    for word in range(1, count):
        words = jnp.where((columns >= word * _WORD)[None], rows[:, word : word + 1], words)
    return ((words >> shift[None]) & jnp.uint32(1) != 0) | ~inside[None]


def is_wall(walls: Array, position: Array) -> Array:
    """Whether the square `position` (2,) is a wall or outside the grid, () bool."""
    row, column = position[0], position[1]
    outside = (row < 0) | (row >= walls.shape[0])
    words = walls[jnp.clip(row, 0, walls.shape[0] - 1)]
    return _columns(words[None], column[None])[0, 0] | outside


def window(walls: Array, position: Array, side: int) -> Array:
    """The `side` by `side` squares centred on `position` (2,), north up: bool [side, side].

    True where a wall is; everything outside the grid is wall.
    """
    offsets = jnp.arange(side, dtype=position.dtype) - side // 2
    rows, columns = position[0] + offsets, position[1] + offsets
    outside = (rows < 0) | (rows >= walls.shape[0])
    words = walls[jnp.clip(rows, 0, walls.shape[0] - 1)]
    return _columns(words, columns) | outside[:, None]


def moved(position: Array, direction: Array) -> Array:
    """`position` (2,) one square further in `direction` (); any other direction stays."""
    down = (direction == DOWN).astype(position.dtype) - (direction == UP).astype(position.dtype)
    right = (direction == RIGHT).astype(position.dtype) - (direction == LEFT).astype(position.dtype)
    return position + jnp.stack([down, right])


def one_hot(square: Array, side: int) -> Array:
    """bool [side * side], row by row, true at `square` (2,); all false where that lies outside."""
    index = jnp.arange(side, dtype=square.dtype)
    return ((index == square[0])[:, None] & (index == square[1])[None]).reshape(-1)


def spread(squares: Array) -> Array:
    """The squares set in `squares`, uint32 [H, words], and their four neighbours."""
    later = squares << jnp.uint32(1)
    earlier = squares >> jnp.uint32(1)
    if squares.shape[-1] > 1:
        later = later | jnp.pad(squares[:, :-1] >> jnp.uint32(_WORD - 1), ((0, 0), (1, 0)))
        earlier = earlier | jnp.pad(squares[:, 1:] << jnp.uint32(_WORD - 1), ((0, 0), (0, 1)))
    below = jnp.pad(squares[:-1], ((1, 0), (0, 0)))
    above = jnp.pad(squares[1:], ((0, 1), (0, 0)))
    return squares | later | earlier | below | above
