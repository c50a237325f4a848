"""MiniGrid's world: the parts of a level, and what an action does.

Walls and lava are packed grids (see `grids`), a bit a square; everything else is one of K objects.
Numbers are MiniGrid's own (`minigrid/core/constants.py`), but squares are (row, column), which is
(y, x) in MiniGrid. An object that is carried or destroyed is at `NOWHERE`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..core import pytree_dataclass
from ..grids import is_wall

__all__ = [
    "NOWHERE",
    "MiniGridState",
    "MiniGridTask",
    "ahead",
    "first_state",
    "transition",
]

Array = jax.Array

# What is on a square. 0 is MiniGrid's "unseen", and here the kind of an absent object.
EMPTY, WALL, FLOOR, DOOR, KEY, BALL, BOX, GOAL, LAVA, AGENT = range(1, 11)
RED, GREEN, BLUE, PURPLE, YELLOW, GREY = range(6)
OPEN, CLOSED, LOCKED = range(3)
LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)  # actions
EAST, SOUTH, WEST, NORTH = range(4)  # headings

NOWHERE = -64  # row and column of what is not on the grid: outside every view


@pytree_dataclass
class MiniGridTask:
    """One level, as `MiniGrid.reset` and `step` take it; a field that is None is not varied."""

    walls: Array  # [H, words] uint32, packed rows
    lava: Array  # [H, words] uint32, packed rows; ignored under a wall
    kinds: Array  # [K] int32, FLOOR, DOOR, KEY, BALL, BOX, GOAL, or 0 for an absent object
    colours: Array  # [K] int32, 0..5
    squares: Array  # [K, 2] int32, row and column at the start, no two the same
    doors: Array  # [K] int32, OPEN, CLOSED or LOCKED at the start; 0 for what is not a door
    start: Array  # (2,) int32, row and column of the agent
    heading: Array  # () int32, the direction faced at the start: east, south, west, north
    target: Array  # () int32, the object to open or pick up, which ends the level, or -1
    answers: Array  # [2, 2] int32, squares that end the level: success, then failure
    fixed: Array  # () bool, whether nothing can be picked up
    horizon: Array  # () int32, steps before an episode is truncated
    controls: Array | None = None  # [7] int32, a permutation: action a acts as action controls[a]
    slip: Array | None = None  # () float32, probability that a step takes a random action instead
    rewards: Array | None = None  # [H, W] float32, added for the square the agent is on


@pytree_dataclass
class MiniGridState:
    """The state of one episode: the agent and the objects."""

    position: Array  # (2,) int32, row and column
    heading: Array  # () int32, 0..3
    carried: Array  # () int32, the object that the agent holds, or -1
    squares: Array  # [K, 2] int32
    doors: Array  # [K] int32
    steps: Array  # () int32, steps taken


def first_state(task: MiniGridTask) -> MiniGridState:
    """The start of an episode."""
    return MiniGridState(
        position=task.start,
        heading=task.heading,
        carried=jnp.array(-1, jnp.int32),
        squares=task.squares,
        doors=task.doors,
        steps=jnp.array(0, jnp.int32),
    )


def ahead(position: Array, heading: Array) -> Array:
    """The square (2,) in front of an agent at `position` (2,)."""
    down = (heading == SOUTH).astype(jnp.int32) - (heading == NORTH).astype(jnp.int32)
    right = (heading == EAST).astype(jnp.int32) - (heading == WEST).astype(jnp.int32)
    return position + jnp.stack([down, right])


def transition(
    state: MiniGridState, action: Array, task: MiniGridTask
) -> tuple[MiniGridState, Array, Array]:
    """MiniGrid's step: the next state, whether it is a success and whether it is a failure.

    A success ends the level with a reward, a failure without. No two objects share a square, and
    none is in a wall, so at most one is ahead.
    """
    front = ahead(state.position, state.heading)
    wall = is_wall(task.walls, front)
    lava = is_wall(task.lava, front) & ~wall
    here = (state.squares[:, 0] == front[0]) & (state.squares[:, 1] == front[1])
    number = jnp.arange(here.shape[0], dtype=jnp.int32)
    held = number == state.carried
    kind, colour, door = (_of(here, value) for value in (task.kinds, task.colours, state.doors))
    vacant = ~wall & ~lava & (kind == 0)

    turn = (action == RIGHT).astype(jnp.int32) - (action == LEFT).astype(jnp.int32)
    enterable = (kind == 0) | (kind == GOAL) | (kind == FLOOR) | (kind == DOOR) & (door == OPEN)
    moves = (action == FORWARD) & ~wall & enterable
    position = jnp.where(moves, front, state.position)

    portable = (kind == KEY) | (kind == BALL) | (kind == BOX)
    takes = (action == PICKUP) & portable & (state.carried < 0) & ~task.fixed
    drops = (action == DROP) & (state.carried >= 0) & vacant
    carried = jnp.where(takes, _of(here, number), jnp.where(drops, jnp.int32(-1), state.carried))

    toggles = action == TOGGLE
    fits = (_of(held, task.kinds) == KEY) & (_of(held, task.colours) == colour)
    shuts = door == OPEN
    swung = jnp.where(shuts, jnp.int32(CLOSED), jnp.int32(OPEN))
    turns = toggles & (kind == DOOR) & ((door != LOCKED) | fits)
    doors = jnp.where(here & turns, swung, state.doors)

    gone = here & (takes | toggles & (kind == BOX))
    squares = jnp.where((held & drops)[:, None], front[None], state.squares)
    squares = jnp.where(gone[:, None], jnp.int32(NOWHERE), squares)

    is_target = number == task.target
    opened = toggles & jnp.any(is_target & (task.kinds == DOOR) & (doors == OPEN))
    picked = (action == PICKUP) & (task.target >= 0) & (carried == task.target)
    right, wrong = (jnp.all(position == task.answers[index]) for index in (0, 1))
    success = moves & (kind == GOAL) | opened | picked | right
    failure = moves & lava | wrong
    heading = (state.heading + turn) & 3
    state = MiniGridState(position, heading, carried, squares, doors, state.steps + 1)
    return state, success, failure


def _of(chosen: Array, values: Array) -> Array:
    """The entry of `values` [K] at the one object that is `chosen` [K], () int32; 0 if none is."""
    return jnp.sum(jnp.where(chosen, values, jnp.int32(0)), dtype=jnp.int32)
