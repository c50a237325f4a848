"""Several rooms: FourRooms, MultiRoom and Memory."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..world import BALL, CLOSED, DOOR, GOAL, GREEN, KEY, NOWHERE, MiniGridTask
from .build import Thing, at, choose, enclosed, is_square, level, random_heading, within

__all__ = ["SIDE", "four_rooms", "memory", "multi_room"]

Array = jax.Array


def four_rooms(key: Array, size: int, count: int) -> MiniGridTask:
    """MiniGrid-FourRooms: an opening in each of the four walls between the rooms."""
    del count
    keys = jax.random.split(key, 4)
    shape, half = (size, size), size // 2
    walls = enclosed(*shape)
    walls[half] = walls[:, half] = True
    walls = jnp.asarray(walls)
    places = jax.random.randint(keys[0], (2, 2), 1, half, jnp.int32)
    for second in (0, 1):
        down, along = places[:, second] + second * half
        walls &= ~is_square(shape, at(down, half)) & ~is_square(shape, at(half, along))
    start = choose(keys[1], ~walls)
    goal = choose(keys[2], ~walls & ~is_square(shape, start))
    return level(walls, [Thing(GOAL, GREEN, goal)], start, random_heading(keys[3]))


def memory(key: Array, size: int, count: int, stretches: bool = False) -> MiniGridTask:
    """MiniGrid-Memory: at the end of a hallway, go to the object that is like the first one.

    With `stretches` the length of the hallway is random, as MiniGrid's `random_length`.
    """
    del count
    keys = jax.random.split(key, 3)
    shape, middle = (size, size), size // 2
    fork = jnp.int32(size - 3)  # the column of the wall where the hallway ends
    if stretches:
        fork = jax.random.randint(keys[0], (), 4, size - 2, jnp.int32)
    walls = jnp.asarray(enclosed(*shape))
    for row in (middle - 2, middle + 2):
        walls |= within(shape, (row, row + 1), (1, 5))
    for row in (middle - 1, middle + 1):
        walls |= within(shape, (row, row + 1), (4, jnp.maximum(fork, 5)))
    walls |= within(shape, (0, size), (fork, fork + 1)) & ~within(
        shape, (middle, middle + 1), (0, size)
    )
    walls |= within(shape, (0, size), (fork + 2, fork + 3))

    start = at(middle, jax.random.randint(keys[1], (), 1, fork + 1, jnp.int32))
    is_key, key_is_above = jax.random.bernoulli(keys[2], shape=(2,))
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
_TRIES = 8  # MiniGrid's: places for the next room before an attempt ends
_LEAST = 4  # squares along a side of a room


class _Rooms(NamedTuple):
    """A chain of rooms."""

    placed: Array  # () int32, how many there are
    corners: Array  # [rooms, 2] int32, row and column of the top left corner
    sizes: Array  # [rooms, 2] int32, height and width, walls included
    doors: Array  # [rooms, 2] int32, the square by which each is entered from the one before
    wall: Array  # () int32, the heading of the wall of the last one with that door


def multi_room(key: Array, size: int, count: int) -> MiniGridTask:
    """MiniGrid-MultiRoom: a chain of `count` rooms of sides 4 to `size`, with doors between.

    MiniGrid adds rooms at random until one finds no place in eight tries, then starts again. Here
    64 attempts are made at once, and the first whole one taken. Of six rooms of up to ten squares
    a side, one level in ten million finds none and is the longest chain of the 64.
    """
    keys = jax.random.split(key, 6)
    attempts = jax.vmap(lambda key: _attempt(key, size, count))(
        jax.random.split(keys[0], _ATTEMPTS)
    )
    best = jnp.argmax(attempts.placed)
    rooms = jax.tree.map(lambda leaf: leaf[best], attempts)

    shape = (SIDE, SIDE)
    walls = jnp.zeros(shape, bool)
    for room in range(count):
        walls |= _inside(rooms, room, 0) & ~_inside(rooms, room, 1) & (room < rooms.placed)
    colour = jax.random.randint(keys[1], (), 0, 6, jnp.int32)
    steps = jax.random.randint(keys[2], (count,), 1, 6, jnp.int32)
    things = []
    for room in range(1, count):
        here = room < rooms.placed
        square = rooms.doors[room]
        walls &= ~(is_square(shape, square) & here)
        kind, state = (jnp.where(here, jnp.int32(value), 0) for value in (DOOR, CLOSED))
        things.append(Thing(kind, colour, jnp.where(here, square, jnp.int32(NOWHERE)), state))
        colour = (colour + steps[room]) % 6  # another one than the last
    start = choose(keys[3], _inside(rooms, 0, 1))
    last = _inside(rooms, rooms.placed - 1, 1) & ~is_square(shape, start)
    things.append(Thing(GOAL, GREEN, choose(keys[4], last)))
    return level(walls, things, start, random_heading(keys[5]))


def _inside(rooms: _Rooms, room: int | Array, margin: int) -> Array:
    """The squares of a room, `margin` squares from its sides: bool [SIDE, SIDE]."""
    top, left = rooms.corners[room]
    high, wide = rooms.sizes[room]
    return within(
        (SIDE, SIDE), (top + margin, top + high - margin), (left + margin, left + wide - margin)
    )


def _attempt(key: Array, size: int, count: int) -> _Rooms:
    keys = jax.random.split(key, 1 + _TRIES * (count - 1))
    key_corner, key_size = jax.random.split(keys[0])
    corner = jax.random.randint(key_corner, (2,), 0, SIDE - 2, jnp.int32)
    sizes = jax.random.randint(key_size, (2,), _LEAST, size + 1, jnp.int32)
    nothing = jnp.zeros((count, 2), jnp.int32)
    rooms = _Rooms(jnp.int32(0), nothing, nothing, nothing, jnp.int32(2))
    rooms = _placed(rooms, jnp.int32(0), corner, sizes, corner, jnp.int32(2))

    def attempt(rooms: _Rooms, number_and_key: tuple[Array, Array]) -> tuple[_Rooms, None]:
        number, key = number_and_key
        return _placed(rooms, number, *_next_room(key, rooms, number - 1, size)), None

    number = 1 + jnp.arange(_TRIES * (count - 1), dtype=jnp.int32) // _TRIES
    rooms, _ = jax.lax.scan(attempt, rooms, (number, keys[1:]))
    return rooms


def _next_room(
    key: Array, rooms: _Rooms, last: Array, size: int
) -> tuple[Array, Array, Array, Array]:
    """Corner, size and door of a room next to `last`, and the heading of the door's wall in it."""
    keys = jax.random.split(key, 4)
    # Out by any wall but the one with the door in; walls are 0 right, 1 below, 2 left, 3 above.
    out = (rooms.wall + jax.random.randint(keys[0], (), 1, 4, jnp.int32)) % 4
    sideways = (out & 1) == 0
    corner, (high, wide) = rooms.corners[last], rooms.sizes[last]
    along = jax.random.randint(keys[1], (), 1, jnp.where(sideways, high, wide) - 1, jnp.int32)
    down = jnp.where(sideways, along, jnp.where(out == 1, high - 1, 0))
    right = jnp.where(sideways, jnp.where(out == 0, wide - 1, 0), along)
    door = corner + jnp.stack([down, right])
    sizes = jax.random.randint(keys[2], (2,), _LEAST, size + 1, jnp.int32)
    back = jax.random.randint(
        keys[3], (), 1, jnp.where(sideways, sizes[0], sizes[1]) - 1, jnp.int32
    )
    up = jnp.where(sideways, back, jnp.where(out == 3, sizes[0] - 1, 0))
    left = jnp.where(sideways, jnp.where(out == 2, sizes[1] - 1, 0), back)
    return door - jnp.stack([up, left]), sizes, door, (out + 2) % 4


def _placed(
    rooms: _Rooms, number: Array, corner: Array, sizes: Array, door: Array, wall: Array
) -> _Rooms:
    """`rooms` with one more, room `number`, if it is the next and there is a place for it."""
    end = corner + sizes
    # MiniGrid's tests, with their asymmetries; the room before is next to it and not tested.
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
