"""Mazes of passages opened in random order: short dead ends everywhere, no direction preferred."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ..grids import LEFT, UP
from .cells import around, cells_inside, have_next, require_cells, walls_of

__all__ = ["kruskal"]

Array = jax.Array

_NONE = np.uint32(2**32 - 1)  # heavier than any passage


def kruskal(
    key: Array,
    cells_high: int,
    cells_wide: int,
    high: Array | None = None,
    wide: Array | None = None,
) -> Array:
    """The minimum spanning tree under random weights: uint32 [2 * cells_high + 1, words].

    Kruskal's algorithm opens one passage at a time, in the order of the weights. The same tree is
    found here in Borůvka's rounds: every part of the maze opens the lightest passage that leaves
    it, which at least halves the number of parts.

    The low bits of a passage's weight are its number, so all weights differ; two whose random bits
    agree (with a probability of 2^-21, less in smaller mazes) are ordered by their numbers.

    Args: those of every generator; see `envs.mazes`.

    Raises:
      ValueError: a side below 1, or more than 31 cells wide.
    """
    require_cells(cells_high, cells_wide)
    shape, count = (cells_high, cells_wide), cells_high * cells_wide
    rounds = (count - 1).bit_length()
    inside = cells_inside(cells_high, cells_wide, high, wide)
    cell = jnp.arange(count, dtype=jnp.int32)

    # Passage 2 * cell leads right from a cell, passage 2 * cell + 1 down.
    number_bits = jnp.uint32(2 ** (rounds + 1) - 1)
    number = jnp.arange(2 * count, dtype=jnp.uint32).reshape(*shape, 2)
    # Drawn flat: XLA takes several times as long to compile a draw with more axes.
    drawn = jax.random.bits(key, (2 * count,), jnp.uint32).reshape(number.shape)
    weights = drawn & ~number_bits | number
    has_right, has_below = have_next(inside)
    right = jnp.where(has_right, weights[..., 0], _NONE)
    below = jnp.where(has_below, weights[..., 1], _NONE)
    passages = around(below, _NONE)[UP], right, below, around(right, _NONE)[LEFT]

    def merge(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        part, opened_right, opened_below = carry
        here = part.reshape(shape)
        leaving = [
            jnp.where(near != here, weight, _NONE)
            for near, weight in zip(around(here, 0), passages, strict=True)
        ]
        lightest = functools.reduce(jnp.minimum, leaving).reshape(-1)
        # The passage that each part opens.
        taken = jnp.full((count,), _NONE, jnp.uint32).at[part].min(lightest)
        mine = taken[part].reshape(shape)
        _, mine_right, mine_below, _ = around(mine, _NONE)
        opened_right |= has_right & ((right == mine) | (right == mine_right))
        opened_below |= has_below & ((below == mine) | (below == mine_below))

        # Every part points to the one it joins; of two that point at each other, one is the root.
        passage = (taken & number_bits).astype(jnp.int32)
        end = passage >> 1
        other_end = end + jnp.where(passage & 1 == 1, cells_wide, 1)
        onto = jnp.where(part[end] == cell, part[other_end], part[end])
        onto = jnp.where(taken == _NONE, cell, onto)
        onto = jnp.where((onto[onto] == cell) & (cell < onto), cell, onto)
        # Pointer jumping: chains are no longer than the number of parts left, and each pass halves
        # them.
        onto = jax.lax.fori_loop(number, rounds, lambda _, onto: onto[onto], onto)
        return onto[part], opened_right, opened_below

    closed = jnp.zeros(shape, bool)
    _, *opened = jax.lax.fori_loop(0, rounds, merge, (cell, closed, closed))
    return walls_of(inside, *opened)
