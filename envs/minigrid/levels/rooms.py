"""Several rooms: FourRooms, MultiRoom and Memory."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..world import BALL, CLOSED, DOOR, GOAL, GREEN, KEY, NOWHERE, MiniGridTask
from .build import Thing, at, choose, draw, enclosed, integer, is_square, level, within

__all__ = ["SIDE", "four_rooms", "memory", "multi_room"]

Array = jax.Array


def four_rooms(key: Array, size: int, count: int) -> MiniGridTask:
    """MiniGrid-FourRooms: an opening in each of the four walls between the rooms."""
    del count
    shape, half = (size, size), size // 2
    draws = draw(key, 5, 2, shape)
    walls = enclosed(*shape)
    walls[half] = walls[:, half] = True
    walls = jnp.asarray(walls)
    places = integer(draws.numbers[:4], 1, half).reshape(2, 2)
    for second in (0, 1):
        down, along = places[:, second] + second * half
        walls &= ~is_square(shape, at(down, half)) & ~is_square(shape, at(half, along))
    start = choose(draws.tickets[0], ~walls)
    goal = choose(draws.tickets[1], ~walls & ~is_square(shape, start))
    return level(walls, [Thing(GOAL, GREEN, goal)], start, integer(draws.numbers[4], 0, 4))


def memory(key: Array, size: int, count: int, stretches: bool = False) -> MiniGridTask:
    """MiniGrid-Memory: at the end of a hallway, go to the object that matches the first one.

    Args:
      key: typed, consumed.
      size: side of the grid.
      count: unused.
      stretches: whether the hallway's length is random, MiniGrid's `random_length`.
    """
    del count
    shape, middle = (size, size), size // 2
    numbers = jax.random.uniform(key, (4,), jnp.float32)
    fork = jnp.int32(size - 3)  # the column of the wall where the hallway ends
    if stretches:
        fork = integer(numbers[0], 4, size - 2)
    walls = jnp.asarray(enclosed(*shape))
    for row in (middle - 2, middle + 2):
        walls |= within(shape, (row, row + 1), (1, 5))
    for row in (middle - 1, middle + 1):
        walls |= within(shape, (row, row + 1), (4, jnp.maximum(fork, 5)))
    walls |= within(shape, (0, size), (fork, fork + 1)) & ~within(
        shape, (middle, middle + 1), (0, size)
    )
    walls |= within(shape, (0, size), (fork + 2, fork + 3))

    start = at(middle, integer(numbers[1], 1, fork + 1))
    is_key, key_is_above = numbers[2:] < 0.5
    above, below = at(middle - 1, fork + 1), at(middle + 1, fork + 1)
    kinds = [jnp.where(flag, jnp.int32(KEY), jnp.int32(BALL)) for flag in (is_key, key_is_above)]
    other = jnp.where(key_is_above, jnp.int32(BALL), jnp.int32(KEY))
    things = [
        Thing(kinds[0], GREEN, at(middle - 1, 1)),
        Thing(kinds[1], GREEN, at(middle - 2, fork + 1)),
        Thing(other, GREEN, at(middle + 2, fork + 1)),
    ]
    is_above = is_key == key_is_above
    answers = jnp.where(is_above, above, below), jnp.where(is_above, below, above)
    return level(walls, things, start, answers=answers, fixed=True)


SIDE = 25  # squares along a side of MultiRoom's grid
_ATTEMPTS = 64
_TRIES = 8  # placements tried for the next room before an attempt ends, as in MiniGrid
_LEAST = 4  # fewest squares along a side of a room


class _Rooms(NamedTuple):
    """A chain of rooms."""

    placed: Array  # () int32, number of rooms
    corners: Array  # [rooms, 2] int32, row and column of the top left corner
    sizes: Array  # [rooms, 2] int32, height and width, walls included
    doors: Array  # [rooms, 2] int32, the door from the room before
    wall: Array  # () int32, the wall of the last room with that door, see `_next_room`


def multi_room(key: Array, size: int, count: int) -> MiniGridTask:
    """MiniGrid-MultiRoom: a chain of `count` rooms of sides 4 to `size`, with doors between.

    MiniGrid adds random rooms until one does not fit in eight tries, then starts again. Here 64
    attempts are made at once, and the first complete one is taken. With six rooms of up to ten
    squares a side, one level in ten million has no complete one and takes the longest of the 64.
    """
    shape, attempt = (SIDE, SIDE), (1 + _TRIES * (count - 1), 5)
    draws = draw(key, count + 1 + _ATTEMPTS * attempt[0] * attempt[1], 2, shape)
    numbers = draws.numbers[count + 1 :].reshape(_ATTEMPTS, *attempt)
    attempts = jax.vmap(lambda numbers: _attempt(numbers, size, count))(numbers)
    best = jnp.argmax(attempts.placed)
    rooms = jax.tree.map(lambda leaf: leaf[best], attempts)

    walls = jnp.zeros(shape, bool)
    for room in range(count):
        walls |= _inside(rooms, room, 0) & ~_inside(rooms, room, 1) & (room < rooms.placed)
    colour = integer(draws.numbers[0], 0, 6)
    things = []
    for room in range(1, count):
        here = room < rooms.placed
        square = rooms.doors[room]
        walls &= ~(is_square(shape, square) & here)
        kind, state = (jnp.where(here, jnp.int32(value), 0) for value in (DOOR, CLOSED))
        things.append(Thing(kind, colour, jnp.where(here, square, jnp.int32(NOWHERE)), state))
        colour = (colour + integer(draws.numbers[room], 1, 6)) % 6  # never the previous colour
    start = choose(draws.tickets[0], _inside(rooms, 0, 1))
    last = _inside(rooms, rooms.placed - 1, 1) & ~is_square(shape, start)
    things.append(Thing(GOAL, GREEN, choose(draws.tickets[1], last)))
    return level(walls, things, start, integer(draws.numbers[count], 0, 4))


def _inside(rooms: _Rooms, room: int | Array, margin: int) -> Array:
    """The squares of a room, `margin` squares from its sides: bool [SIDE, SIDE]."""
    top, left = rooms.corners[room]
    high, wide = rooms.sizes[room]
    return within(
        (SIDE, SIDE), (top + margin, top + high - margin), (left + margin, left + wide - margin)
    )


def _attempt(numbers: Array, size: int, count: int) -> _Rooms:
    """A chain of rooms from uniform numbers, [1 + tries, 5]."""
    corner, sizes = integer(numbers[0, :2], 0, SIDE - 2), integer(numbers[0, 2:4], _LEAST, size + 1)
    nothing = jnp.zeros((count, 2), jnp.int32)
    rooms = _Rooms(jnp.int32(0), nothing, nothing, nothing, jnp.int32(2))
    rooms = _placed(rooms, jnp.int32(0), corner, sizes, corner, jnp.int32(2))

    def attempt(rooms: _Rooms, given: tuple[Array, Array]) -> tuple[_Rooms, None]:
        number, numbers = given
        return _placed(rooms, number, *_next_room(numbers, rooms, number - 1, size)), None

    number = 1 + jnp.arange(_TRIES * (count - 1), dtype=jnp.int32) // _TRIES
    rooms, _ = jax.lax.scan(attempt, rooms, (number, numbers[1:]))
    return rooms


def _next_room(
    numbers: Array, rooms: _Rooms, last: Array, size: int
) -> tuple[Array, Array, Array, Array]:
    """Corner, size and door of a new room next to `last`, and the new room's wall with the door."""
    # Leave by any wall but the one entered by; walls are 0 right, 1 below, 2 left, 3 above.
    out = (rooms.wall + integer(numbers[0], 1, 4)) % 4
    sideways = (out & 1) == 0
    corner, (high, wide) = rooms.corners[last], rooms.sizes[last]
    along = integer(numbers[1], 1, jnp.where(sideways, high, wide) - 1)
    down = jnp.where(sideways, along, jnp.where(out == 1, high - 1, 0))
    right = jnp.where(sideways, jnp.where(out == 0, wide - 1, 0), along)
    door = corner + jnp.stack([down, right])
    sizes = integer(numbers[2:4], _LEAST, size + 1)
    back = integer(numbers[4], 1, jnp.where(sideways, sizes[0], sizes[1]) - 1)
    up = jnp.where(sideways, back, jnp.where(out == 3, sizes[0] - 1, 0))
    left = jnp.where(sideways, jnp.where(out == 2, sizes[1] - 1, 0), back)
    return door - jnp.stack([up, left]), sizes, door, (out + 2) % 4


def _placed(
    rooms: _Rooms, number: Array, corner: Array, sizes: Array, door: Array, wall: Array
) -> _Rooms:
    """`rooms` with room `number` added, if it is the next one and fits."""
    end = corner + sizes
    # MiniGrid's tests, with their asymmetries; the room before is adjacent and not tested.
    inside = jnp.all(corner >= 0) & (end[1] <= SIDE) & (end[0] < SIDE)
    apart = jnp.any(
        (end[None] < rooms.corners) | (rooms.corners + rooms.sizes <= corner[None]), axis=1
    )
    tested = jnp.arange(rooms.corners.shape[0], dtype=jnp.int32) < number - 1
    fits = (rooms.placed == number) & inside & jnp.all(apart | ~tested)
    here = (jnp.arange(rooms.corners.shape[0], dtype=jnp.int32) == number) & fits
    corners, all_sizes, doors = (
        jnp.where(here[:, None], new[None], old)
        for new, old in ((corner, rooms.corners), (sizes, rooms.sizes), (door, rooms.doors))
    )
    wall = jnp.where(fits, wall, rooms.wall)
    return _Rooms(rooms.placed + fits.astype(jnp.int32), corners, all_sizes, doors, wall)
