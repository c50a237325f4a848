"""Shortest paths on packed grids, a row of squares per machine word."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .grids import DOWN, LEFT, RIGHT, UP, is_wall, moved, spread, unpack

__all__ = ["descend", "distances"]

Array = jax.Array


def distances(walls: Array, source: Array, wide: int) -> Array:
    """The fewest moves from every square to `source`: int32 [H, wide].

    A flood fill: one trip per unit of distance grows the whole frontier, a word at a time, and
    files the squares it reached under the binary digits of their distance. Under `vmap` it makes
    as many trips as the farthest square of the batch needs.

    Args:
      walls: packed grid, uint32 [H, words], as `grids.pack` makes it.
      source: the square (row, column) to measure from, (2,) int32.
      wide: number of columns.

    Returns:
      The distances; H * wide, which no distance reaches, at walls and unreachable squares.
    """
    high, words = walls.shape
    place = jnp.arange((high * wide).bit_length(), dtype=jnp.int32)
    columns = jnp.arange(words * 32, dtype=jnp.int32).reshape(words, 32)
    bit = jnp.uint32(1) << (source[1] & 31).astype(jnp.uint32)
    in_row = (jnp.arange(high, dtype=jnp.int32) == source[0])[:, None]
    in_word = (columns[:, 0] // 32 == source[1] // 32)[None]
    start = jnp.where(in_row & in_word, bit, jnp.uint32(0)) & ~walls

    def grow(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        distance, reached, _, digits = carry
        distance = distance + 1
        fresh = spread(reached) & ~(walls | reached)
        digit = ((distance >> place) & 1 != 0)[:, None, None]
        return (
            distance,
            reached | fresh,
            fresh,
            digits | jnp.where(digit, fresh[None], jnp.uint32(0)),
        )

    def growing(carry: tuple[Array, Array, Array, Array]) -> Array:
        return jnp.any(carry[2] != 0)

    digits = jnp.zeros((place.size, high, words), jnp.uint32)
    _, reached, _, digits = jax.lax.while_loop(growing, grow, (jnp.int32(0), start, start, digits))
    value = jnp.sum(unpack(digits, wide).astype(jnp.int32) << place[:, None, None], axis=0)
    return jnp.where(unpack(reached, wide), value, jnp.int32(high * wide))


def descend(distance: Array, walls: Array, position: Array) -> Array:
    """The direction () int32 from `position` to the neighbour with the least `distance` [H, W]."""
    high, wide = distance.shape

    def ahead(direction: int) -> Array:
        square = moved(position, jnp.int32(direction))
        value = distance[jnp.clip(square[0], 0, high - 1), jnp.clip(square[1], 0, wide - 1)]
        return jnp.where(is_wall(walls, square), jnp.int32(high * wide), value)

    return jnp.argmin(jnp.stack([ahead(d) for d in (UP, RIGHT, DOWN, LEFT)])).astype(jnp.int32)
