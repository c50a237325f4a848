"""Doors and keys: DoorKey, Unlock, UnlockPickup and KeyCorridor."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..world import BALL, BOX, CLOSED, DOOR, GOAL, GREEN, KEY, LOCKED, NOWHERE, YELLOW, MiniGridTask
from .build import Thing, at, choose, choose_pose, draw, enclosed, integer, is_square, level, within

__all__ = ["door_key", "key_corridor", "unlock"]

Array = jax.Array


def door_key(key: Array, size: int, count: int) -> MiniGridTask:
    """MiniGrid-DoorKey: a wall with a locked door; the agent starts on the key's side of it."""
    del count
    shape = (size, size)
    draws = draw(key, 3, 2, shape)
    column, row = integer(draws.numbers[0], 2, size - 2), integer(draws.numbers[1], 1, size - 2)
    dividing = within(shape, (1, size - 1), (column, column + 1))
    left = within(shape, (1, size - 1), (1, column))
    start = choose(draws.tickets[0], left)
    found = choose(draws.tickets[1], left & ~is_square(shape, start))
    door = at(row, column)
    things = [
        Thing(GOAL, GREEN, at(size - 2, size - 2)),
        Thing(KEY, YELLOW, found),
        Thing(DOOR, YELLOW, door, LOCKED),
    ]
    walls = jnp.asarray(enclosed(*shape)) | dividing & ~is_square(shape, door)
    return level(walls, things, start, integer(draws.numbers[2], 0, 4))


def unlock(key: Array, size: int, count: int, box: bool = False) -> MiniGridTask:
    """MiniGrid-Unlock: two rooms of side `size`, a locked door between them, and its key.

    Args:
      key: typed, consumed.
      size: side of a room.
      count: unused.
      box: draws MiniGrid-UnlockPickup: the level ends when a box in the other room is picked up.
    """
    del count
    shape, far = (size, 2 * size - 1), size - 1
    draws = draw(key, 3, 6, shape)
    room = within(shape, (1, far), (1, far))
    colour, row = integer(draws.numbers[0], 0, 6), integer(draws.numbers[1], 1, far)
    door = Thing(DOOR, colour, at(row, far), LOCKED)
    found = Thing(KEY, colour, choose(draws.tickets[0], room))
    free = room & ~is_square(shape, found.square)
    start, heading = choose_pose(draws.tickets[1:5], free, [found, door])
    things = [found, door]
    if box:
        # MiniGrid parks the agent there until it is placed, and puts no box on or next to it.
        middle, column = size // 2, far + size // 2
        near = within(shape, (middle - 1, middle + 2), (column, column + 1))
        near |= within(shape, (middle, middle + 1), (column - 1, column + 2))
        other = within(shape, (1, far), (size, 2 * far)) & ~near
        square = choose(draws.tickets[5], other)
        things.append(Thing(BOX, integer(draws.numbers[2], 0, 6), square))
    walls = enclosed(*shape)
    walls[:, far] = True
    walls = jnp.asarray(walls) & ~is_square(shape, door.square)
    return level(walls, things, start, heading, target=len(things) - 1)


def key_corridor(key: Array, size: int, count: int) -> MiniGridTask:
    """MiniGrid-KeyCorridor: `count` rows of a room of side `size`, a hallway and another room.

    The ball to pick up is in a locked room on the right, the key in a room on the left. Doors
    between other neighbours are added in random order until every room can be reached.
    """
    side = size - 1  # from one room's corner to the next one's
    shape = (count * side + 1, 3 * side + 1)
    walls = np.zeros(shape, bool)
    walls[::side] = walls[:, ::side] = True
    for row in range(1, count):
        walls[row * side, side + 1 : 2 * side] = False

    # The walls that may have a door: first, row by row, the two between columns, then those between
    # the rows of the outer columns. Rooms are numbered row by row; the whole hallway is room 1.
    across = [(row, column) for row in range(count) for column in (0, 1)]
    along = [(row, column) for row in range(count - 1) for column in (0, 2)]
    name = np.arange(3 * count).reshape(count, 3)
    name[:, 1] = 1
    pairs = [(name[r, c], name[r, c + 1]) for r, c in across]
    pairs += [(name[r, c], name[r + 1, c]) for r, c in along]
    draws = draw(key, 3 * len(pairs) + 3, 6, shape)
    order, inside, colours = draws.numbers[:-3].reshape(3, -1)
    inside, colours = integer(inside, 1, side), integer(colours, 0, 6)
    places = [at(r * side + inside[n], (c + 1) * side) for n, (r, c) in enumerate(across)]
    places += [
        at((r + 1) * side, c * side + inside[n]) for n, (r, c) in enumerate(along, len(across))
    ]

    locked_row, key_row = integer(draws.numbers[-3:-1], 0, count)
    locked = 2 * locked_row + 1
    first, second = (jnp.asarray(end, jnp.int32) for end in zip(*pairs, strict=True))
    has_door = _connected(order, first, second, locked, 3 * count)

    def room(row: Array, column: int) -> Array:
        return within(
            shape, (row * side + 1, row * side + side), (column * side + 1, (column + 1) * side)
        )

    ball_square = choose(draws.tickets[0], room(locked_row, 2))
    ball = Thing(BALL, integer(draws.numbers[-1], 0, 6), ball_square)
    found = Thing(KEY, colours[locked], choose(draws.tickets[1], room(key_row, 0)))
    lock = Thing(DOOR, found.colour, jnp.stack(places)[locked], LOCKED)
    # The middle room of the hallway and its sides, some of which are open. When MiniGrid places the
    # agent, the locked door is the only one.
    middle = count // 2
    hall = within(shape, (middle * side, middle * side + size), (side, side + size))
    start, heading = choose_pose(draws.tickets[2:], hall & ~jnp.asarray(walls), [lock])

    things, open_walls = [], jnp.asarray(walls)
    for index, square in enumerate(places):
        here = has_door[index]
        state = jnp.where(index == locked, jnp.int32(LOCKED), jnp.int32(CLOSED))
        kind, colour, door = (
            jnp.where(here, value, jnp.int32(0))
            for value in (jnp.int32(DOOR), colours[index], state)
        )
        things.append(Thing(kind, colour, jnp.where(here, square, jnp.int32(NOWHERE)), door))
        open_walls &= ~(is_square(shape, square) & here)
    things += [found, ball]
    return level(open_walls, things, start, heading, target=len(things) - 1)


def _connected(order: Array, first: Array, second: Array, locked: Array, rooms: int) -> Array:
    """Which pairs of rooms, `first` and `second` [pairs], have a door: bool [pairs].

    The pair `locked` has one. Then pairs that do not include the room behind it are added in the
    order of the numbers `order` [pairs], until all rooms are connected.
    """
    pairs = first.shape[0]
    behind = second[locked]
    # The representative of each room's connected component; nonexistent rooms have their own.
    known_by = jnp.arange(rooms, dtype=jnp.int32)
    exists = jnp.zeros((rooms,), bool).at[first].set(True).at[second].set(True)

    def joined(known_by: Array, pair: Array) -> Array:
        return jnp.where(known_by == known_by[second[pair]], known_by[first[pair]], known_by)

    def consider(known_by: Array, pair: Array) -> tuple[Array, Array]:
        together = jnp.all((known_by == known_by[1]) | ~exists)
        adds = ~together & (first[pair] != behind) & (second[pair] != behind)
        return jnp.where(adds, joined(known_by, pair), known_by), adds

    in_order = jnp.argsort(order)
    _, adds = jax.lax.scan(consider, joined(known_by, locked), in_order)
    return jnp.zeros((pairs,), bool).at[in_order].set(adds).at[locked].set(True)
