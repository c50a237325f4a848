"""Mazes grown from a corner: bushy, with many short dead ends."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from ..grids import DOWN, LEFT, RIGHT, UP
from .cells import around, cells_inside, require_cells, walls_of

__all__ = ["prim"]

Array = jax.Array

_FAR = 2**29
_SECOND = 2.0**18  # ticks per unit of time


def prim(
    key: Array,
    cells_high: int,
    cells_wide: int,
    high: Array | None = None,
    wide: Array | None = None,
) -> Array:
    """Prim's growth from cell (0, 0), at random: uint32 [2 * cells_high + 1, words].

    A tree grows by one passage at a time, drawn uniformly from those that lead out of it.

    Let every passage take an exponentially distributed time to cross. That distribution is
    memoryless, so of the passages that lead out of the tree each is equally likely to be crossed
    next: the tree is that of the fastest paths from the first cell (Richardson's model). They are
    found by relaxing all cells at once, `_trips` times, and each cell joins the neighbour that its
    path comes from. With too few relaxations there would still be a tree, if not of fastest paths.

    Times are whole ticks of 2^-18, so no probability is off by more than about that.

    Args: those of every generator; see `envs.mazes`.

    Raises:
      ValueError: a side below 1, or more than 31 cells wide.
    """
    require_cells(cells_high, cells_wide)
    shape = (cells_high, cells_wide)
    inside = cells_inside(cells_high, cells_wide, high, wide)
    # Drawn flat: XLA takes several times as long to compile a draw with more axes.
    count = 2 * cells_high * cells_wide
    drawn = jax.random.uniform(key, (count,), jnp.float32, minval=2.0**-24)
    right, below = (1 + (-_SECOND * jnp.log(drawn)).astype(jnp.int32)).reshape(2, *shape)
    times = around(below, 0)[UP], right, below, around(right, 0)[LEFT]
    times = [jnp.where(inside, time, jnp.int32(_FAR)) for time in times]

    def by_way_of(reached: Array) -> list[Array]:
        return [near + time for near, time in zip(around(reached, _FAR), times, strict=True)]

    def relax(_: int, reached: Array) -> Array:
        return functools.reduce(jnp.minimum, by_way_of(reached), reached)

    reached = jnp.full(shape, _FAR, jnp.int32).at[0, 0].set(0)
    reached = jax.lax.fori_loop(0, _trips(*shape), relax, reached)
    # A passage takes at least a tick, so the neighbour was reached earlier and there is no cycle.
    source = jnp.argmin(jnp.stack(by_way_of(reached)), axis=0).astype(jnp.int32)
    source = jnp.where(inside, source, jnp.int32(-1)).at[0, 0].set(-1)
    right = (source == RIGHT) | (around(source, -1)[RIGHT] == LEFT)
    below = (source == DOWN) | (around(source, -1)[DOWN] == UP)
    return walls_of(inside, right, below)


def _trips(cells_high: int, cells_wide: int) -> int:
    # More passages than any fastest path has. In a million mazes with sides of 5, 6, 7 and 10
    # cells, the longest path had 18, 21, 25 and 34; in 20,000 with 31 cells, 84. Paths longer by 4
    # are ten times as rare.
    return min(cells_high * cells_wide - 1, 2 * (cells_high + cells_wide))
