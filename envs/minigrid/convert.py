"""Converts levels of the `minigrid` package to tasks, and pads levels to a common size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core import require
from ..grids import pack
from .world import GREY, LAVA, NOWHERE, WALL, MiniGridTask

__all__ = ["from_minigrid", "padded"]

Array = jax.Array


def from_minigrid(env: Any) -> MiniGridTask:
    """The current level of a `minigrid` environment as a task: its grid, agent and mission.

    Missions are read from the attributes in which MiniGrid's families keep them: `door` (Unlock),
    `obj` (UnlockPickup, KeyCorridor), `success_pos` and `failure_pos` (Memory). A level whose
    mission is kept elsewhere ends only at its goals and in its lava.

    Args:
      env: a `minigrid` environment after `reset`, wrapped or not; `minigrid` is not imported.

    Raises:
      ValueError: an agent that carries something, a wall that is not grey, or a box that is not
        empty.
    """
    env = env.unwrapped
    require("env.carrying", env.carrying, env.carrying is None, "nothing, as after a reset")
    walls, lava = (np.zeros((env.height, env.width), bool) for _ in range(2))
    things, mission = [], [getattr(env, "door", None), getattr(env, "obj", None)]
    target = -1
    for row, column in np.ndindex(walls.shape):
        cell = env.grid.get(column, row)
        if cell is None:
            continue
        kind, colour, state = cell.encode()
        if kind == WALL:
            require("wall", cell.color, colour == GREY, "'grey'")
            walls[row, column] = True
        elif kind == LAVA:
            lava[row, column] = True
        else:
            require("box", cell.contains, cell.contains is None, "an empty one")
            if any(cell is wanted for wanted in mission):
                target = len(things)
            things.append((kind, colour, row, column, state))

    def answer(name: str) -> tuple[int, int]:
        column, row = getattr(env, name, (NOWHERE, NOWHERE))
        return int(row), int(column)

    columns = np.array(things, np.int32).reshape(-1, 5)
    return MiniGridTask(
        walls=pack(jnp.asarray(walls)),
        lava=pack(jnp.asarray(lava)),
        kinds=jnp.asarray(columns[:, 0]),
        colours=jnp.asarray(columns[:, 1]),
        squares=jnp.asarray(columns[:, 2:4]),
        doors=jnp.asarray(columns[:, 4]),
        start=jnp.array(env.agent_pos[::-1], jnp.int32),
        heading=jnp.array(env.agent_dir, jnp.int32),
        target=jnp.array(target, jnp.int32),
        answers=jnp.array([answer("success_pos"), answer("failure_pos")], jnp.int32),
        fixed=jnp.array(hasattr(env, "success_pos")),
        horizon=jnp.array(env.max_steps, jnp.int32),
    )


def padded(task: MiniGridTask, high: int, wide: int, objects: int) -> MiniGridTask:
    """The same level on a grid of `high` by `wide` squares with `objects` objects.

    Tasks padded to the same size can share a batch. The padding is walls and absent objects (kind
    0); what the agent sees in its view does not change.

    Args:
      task: the level.
      high: rows of the grid.
      wide: columns of the grid.
      objects: number of objects, K.

    Raises:
      ValueError: a grid or a number of objects below those of the task.
    """
    rows, words = task.walls.shape
    count = task.kinds.shape[0]
    require("high", high, high >= rows, f"at least {rows}")
    require("objects", objects, objects >= count, f"at least {count}")
    require("wide", wide, -(-wide // 32) >= words, f"at least {words} words of 32 squares")

    def plane(bits: Array, value: bool) -> Array:
        return jnp.pad(
            bits,
            ((0, high - rows), (0, -(-wide // 32) - words)),
            constant_values=np.uint32(0xFFFFFFFF if value else 0),
        )

    more = (0, objects - count)
    rewards = task.rewards
    if rewards is not None:
        rewards = jnp.pad(rewards, ((0, high - rows), (0, wide - rewards.shape[1])))
    return MiniGridTask(
        walls=plane(task.walls, True),
        lava=plane(task.lava, False),
        kinds=jnp.pad(task.kinds, more),
        colours=jnp.pad(task.colours, more),
        squares=jnp.pad(task.squares, (more, (0, 0)), constant_values=NOWHERE),
        doors=jnp.pad(task.doors, more),
        start=task.start,
        heading=task.heading,
        target=task.target,
        answers=task.answers,
        fixed=task.fixed,
        horizon=task.horizon,
        controls=task.controls,
        slip=task.slip,
        rewards=rewards,
    )
