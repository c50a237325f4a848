"""Balls that move at random, as in MiniGrid's Dynamic-Obstacles."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..grids import is_wall
from .world import BALL, GOAL, MiniGridState, MiniGridTask, ahead

__all__ = ["blocked", "walk"]

Array = jax.Array


def blocked(state: MiniGridState, task: MiniGridTask) -> Array:
    """Whether a wall or an object other than a goal is ahead, () bool."""
    front = ahead(state.position, state.heading)
    here = jnp.all(state.squares == front[None], axis=1) & (task.kinds != 0)
    return is_wall(task.walls, front) | jnp.any(here & (task.kinds != GOAL))


def walk(key: Array, state: MiniGridState, task: MiniGridTask) -> Array:
    """Moves each ball in turn to a free neighbouring square, diagonals included: squares [K, 2].

    All free squares are equally likely; a ball without one stays. (MiniGrid gives up after a
    hundred draws, which happens to one in a hundred thousand moves to a last free square.)
    """
    around = jnp.array([(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)], jnp.int32)

    def move(squares: Array, number_and_tickets: tuple[Array, Array]) -> tuple[Array, None]:
        number, tickets = number_and_tickets
        places = squares[number][None] + around
        taken = jnp.any(jnp.all(places[:, None] == squares[None], axis=2), axis=1)
        taken |= jnp.all(places == state.position[None], axis=1)
        taken |= jax.vmap(lambda place: is_wall(task.walls | task.lava, place))(places)
        tickets = jnp.where(taken, jnp.float32(-1), tickets)
        moves = (task.kinds[number] == BALL) & ~jnp.all(taken)
        place = jnp.where(moves, places[jnp.argmax(tickets)], squares[number])
        return squares.at[number].set(place), None

    count = state.squares.shape[0]
    numbers = jnp.arange(count, dtype=jnp.int32)
    tickets = jax.random.uniform(key, (count, len(around)), jnp.float32)
    squares, _ = jax.lax.scan(move, state.squares, (numbers, tickets))
    return squares
