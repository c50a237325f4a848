"""The shortest solution of a level, by a breadth-first fill from its end.

The fill runs over poses, (has the key, heading, square), one bit each. It is exact if a shortest
solution passes no door twice and puts nothing down: in every family except those in which an object
must be picked up behind a door, which `fetch` solves.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..grids import square_set
from ..solve import UNREACHABLE
from .world import (
    BALL,
    BOX,
    CLOSED,
    DONE,
    DOOR,
    FLOOR,
    FORWARD,
    GOAL,
    KEY,
    LEFT,
    LOCKED,
    OPEN,
    PICKUP,
    RIGHT,
    TOGGLE,
    MiniGridState,
    MiniGridTask,
    ahead,
)

__all__ = ["is_exact", "plan"]

Array = jax.Array

# Sets of poses are uint32 [2, 4, H, words]: without and with the key, by heading.


def is_exact(task: MiniGridTask) -> Array:
    """Whether `plan` is exact, () bool.

    It is where nothing is to be picked up, no box or ball can be cleared away, and no key could be
    wanted from behind another door.
    """
    chosen = jnp.arange(task.kinds.shape[0], dtype=jnp.int32) == task.target
    box, ball, key, door = (jnp.sum(task.kinds == kind) for kind in (BOX, BALL, KEY, DOOR))
    plain = (ball == 0) & ((key == 0) | (key == 1) & (door <= 1))
    return ~jnp.any(chosen & (task.kinds != DOOR)) & (box == 0) & (task.fixed | plain)


def plan(state: MiniGridState, task: MiniGridTask) -> tuple[Array, Array]:
    """The fewest steps from `state` to success, and the first action.

    Returns:
      steps: () int32, UNREACHABLE if there is no solution.
      action: () int32, DONE if there is none.
    """
    free, shut, key = _ground(state, task)
    is_goal = task.kinds == GOAL
    goals = _squares(state, task, is_goal) | square_set(task.walls, task.answers[0])
    target = jnp.arange(is_goal.shape[0], dtype=jnp.int32) == task.target
    door = _squares(state, task, target & (task.kinds == DOOR))
    keyed = (_of_held(state, task) == KEY).astype(jnp.int32)
    square = square_set(task.walls, state.position)

    def holds(poses: Array, keyed: Array, heading: Array, square: Array) -> Array:
        return jnp.any(poses[keyed, heading & 3] & square != 0)

    def unfinished(carry: _Fill) -> Array:
        poses, _, _, grew = carry
        return grew & ~holds(poses[1], keyed, state.heading, square)

    def trip(carry: _Fill) -> _Fill:
        (_, poses), (_, opened), trips, _ = carry
        onward = _before(poses & free[:, None])
        turned = jnp.roll(poses, 1, axis=1) | jnp.roll(poses, -1, axis=1)
        takes = jnp.stack([at_key & poses[1], jnp.zeros_like(at_key)])
        further = (poses | onward | turned | takes | opened) & (free | shut)[:, None]
        # Poses in front of a closed door from which a step leads into `poses` once it is open.
        ready = opened | _before(poses & shut[:, None])
        grew = jnp.any((further != poses) | (ready != opened))
        return jnp.stack([poses, further]), jnp.stack([opened, ready]), trips + 1, grew

    poses = jnp.broadcast_to(goals, (2, 4, *goals.shape))
    at_key = _before(jnp.broadcast_to(key, poses.shape[1:]))
    opened = _before(jnp.broadcast_to((door[None] & shut)[:, None], poses.shape))
    first = jnp.stack([poses, poses]), jnp.stack([opened, opened]), jnp.int32(0), jnp.array(True)
    (poses, reached), (opened, _), trips, _ = jax.lax.while_loop(unfinished, trip, first)
    found = holds(reached, keyed, state.heading, square)

    # The actions that lead to a pose one step nearer.
    front = square_set(task.walls, ahead(state.position, state.heading))
    takes = jnp.any(front & key != 0) & (keyed == 0)
    leads = {
        FORWARD: holds(poses, keyed, state.heading, front & free[keyed]),
        LEFT: holds(poses, keyed, state.heading - 1, square),
        RIGHT: holds(poses, keyed, state.heading + 1, square),
        PICKUP: holds(poses, jnp.int32(1), state.heading, square) & takes,
        TOGGLE: holds(opened, keyed, state.heading, square),
    }
    actions = jnp.array([*leads, DONE], jnp.int32)
    action = actions[jnp.argmax(jnp.stack([*leads.values(), jnp.array(True)]))]
    steps = jnp.where(found, trips, jnp.int32(UNREACHABLE))
    return steps, jnp.where(found, action, jnp.int32(DONE))


# The poses after the last two iterations [2, ...], likewise those in front of a door that was just
# opened; the number of iterations, and whether the last one added anything.
_Fill = tuple[Array, Array, Array, Array]


def _ground(state: MiniGridState, task: MiniGridTask) -> tuple[Array, Array, Array]:
    """The squares that are free and those with a door to open, both uint32 [2, H, words], without
    and with the key; and the key's square, uint32 [H, words], if it can be picked up."""
    is_key, is_door = task.kinds == KEY, task.kinds == DOOR
    held = jnp.arange(is_key.shape[0], dtype=jnp.int32) == state.carried
    fits = jnp.any((task.colours[:, None] == task.colours[None]) & is_key[None], axis=1)
    open_door = is_door & (state.doors == OPEN)
    stands = (task.kinds != 0) & (task.kinds != GOAL) & (task.kinds != FLOOR) & ~open_door
    closed = is_door & (state.doors == CLOSED)
    locked = is_door & (state.doors == LOCKED) & fits

    solid = task.walls | task.lava | square_set(task.walls, task.answers[1])
    takes = is_key & ~held & ~task.fixed
    key = _squares(state, task, takes)
    free = [~(solid | _squares(state, task, stands & there)) for there in (True, ~takes)]
    shut = [_squares(state, task, closed), _squares(state, task, closed | locked)]
    return jnp.stack(free), jnp.stack(shut), key


def _of_held(state: MiniGridState, task: MiniGridTask) -> Array:
    """The kind of the object that is carried, () int32; 0 where none is."""
    held = jnp.arange(task.kinds.shape[0], dtype=jnp.int32) == state.carried
    return jnp.sum(jnp.where(held, task.kinds, jnp.int32(0)), dtype=jnp.int32)


def _squares(state: MiniGridState, task: MiniGridTask, chosen: Array) -> Array:
    """The squares of the objects `chosen`, bool [K]: uint32 [H, words]."""
    each = jax.vmap(lambda square: square_set(task.walls, square))(state.squares)
    found = jnp.where(chosen[:, None, None], each, jnp.uint32(0))
    return jax.lax.reduce(found, np.uint32(0), jax.lax.bitwise_or, (0,))


def _before(poses: Array) -> Array:
    """For each heading, the squares whose square ahead is in `poses`, uint32 [..., 4, H, words]."""
    east, south, west, north = (poses[..., heading, :, :] for heading in range(4))
    words = jnp.pad(east, [(0, 0)] * (east.ndim - 1) + [(0, 1)])[..., 1:] << jnp.uint32(31)
    carry = jnp.pad(west, [(0, 0)] * (west.ndim - 1) + [(1, 0)])[..., :-1] >> jnp.uint32(31)
    rows = [(0, 0)] * (south.ndim - 2)
    return jnp.stack(
        [
            east >> jnp.uint32(1) | words,
            jnp.pad(south, [*rows, (0, 1), (0, 0)])[..., 1:, :],
            west << jnp.uint32(1) | carry,
            jnp.pad(north, [*rows, (1, 0), (0, 0)])[..., :-1, :],
        ],
        axis=-3,
    )
