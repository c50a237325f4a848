"""Shortest paths between two squares, by fills that stop when they reach the other square."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..grids import DOWN, LEFT, RIGHT, UP, is_wall, moved, spread, square_set
from .distances import UNREACHABLE

__all__ = [
    "direction_to",
    "distance",
    "far_half",
    "heading_action",
    "heading_distance",
    "solvable",
]

Array = jax.Array

_DIRECTIONS = (UP, RIGHT, DOWN, LEFT)


def distance(walls: Array, start: Array, goal: Array) -> Array:
    """The fewest moves from `start` (2,) to `goal` (2,), () int32; UNREACHABLE without a path."""
    target = square_set(walls, goal)
    filled, trips = _grow(_neighbours(walls), square_set(walls, start) & ~walls, target)
    return jnp.where(_meet(filled, target), trips, jnp.int32(UNREACHABLE))


def solvable(walls: Array, start: Array, goal: Array) -> Array:
    """Whether a path leads from `start` (2,) to `goal` (2,), () bool."""
    return distance(walls, start, goal) != UNREACHABLE


def direction_to(walls: Array, position: Array, goal: Array) -> Array:
    """The direction, () int32, of the first move of a shortest path from `position` to `goal`.

    Arbitrary if `position` is the goal or there is no path.
    """
    near = spread(square_set(walls, position)) & ~walls
    # Grown from the goal, the fill first meets a neighbour on a shortest path.
    filled, _ = _grow(_neighbours(walls), square_set(walls, goal) & ~walls, near)

    def leads(direction: int) -> Array:
        square = moved(position, jnp.int32(direction))
        return _meet(filled, square_set(walls, square)) & ~is_wall(walls, square)

    return jnp.argmax(jnp.stack([leads(d) for d in _DIRECTIONS])).astype(jnp.int32)


def far_half(walls: Array, start: Array) -> Array:
    """The open squares at least half as far from `start` (2,) as the farthest one.

    Two fills race: once the one that grows by two moves per iteration has filled the grid, the
    other holds the nearer half.

    Returns:
      A set of reachable squares, uint32 [H, words] like `walls`.
    """
    first = square_set(walls, start) & ~walls

    def trip(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        fast, slow, _ = carry
        further = spread(spread(fast) & ~walls) & ~walls
        grew = jnp.any(further != fast)
        # The slow fill starts an iteration late: after iteration k it holds what is less than k
        # moves away.
        return further, jnp.where(grew, first | (spread(slow) & ~walls), slow), grew

    fast, slow, _ = jax.lax.while_loop(
        lambda carry: carry[2], trip, (first, jnp.zeros_like(first), jnp.array(True))
    )
    return fast & ~slow


def heading_distance(walls: Array, start: Array, heading: Array, goal: Array) -> Array:
    """The fewest turns and moves to `goal`, () int32; UNREACHABLE without a path.

    The heading on arrival does not matter.

    Args:
      walls: uint32 [H, words], packed rows.
      start: (2,) int32.
      heading: () int32, the direction faced at the start.
      goal: (2,) int32.
    """
    target = _facing(walls, start, heading)
    filled, trips = _grow(_predecessors(walls), _facing_any(walls, goal), target)
    return jnp.where(_meet(filled, target), trips, jnp.int32(UNREACHABLE))


def heading_action(walls: Array, position: Array, heading: Array, goal: Array) -> Array:
    """The first action, () int32, of a shortest sequence of turns and moves to `goal`.

    Forward if that is as quick as a turn; arbitrary at the goal or without a path.

    Args:
      walls: uint32 [H, words], packed rows.
      position: (2,) int32.
      heading: () int32, the direction faced.
      goal: (2,) int32.
    """
    ahead = moved(position, heading)
    open_ahead = jnp.where(is_wall(walls, ahead), jnp.uint32(0), jnp.uint32(2**32 - 1))
    results = jnp.stack(
        [
            _facing(walls, ahead, heading) & open_ahead,
            _facing(walls, position, (heading - 1) & 3),
            _facing(walls, position, (heading + 1) & 3),
        ]
    )
    target = results[0] | results[1] | results[2]
    filled, _ = _grow(_predecessors(walls), _facing_any(walls, goal), target)
    leads = jnp.stack([_meet(filled, result) for result in results])
    return jnp.array([2, 0, 1], jnp.int32)[jnp.argmax(leads)]


def _grow(more: Callable[[Array], Array], first: Array, target: Array) -> tuple[Array, Array]:
    """Grows the set `first` by `more` until it meets `target` or is complete: set, iterations."""

    def trip(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        filled, trips, _ = carry
        further = more(filled)
        return further, trips + 1, jnp.any(further != filled)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        filled, _, grew = carry
        return grew & ~_meet(filled, target)

    filled, trips, _ = jax.lax.while_loop(unfinished, trip, (first, jnp.int32(0), jnp.array(True)))
    return filled, trips


def _neighbours(walls: Array) -> Callable[[Array], Array]:
    return lambda squares: spread(squares) & ~walls


def _predecessors(walls: Array) -> Callable[[Array], Array]:
    """Grows a set of states, uint32 [4, H, words] by heading, by all states one action before."""

    def more(states: Array) -> Array:
        # An agent that faces up and has moved onto a square was below it; likewise for the others.
        shifted = [_shift(states[d], (d + 2) & 3) for d in _DIRECTIONS]
        turned = jnp.roll(states, 1, axis=0) | jnp.roll(states, -1, axis=0)
        return states | turned | (jnp.stack(shifted) & ~walls[None])

    return more


def _shift(squares: Array, direction: int) -> Array:
    """The set `squares`, uint32 [H, words], shifted by one square in `direction`."""
    if direction == UP:
        return jnp.pad(squares[1:], ((0, 1), (0, 0)))
    if direction == DOWN:
        return jnp.pad(squares[:-1], ((1, 0), (0, 0)))
    if direction == RIGHT:
        carried = jnp.pad(squares[:, :-1] >> jnp.uint32(31), ((0, 0), (1, 0)))
        return squares << jnp.uint32(1) | carried
    carried = jnp.pad(squares[:, 1:] << jnp.uint32(31), ((0, 0), (0, 1)))
    return squares >> jnp.uint32(1) | carried


def _facing(walls: Array, position: Array, heading: Array) -> Array:
    """The set of one square and heading, uint32 [4, H, words]; empty on a wall."""
    faced = jnp.arange(4, dtype=jnp.int32) == heading
    square = square_set(walls, position) & ~walls
    return jnp.where(faced[:, None, None], square[None], jnp.uint32(0))


def _facing_any(walls: Array, position: Array) -> Array:
    square = square_set(walls, position) & ~walls
    return jnp.broadcast_to(square[None], (4, *walls.shape))


def _meet(squares: Array, others: Array) -> Array:
    return jnp.any(squares & others != 0)
