"""What the generators share: from a plan of squares to a task."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...grids import pack
from ..world import NOWHERE, MiniGridTask

__all__ = [
    "Thing",
    "at",
    "choose",
    "choose_pose",
    "enclosed",
    "is_square",
    "level",
    "random_colour",
    "random_heading",
    "within",
]

Array = jax.Array


class Thing(NamedTuple):
    """An object of a level."""

    kind: int | Array
    colour: int | Array
    square: Array  # (2,) int32
    door: int | Array = 0


def at(row: int | Array, column: int | Array) -> Array:
    """A square, (2,) int32."""
    return jnp.stack([jnp.asarray(row, jnp.int32), jnp.asarray(column, jnp.int32)])


def enclosed(high: int, wide: int) -> np.ndarray:
    """Walls around an empty room, bool [high, wide]."""
    walls = np.ones((high, wide), bool)
    walls[1:-1, 1:-1] = False
    return walls


def within(shape: tuple[int, ...], rows: tuple, columns: tuple) -> Array:
    """The rectangle first <= row < last, first <= column < last: bool [H, W]."""
    row, column = (jnp.asarray(index, jnp.int32) for index in np.indices(shape))
    in_rows = (row >= rows[0]) & (row < rows[1])
    return in_rows & (column >= columns[0]) & (column < columns[1])


def is_square(shape: tuple[int, ...], square: Array) -> Array:
    """The set of one square: bool [H, W]."""
    return within(shape, (square[0], square[0] + 1), (square[1], square[1] + 1))


def choose(key: Array, allowed: Array) -> Array:
    """One of the squares `allowed`, bool [H, W], each as likely: (2,) int32.

    What MiniGrid's `place_obj` finds by drawing squares until it may have one.
    """
    ticket = jnp.where(allowed, jax.random.uniform(key, allowed.shape), -1.0)
    row, column = jnp.unravel_index(jnp.argmax(ticket), allowed.shape)
    return at(row, column)


def choose_pose(key: Array, allowed: Array, things: list[Thing]) -> tuple[Array, Array]:
    """An allowed square (2,) and a heading () that face none of the things: each pose as likely.

    The squares of the things must not be `allowed`.
    """
    taken = jnp.zeros(allowed.shape, bool)
    for thing in things:
        taken |= is_square(allowed.shape, thing.square)
    around = jnp.pad(taken, 1)
    facing = jnp.stack([around[1:-1, 2:], around[2:, 1:-1], around[1:-1, :-2], around[:-2, 1:-1]])
    ticket = jnp.where(allowed[None] & ~facing, jax.random.uniform(key, facing.shape), -1.0)
    heading, row, column = jnp.unravel_index(jnp.argmax(ticket), facing.shape)
    return at(row, column), heading.astype(jnp.int32)


def random_heading(key: Array) -> Array:
    """() int32 in 0..3."""
    return jax.random.randint(key, (), 0, 4, jnp.int32)


def random_colour(key: Array) -> Array:
    """() int32 in 0..5."""
    return jax.random.randint(key, (), 0, 6, jnp.int32)


def level(
    walls: np.ndarray | Array,
    things: list[Thing],
    start: Array,
    heading: int | Array = 0,
    *,
    lava: Array | None = None,
    target: int = -1,
    answers: tuple[Array, Array] | None = None,
    fixed: bool = False,
) -> MiniGridTask:
    """The task of a level; its horizon, the environment's affair, is 0.

    Args:
      walls, lava: bool [H, W].
      answers: the right square and the wrong one, where the level asks.
    """
    nowhere = jnp.full((2,), NOWHERE, jnp.int32)
    ground = jnp.zeros(walls.shape, bool) if lava is None else lava

    def column(values: list) -> Array:
        return jnp.stack([jnp.asarray(value, jnp.int32) for value in values])

    return MiniGridTask(
        walls=pack(jnp.asarray(walls)),
        lava=pack(ground),
        kinds=column([thing.kind for thing in things]),
        colours=column([thing.colour for thing in things]),
        squares=jnp.stack([thing.square for thing in things]),
        doors=column([thing.door for thing in things]),
        start=start,
        heading=jnp.asarray(heading, jnp.int32),
        target=jnp.array(target, jnp.int32),
        answers=jnp.stack(answers or (nowhere, nowhere)),
        fixed=jnp.array(fixed),
        horizon=jnp.array(0, jnp.int32),
    )
