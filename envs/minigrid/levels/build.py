"""Shared by the generators: random draws, sets of squares, and making a task of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...grids import pack
from ..world import NOWHERE, MiniGridTask

__all__ = [
    "Draws",
    "Thing",
    "at",
    "choose",
    "choose_pose",
    "draw",
    "enclosed",
    "integer",
    "is_square",
    "level",
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
    """The walls of one empty room, bool [high, wide]."""
    walls = np.ones((high, wide), bool)
    walls[1:-1, 1:-1] = False
    return walls


def within(shape: tuple[int, ...], rows: tuple, columns: tuple) -> Array:
    """The squares in rows[0] <= row < rows[1], columns[0] <= column < columns[1]: bool [H, W]."""
    row, column = (jnp.asarray(index, jnp.int32) for index in np.indices(shape))
    in_rows = (row >= rows[0]) & (row < rows[1])
    return in_rows & (column >= columns[0]) & (column < columns[1])


def is_square(shape: tuple[int, ...], square: Array) -> Array:
    """The set of the one square (2,): bool [H, W]."""
    return within(shape, (square[0], square[0] + 1), (square[1], square[1] + 1))


class Draws(NamedTuple):
    """All the randomness of a level: uniform numbers in [0, 1)."""

    numbers: Array  # [n] float32, single numbers
    tickets: Array  # [m, H, W] float32, grids with one number a square


def draw(key: Array, numbers: int, tickets: int, shape: tuple[int, int]) -> Draws:
    """Draws uniform numbers and grids of uniform numbers in one call.

    XLA takes a third of a second to compile a call; two calls in sequence take longer.

    Args:
      key: typed, consumed.
      numbers: how many single numbers.
      tickets: how many grids.
      shape: rows and columns of a grid.
    """
    drawn = jax.random.uniform(key, (numbers + tickets * shape[0] * shape[1],), jnp.float32)
    return Draws(drawn[:numbers], drawn[numbers:].reshape(tickets, *shape))


def integer(number: Array, low: int | Array, high: int | Array) -> Array:
    """An int32 uniform over low <= n < high, from a uniform `number` of the same shape."""
    low, high = jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32)
    return low + (number * (high - low).astype(jnp.float32)).astype(jnp.int32)


def choose(tickets: Array, allowed: Array) -> Array:
    """The square (2,) int32 with the highest ticket [H, W] among those `allowed`, bool [H, W].

    All are equally likely, as in MiniGrid's `place_obj`, which draws squares until one is allowed.
    """
    row, column = _highest(tickets, allowed)
    return at(row, column)


def choose_pose(tickets: Array, allowed: Array, things: list[Thing]) -> tuple[Array, Array]:
    """An allowed square (2,) and a heading () that face none of the things; uniform over poses.

    `tickets` is [4, H, W]. The squares of the things must not be `allowed`.
    """
    taken = jnp.zeros(allowed.shape, bool)
    for thing in things:
        taken |= is_square(allowed.shape, thing.square)
    around = jnp.pad(taken, 1)
    facing = jnp.stack([around[1:-1, 2:], around[2:, 1:-1], around[1:-1, :-2], around[:-2, 1:-1]])
    heading, row, column = _highest(tickets, allowed[None] & ~facing)
    return at(row, column), heading.astype(jnp.int32)


def _highest(tickets: Array, allowed: Array) -> tuple[Array, ...]:
    best = jnp.argmax(jnp.where(allowed, tickets, jnp.float32(-1)))
    return jnp.unravel_index(best, allowed.shape)


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
    """The task of a level, with a horizon of 0 that the environment replaces.

    Args:
      walls: bool [H, W].
      things: the objects.
      start: (2,) int32, the agent's square.
      heading: () int32, the agent's heading.
      lava: bool [H, W]; none if None.
      target: the index of the object to open or pick up, or -1.
      answers: the squares (2,) of success and of failure, if the level has them.
      fixed: whether nothing can be picked up.
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
