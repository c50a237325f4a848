"""MiniGrid's families of levels: how each is drawn, and the sizes it comes in."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from ..world import MiniGridTask
from .doors import door_key, key_corridor, unlock
from .open import crossing, dist_shift, dynamic_obstacles, empty, lava_gap
from .rooms import SIDE, four_rooms, memory, multi_room

__all__ = ["FAMILIES", "Family"]

_LARGEST = 63


def _square(size: int, count: int) -> tuple[int, int]:
    del count
    return size, size


def _per_square(steps: int) -> Callable[[int, int], int]:
    return lambda size, count: steps * size**2


@dataclasses.dataclass(frozen=True)
class Family:
    """A distribution over levels for each size and count."""

    draw: Callable[[jax.Array, int, int], MiniGridTask]  # key, size, count -> task, horizon unset
    horizon: Callable[[int, int], int]  # size, count -> MiniGrid's max_steps
    size: int  # the default; what it measures is said in `MiniGrid`
    sizes: range
    shape: Callable[[int, int], tuple[int, int]] = _square  # size, count -> height, width
    count: int = 1  # the default; what it counts is said in `MiniGrid`
    counts: range = range(1, 2)
    see_through_walls: bool = False
    obstacles: bool = False  # whether balls move at random
    fetches: bool = False  # whether an object must be picked up, so that `fetch` is the oracle


_SIZES = range(5, _LARGEST + 1)
_EMPTY = Family(empty, _per_square(4), 8, _SIZES, see_through_walls=True)
_CROSSING = Family(crossing, _per_square(4), 9, _SIZES[::2], counts=range(1, 7))
_MEMORY = Family(memory, _per_square(5), 9, range(7, _LARGEST + 1, 2))
_OBSTACLES = Family(
    dynamic_obstacles,
    _per_square(4),
    8,
    _SIZES,
    count=4,
    counts=range(1, 9),
    see_through_walls=True,
    obstacles=True,
)
_UNLOCK = Family(unlock, _per_square(8), 6, range(4, 33), lambda size, count: (size, 2 * size - 1))

FAMILIES: dict[str, Family] = {
    "empty": _EMPTY,
    "empty-random": dataclasses.replace(_EMPTY, draw=functools.partial(empty, anywhere=True)),
    "fourrooms": Family(four_rooms, lambda size, count: 100, 19, range(7, _LARGEST + 1, 2)),
    "doorkey": Family(door_key, _per_square(10), 8, _SIZES),
    "unlock": _UNLOCK,
    "unlockpickup": dataclasses.replace(
        _UNLOCK, draw=functools.partial(unlock, box=True), fetches=True
    ),
    "keycorridor": Family(
        key_corridor,
        _per_square(30),
        3,
        range(3, 17),
        lambda size, count: (count * (size - 1) + 1, 3 * (size - 1) + 1),
        count=3,
        counts=range(1, 4),
        fetches=True,
    ),
    "lavagap": Family(lava_gap, _per_square(4), 7, _SIZES),
    "lavacrossing": _CROSSING,
    "simplecrossing": dataclasses.replace(_CROSSING, draw=functools.partial(crossing, wet=False)),
    "multiroom": Family(
        multi_room,
        lambda size, count: 20 * count,
        10,
        range(4, 11),
        lambda size, count: (SIDE, SIDE),
        count=6,
        counts=range(2, 7),
    ),
    "memory": _MEMORY,
    "memory-random": dataclasses.replace(_MEMORY, draw=functools.partial(memory, stretches=True)),
    "distshift": Family(
        dist_shift,
        lambda size, count: 252,
        9,
        range(9, 10),
        lambda size, count: (7, 9),
        counts=range(1, 3),
        see_through_walls=True,
    ),
    "dynamic-obstacles": _OBSTACLES,
    "dynamic-obstacles-random": dataclasses.replace(
        _OBSTACLES, draw=functools.partial(dynamic_obstacles, anywhere=True)
    ),
}
