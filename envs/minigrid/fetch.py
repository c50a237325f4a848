"""Shortest solutions of levels with an object behind doors, where the key may be put down.

A breadth-first fill from the end, over all that matters: the agent's square and heading, where the
key is (on its first square, in hand, or put down on another), and which doors are open. A word has
a bit for each of 32 sets of open doors, so that passing a door is a mask.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..grids import unpack
from ..solve import UNREACHABLE
from .world import (
    BALL,
    BOX,
    DONE,
    DOOR,
    EAST,
    KEY,
    LOCKED,
    NORTH,
    NOWHERE,
    OPEN,
    SOUTH,
    WEST,
    MiniGridState,
    MiniGridTask,
    transition,
)

__all__ = ["is_exact", "plan", "words"]

Array = jax.Array

_ALL = np.uint32(0xFFFFFFFF)
_BITS = 5  # number of doors whose 2^5 sets fit in one word
# Row and column of one step, by heading.
_STEPS = np.zeros((4, 2), np.int32)
_STEPS[[EAST, SOUTH, WEST, NORTH]] = (0, 1), (1, 0), (0, -1), (-1, 0)


class _Poses(NamedTuple):
    """Sets of states by where the key is: uint32, with S words for the sets of open doors."""

    lying: Array  # [4, H, W, S], the key still lies where it is now
    held: Array  # [4, H, W, S], the agent holds the key
    put: Array  # [H, W, 4, H, W, S], the key was put down on the square of the first two axes


def is_exact(task: MiniGridTask) -> Array:
    """Whether `plan` is exact, () bool: only a target ball or box, doors and at most one key."""
    number = jnp.arange(task.kinds.shape[0], dtype=jnp.int32)
    is_target, is_key = number == task.target, task.kinds == KEY
    wanted = is_target & ((task.kinds == BALL) | (task.kinds == BOX))
    known = wanted | is_key | (task.kinds == DOOR) | (task.kinds == 0)
    return (
        jnp.any(wanted)
        & jnp.all(known)
        & (jnp.sum(is_key) <= 1)
        & ~task.fixed
        & jnp.all(task.answers < 0)
    )


def words(task: MiniGridTask, wide: int) -> int:
    """How many words `plan` fills for a level of `wide` columns: a measure of its cost."""
    doors = max(task.kinds.shape[0] - 2, 0)
    return 4 * (task.walls.shape[0] * wide) ** 2 * len(_sets_without(doors))


def plan(state: MiniGridState, task: MiniGridTask, wide: int) -> tuple[Array, Array]:
    """The fewest steps from `state` to picking up the target, and the first action.

    Args:
      state: where to start.
      task: the level.
      wide: columns of the grid.

    Returns:
      steps: () int32, UNREACHABLE if there is no solution.
      action: () int32, DONE if there is none.
    """
    ground = _ground(state, task, wide)
    put = jnp.broadcast_to(ground.ends, (*ground.vacant.shape, *ground.ends.shape))
    first = _Poses(ground.ends, jnp.zeros_like(ground.ends), _off_the_key(put))
    nothing = jax.tree.map(jnp.zeros_like, first)

    def unfinished(carry: tuple[_Poses, _Poses, Array, Array]) -> Array:
        _, poses, _, grew = carry
        return grew & ~_holds(poses, state, state, task)

    def trip(carry: tuple[_Poses, _Poses, Array, Array]) -> tuple[_Poses, _Poses, Array, Array]:
        _, poses, trips, _ = carry
        further = _earlier(poses, ground)
        grew = [jnp.any(a != b) for a, b in zip(further, poses, strict=True)]
        return poses, further, trips + 1, grew[0] | grew[1] | grew[2]

    start = nothing, first, jnp.int32(1), jnp.array(True)
    nearer, poses, trips, _ = jax.lax.while_loop(unfinished, trip, start)
    found = _holds(poses, state, state, task)

    def leads(action: Array) -> Array:
        following, success, failure = transition(state, action, task)
        return success | ~failure & _holds(nearer, following, state, task)

    good = jax.vmap(leads)(jnp.arange(DONE, dtype=jnp.int32))
    steps = jnp.where(found, trips, jnp.int32(UNREACHABLE))
    return steps, jnp.where(found, jnp.argmax(good).astype(jnp.int32), jnp.int32(DONE))


class _Ground(NamedTuple):
    """What the fill needs to know of a level with at most D doors."""

    without_key: Array  # [H, W, S] uint32, the sets of open doors that let a square be entered
    with_key: Array  # [H, W, S] uint32, the same while the key lies where it is now
    vacant: Array  # [H, W] bool, whether the key can be put down on a square
    ends: Array  # [4, H, W, S] uint32, the poses that face the target
    at_key: tuple[Array, Array, Array]  # heading, row and column [4] of poses facing it
    at_doors: tuple[Array, Array, Array]  # the same [D, 4] of poses facing each door
    opens: Array  # [D] bool, whether the door opens without a key
    unlocks: Array  # [D] bool, whether the door opens with the key in hand


def _ground(state: MiniGridState, task: MiniGridTask, wide: int) -> _Ground:
    is_key, is_door = task.kinds == KEY, task.kinds == DOOR
    doors = _doors(task)
    without = jnp.asarray(_sets_without(len(doors)))
    solid = unpack(task.walls | task.lava, wide)
    walked = jnp.where(solid[..., None], jnp.uint32(0), jnp.full(without.shape[:1], _ALL))

    def put(ground: Array, chosen: Array, values: Array) -> Array:
        rows = jnp.where(chosen, state.squares[:, 0], NOWHERE)
        return ground.at[rows, state.squares[:, 1]].set(values, mode="drop")

    # A door's square can be entered with the sets of open doors that contain it.
    rank = jnp.clip(jnp.cumsum(is_door, dtype=jnp.int32) - 1, 0, max(len(doors) - 1, 0))
    open_sets = jnp.where(is_door[:, None], ~without.T[rank], jnp.uint32(0))
    without_key = put(walked, (task.kinds != 0) & ~is_key, open_sets)
    with_key = put(without_key, is_key, jnp.zeros_like(open_sets))
    vacant = put(~solid, (task.kinds != 0) & ~is_key, jnp.zeros(is_key.shape, bool))
    target = jnp.arange(is_key.shape[0], dtype=jnp.int32) == task.target
    ends = jnp.zeros((4, *walked.shape), jnp.uint32)
    ends = ends.at[_facing(_square_of(state, target))].set(_ALL, mode="drop")

    colour = jnp.sum(jnp.where(is_key, task.colours, 0), dtype=jnp.int32)
    here, unlocked = is_door[doors], state.doors[doors] != LOCKED
    fits = jnp.any(is_key) & (task.colours[doors] == colour)
    return _Ground(
        without_key,
        with_key,
        vacant,
        ends,
        _facing(_square_of(state, is_key)),
        jax.vmap(_facing)(state.squares[doors]),
        here & unlocked,
        here & (unlocked | fits),
    )


def _earlier(poses: _Poses, ground: _Ground) -> _Poses:
    """`poses` and the states from which one step leads into them."""
    lying = _walked(poses.lying, ground.with_key) | _opened(poses.lying, ground, ground.opens)
    picked = poses.held.at[ground.at_key].get(mode="fill", fill_value=0)
    lying |= jnp.zeros_like(lying).at[ground.at_key].set(picked, mode="drop")

    held = _walked(poses.held, ground.without_key)
    held |= _opened(poses.held, ground, ground.unlocks)
    high, wide = ground.vacant.shape
    heading, row, column = np.indices((4, high, wide))
    ahead = (row + _STEPS[heading, 0]) % high, (column + _STEPS[heading, 1]) % wide
    dropped = poses.put[(*ahead, heading, row, column)]
    held |= jnp.where(ground.vacant[ahead][..., None], dropped, jnp.uint32(0))

    by_key = jax.vmap(jax.vmap(lambda put: _opened(put, ground, ground.opens)))(poses.put)
    put = _off_the_key(_walked(poses.put, ground.without_key) | by_key)
    return _Poses(lying, held, put)


def _walked(poses: Array, ground: Array) -> Array:
    """`poses` [..., 4, H, W, S] and those from which a turn or a step forward leads into them."""
    onto = poses & ground.reshape((1,) * (poses.ndim - 3) + ground.shape)
    # The border is wall, so that nothing wraps around.
    forward = [
        jnp.roll(onto[..., heading, :, :, :], (-down, -right), axis=(-3, -2))
        for heading, (down, right) in enumerate(_STEPS.tolist())
    ]
    turned = jnp.roll(poses, 1, axis=-4) | jnp.roll(poses, -1, axis=-4)
    return poses | turned | jnp.stack(forward, axis=-4)


def _opened(poses: Array, ground: _Ground, allowed: Array) -> Array:
    """The states [4, H, W, S] from which opening a door of `allowed` [D] leads into `poses`."""
    faced = poses.at[ground.at_doors].get(mode="fill", fill_value=0)
    before = [_closed(sets, door) for door, sets in enumerate(faced)]
    if not before:
        return jnp.zeros_like(poses)
    shut = jnp.where(allowed[:, None, None], jnp.stack(before), jnp.uint32(0))
    return jnp.zeros_like(poses).at[ground.at_doors].set(shut, mode="drop")


def _closed(sets: Array, door: int) -> Array:
    """The sets of open doors [..., S] without `door` that are in `sets` once it is added."""
    if door < _BITS:
        shifted = sets >> np.uint32(1 << door)
    else:
        shifted = sets[..., np.arange(sets.shape[-1]) ^ (1 << (door - _BITS))]
    without = _sets_without(door + 1, sets.shape[-1])[:, door]
    return shifted & without.reshape((1,) * (sets.ndim - 1) + without.shape)


@functools.cache
def _sets_without(doors: int, words: int | None = None) -> np.ndarray:
    """For each door, the sets of open doors that lack it: uint32 [S, doors]."""
    words = 1 << max(doors - _BITS, 0) if words is None else words
    number = np.arange(32 * words, dtype=np.uint64).reshape(words, 32, 1)
    lacks = number >> np.arange(doors, dtype=np.uint64).reshape(1, 1, doors) & np.uint64(1) == 0
    bits = lacks.astype(np.uint64) << np.arange(32, dtype=np.uint64).reshape(1, 32, 1)
    return bits.sum(axis=1).astype(np.uint32)


def _off_the_key(put: Array) -> Array:
    """`put` [H, W, 4, H, W, S] without the states that have the agent on the key's square."""
    high, wide = put.shape[:2]
    row, column = np.indices((high, wide))
    return put.at[row, column, :, row, column].set(np.uint32(0))


def _holds(poses: _Poses, state: MiniGridState, now: MiniGridState, task: MiniGridTask) -> Array:
    """Whether `state`, a successor of the state `now` or that itself, is in `poses`, () bool."""
    is_key, doors = task.kinds == KEY, _doors(task)
    key, before = _square_of(state, is_key), _square_of(now, is_key)
    is_open = (task.kinds[doors] == DOOR) & (state.doors[doors] == OPEN)
    bits = np.int32(1) << np.arange(len(doors), dtype=np.int32)
    number = jnp.sum(jnp.where(is_open, bits, jnp.int32(0)), dtype=jnp.int32)
    here = (state.heading, state.position[0], state.position[1], number >> _BITS)
    found = jnp.where(jnp.all(key == before), poses.lying[here], poses.put[(key[0], key[1], *here)])
    held = jnp.any(is_key & (jnp.arange(is_key.shape[0], dtype=jnp.int32) == state.carried))
    found = jnp.where(held, poses.held[here], found)
    return found >> (number & 31).astype(jnp.uint32) & jnp.uint32(1) != 0


def _doors(task: MiniGridTask) -> Array:
    """The indices of the doors, int32 [D], D = K - 2; filled up with other objects."""
    order = jnp.argsort(task.kinds != DOOR).astype(jnp.int32)
    return order[: max(task.kinds.shape[0] - 2, 0)]


def _square_of(state: MiniGridState, chosen: Array) -> Array:
    """The square (2,) of the one object that is `chosen` [K]; NOWHERE if there is none."""
    squares = jnp.where(chosen[:, None], state.squares, jnp.int32(NOWHERE))
    return jnp.max(squares, axis=0)


def _facing(square: Array) -> tuple[Array, Array, Array]:
    """Headings, rows and columns [4] of the poses that face a square (2,)."""
    rows, columns = (square[None] - _STEPS).T
    return jnp.arange(4, dtype=jnp.int32), rows, columns
