"""One room and a goal: Empty, DistShift, LavaGap, and the crossings of lava or walls."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..world import BALL, BLUE, GOAL, GREEN, MiniGridTask
from .build import Draws, Thing, at, choose, draw, enclosed, integer, is_square, level, within

__all__ = [
    "crossing",
    "dist_shift",
    "dynamic_obstacles",
    "empty",
    "lava_gap",
]

Array = jax.Array


def _goal(row: int, column: int) -> Thing:
    return Thing(GOAL, GREEN, at(row, column))


def _start(draws: Draws, size: int, anywhere: bool) -> tuple[Array, Array]:
    """Start and heading: top left, facing east, or random on any square but the goal's."""
    if not anywhere:
        return at(1, 1), jnp.int32(0)
    free = jnp.asarray(~enclosed(size, size)).at[size - 2, size - 2].set(False)
    return choose(draws.tickets[0], free), integer(draws.numbers[0], 0, 4)


def empty(key: Array, size: int, count: int, anywhere: bool = False) -> MiniGridTask:
    """MiniGrid-Empty.

    Args:
      key: typed, consumed.
      size: side of the grid.
      count: unused.
      anywhere: whether the start is random, as in MiniGrid-Empty-Random.
    """
    del count
    start, heading = _start(draw(key, 1, 1, (size, size)), size, anywhere)
    return level(enclosed(size, size), [_goal(size - 2, size - 2)], start, heading)


def dynamic_obstacles(key: Array, size: int, count: int, anywhere: bool = False) -> MiniGridTask:
    """MiniGrid-Dynamic-Obstacles: balls, objects 1 to `count`, that will move at random.

    Args:
      key: typed, consumed.
      size: side of the grid.
      count: number of balls; `size // 2` if it is above `size / 2 + 1`.
      anywhere: whether the start is random.
    """
    if count > size / 2 + 1:  # MiniGrid's limit
        count = size // 2
    shape = (size, size)
    draws = draw(key, 1, 1 + count, shape)
    start, heading = _start(draws, size, anywhere)
    things = [_goal(size - 2, size - 2)]
    free = jnp.asarray(~enclosed(*shape)) & ~is_square(shape, start)
    for tickets in draws.tickets[1:]:
        free &= ~is_square(shape, things[-1].square)
        things.append(Thing(BALL, BLUE, choose(tickets, free)))
    return level(enclosed(*shape), things, start, heading)


def dist_shift(key: Array, size: int, count: int) -> MiniGridTask:
    """MiniGrid-DistShift: the second strip of lava is in row 2 (`count` 1) or 5 (`count` 2)."""
    del key, size
    shape = (7, 9)
    lava = within(shape, (1, 2), (3, 6)) | within(shape, (3 * count - 1, 3 * count), (3, 6))
    return level(enclosed(*shape), [_goal(1, 7)], at(1, 1), lava=lava)


def lava_gap(key: Array, size: int, count: int) -> MiniGridTask:
    """MiniGrid-LavaGap: a column of lava with one gap."""
    del count
    numbers = jax.random.uniform(key, (2,), jnp.float32)
    row, column = integer(numbers[0], 1, size - 1), integer(numbers[1], 2, size - 2)
    shape = (size, size)
    lava = within(shape, (1, size - 1), (column, column + 1)) & ~is_square(shape, at(row, column))
    return level(enclosed(*shape), [_goal(size - 2, size - 2)], at(1, 1), lava=lava)


def crossing(key: Array, size: int, count: int, wet: bool = True) -> MiniGridTask:
    """MiniGrid-LavaCrossing, or with walls MiniGrid-SimpleCrossing: `count` rivers to cross.

    Rivers are `count` of the even rows and columns, which divide the grid into a grid of rooms. A
    random monotone path of rooms leads from the first to the last; each room opens to the next at
    a random place on their shared side.

    Args:
      key: typed, consumed.
      size: side of the grid.
      count: number of rivers.
      wet: whether rivers are lava, not walls.
    """
    banks = jnp.arange(2, size - 2, 2, dtype=jnp.int32)
    most = 2 * len(banks)
    count = min(count, most)
    numbers = jax.random.uniform(key, (most + 2 * count,), jnp.float32)
    chosen = _ranks(numbers[:most]) < count
    is_column, is_row = chosen[: len(banks)], chosen[len(banks) :]

    def limits(present: Array) -> Array:
        """The coordinates of the rooms' walls along one axis, ascending; the last is repeated."""
        rivers = jnp.sort(jnp.where(present, banks, jnp.int32(size - 1)))
        return jnp.concatenate([jnp.zeros((1,), jnp.int32), rivers, jnp.full((1,), size - 1)])

    columns, rows = limits(is_column), limits(is_row)
    river = within((size, size), (0, 0), (0, 0))
    for bank in range(len(banks)):
        here = 2 + 2 * bank
        river |= within((size, size), (1, size - 1), (here, here + 1)) & is_column[bank]
        river |= within((size, size), (here, here + 1), (1, size - 1)) & is_row[bank]

    # `count` moves in random order; as many go east as there are columns to cross.
    ranks = _ranks(numbers[most : most + count])
    goes_east = ranks < jnp.sum(is_column, dtype=jnp.int32)
    east = south = jnp.int32(0)
    for move, number in enumerate(numbers[most + count :]):
        sides = jnp.where(goes_east[move], rows[south], columns[east])
        others = jnp.where(goes_east[move], rows[south + 1], columns[east + 1])
        along = integer(number, sides + 1, others)
        opening = jnp.where(
            goes_east[move], at(along, columns[east + 1]), at(rows[south + 1], along)
        )
        river &= ~is_square((size, size), opening)
        east += goes_east[move].astype(jnp.int32)
        south += (~goes_east[move]).astype(jnp.int32)

    walls = jnp.asarray(enclosed(size, size))
    things = [_goal(size - 2, size - 2)]
    if wet:
        return level(walls, things, at(1, 1), lava=river)
    return level(walls | river, things, at(1, 1))


def _ranks(numbers: Array) -> Array:
    """The rank of each number, int32 [n]: a random permutation of 0..n - 1."""
    return jnp.sum(numbers[None] < numbers[:, None], axis=1, dtype=jnp.int32)
