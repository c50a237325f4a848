"""Shortest paths on packed grids, by flood fills that grow a row of squares per machine word.

Under `vmap` a fill makes as many trips as the longest of the batch needs; it is meant for drawing
tasks and for oracles, never for a step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .grids import DOWN, LEFT, RIGHT, UP, is_wall, moved, spread, square_set

__all__ = ["UNREACHABLE", "direction_to", "distance", "far_half"]

Array = jax.Array

UNREACHABLE = 2**31 - 1  # the distance where there is no path


def distance(walls: Array, start: Array, goal: Array) -> Array:
    """The fewest moves from `start` (2,) to `goal` (2,), () int32; UNREACHABLE without a path."""
    target = square_set(walls, goal)
    filled, trips = _fill_until(walls, square_set(walls, start), target)
    return jnp.where(_meet(filled, target), trips, jnp.int32(UNREACHABLE))


def direction_to(walls: Array, position: Array, goal: Array) -> Array:
    """The direction, () int32, of the first move of a shortest path from `position` to `goal`.

    Some direction where `position` is the goal or there is no path.
    """
    neighbours = spread(square_set(walls, position))
    # Grown from the goal, the fill first meets a neighbour on a shortest path.
    filled, _ = _fill_until(walls, square_set(walls, goal), neighbours & ~walls)

    def leads(direction: int) -> Array:
        square = moved(position, jnp.int32(direction))
        return _meet(filled, square_set(walls, square)) & ~is_wall(walls, square)

    return jnp.argmax(jnp.stack([leads(d) for d in (UP, RIGHT, DOWN, LEFT)])).astype(jnp.int32)


def far_half(walls: Array, start: Array) -> Array:
    """The open squares at least half as far from `start` (2,) as the farthest one.

    Two fills race: when the one that grows by two moves a trip has filled the grid, the other holds
    the nearer half.

    Returns:
      A set of squares, uint32 [H, words] like `walls`, of those that a path leads to.
    """
    first = square_set(walls, start) & ~walls

    def trip(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        fast, slow, _ = carry
        further = spread(spread(fast) & ~walls) & ~walls
        grew = jnp.any(further != fast)
        # The slow fill starts a trip late: after trip k it holds what is less than k moves away.
        return further, jnp.where(grew, first | (spread(slow) & ~walls), slow), grew

    fast, slow, _ = jax.lax.while_loop(
        lambda carry: carry[2], trip, (first, jnp.zeros_like(first), jnp.array(True))
    )
    return fast & ~slow


def _fill_until(walls: Array, start: Array, target: Array) -> tuple[Array, Array]:
    """Grows `start` by a move a trip until it meets `target` or is whole: the set, the trips."""

    def trip(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        filled, trips, _ = carry
        further = spread(filled) & ~walls
        return further, trips + 1, jnp.any(further != filled)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        filled, _, grew = carry
        return grew & ~_meet(filled, target)

    filled, trips, _ = jax.lax.while_loop(
        unfinished, trip, (start & ~walls, jnp.int32(0), jnp.array(True))
    )
    return filled, trips


def _meet(squares: Array, others: Array) -> Array:
    return jnp.any(squares & others != 0)
