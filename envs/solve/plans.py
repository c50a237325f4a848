"""Optimal plans for moves that slip and squares with rewards, by backward induction."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..grids import DOWN, LEFT, RIGHT, UP, unpack

__all__ = ["heading_plan", "plan"]

Array = jax.Array

_DIRECTIONS = (UP, RIGHT, DOWN, LEFT)


def plan(
    walls: Array,
    arrival: Callable[[Array], Array],
    terminal: Array,
    slip: Array,
    horizon: Array,
    steps: Array,
    stay: bool = False,
) -> tuple[Array, Array]:
    """The greatest expected return and the best action on every square, by backward induction.

    With probability `slip` an action is replaced by one drawn uniformly from all actions. An agent
    that moves into a wall stays where it is. A step's reward is that of the square it ends on.

    Args:
      walls: uint32 [H, words], packed rows.
      arrival: t, () int32 in 1..horizon -> float32 [H, W], the reward of ending step t on a square.
      terminal: bool [H, W], the squares that end an episode.
      slip: () float32, a probability.
      horizon: () int32, the steps of an episode.
      steps: () int32, how many of them have been taken already.
      stay: whether staying is an action too.

    Returns:
      The return from here on, float32 [H, W], 0 on walls and terminal squares; and the action,
      int32 [H, W]: a direction or, with `stay`, 0 to stay and 1 + direction to move.
    """
    move = _mover(walls, terminal.shape[-1])

    def results(worth: Array) -> list[Array]:
        return [worth] * stay + [move(worth, direction) for direction in _DIRECTIONS]

    ended = terminal | unpack(walls, terminal.shape[-1])
    return _induce(results, arrival, ended, slip, horizon, steps)


def heading_plan(
    walls: Array,
    arrival: Callable[[Array], Array],
    terminal: Array,
    slip: Array,
    horizon: Array,
    steps: Array,
) -> tuple[Array, Array]:
    """`plan` for an agent with a heading: float32 and int32 [4, H, W], by heading and square.

    Args: those of `plan`, with `arrival` and `terminal` [H, W] likewise.
    """
    move = _mover(walls, terminal.shape[-1])

    def results(worth: Array) -> list[Array]:
        forward = jnp.stack([move(worth[d], d) for d in _DIRECTIONS])
        return [jnp.roll(worth, 1, axis=0), jnp.roll(worth, -1, axis=0), forward]

    ended = jnp.broadcast_to(terminal | unpack(walls, terminal.shape[-1]), (4, *terminal.shape))
    return _induce(results, lambda t: arrival(t)[None], ended, slip, horizon, steps)


def _induce(
    results: Callable[[Array], list[Array]],
    arrival: Callable[[Array], Array],
    ended: Array,
    slip: Array,
    horizon: Array,
    steps: Array,
) -> tuple[Array, Array]:
    """Values and best actions, shaped like `ended`; `results` gives each action's value."""

    def trip(back: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        values, _ = carry
        worth = jnp.stack(results(arrival(horizon - back) + values))
        best = (1 - slip) * jnp.max(worth, axis=0) + slip * jnp.mean(worth, axis=0)
        return jnp.where(ended, jnp.float32(0), best), jnp.argmax(worth, axis=0).astype(jnp.int32)

    first = jnp.zeros(ended.shape, jnp.float32), jnp.zeros(ended.shape, jnp.int32)
    return jax.lax.fori_loop(jnp.int32(0), horizon - steps, trip, first)


def _mover(walls: Array, wide: int) -> Callable[[Array, int], Array]:
    """A function from the values of squares [H, W] to those of moving from each in a direction."""
    is_open = ~unpack(walls, wide)

    def shifted(squares: Array, direction: int) -> Array:
        padded = jnp.pad(squares, 1)
        down, right = {UP: (0, 1), RIGHT: (1, 2), DOWN: (2, 1), LEFT: (1, 0)}[direction]
        return padded[down : down + squares.shape[0], right : right + squares.shape[1]]

    def move(worth: Array, direction: int) -> Array:
        return jnp.where(shifted(is_open, direction), shifted(worth, direction), worth)

    return move
