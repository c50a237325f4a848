"""Find the unseen exit of a perfect maze."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .core import (
    Box,
    Discrete,
    TimeStep,
    first_timestep,
    pytree_dataclass,
    require,
    require_integer,
)
from .grids import is_wall, mark, moved, unpack, window
from .mazes import recursive_backtracker
from .solve import direction_to, distance, far_half

__all__ = ["Maze", "MazeState", "MazeTask"]

Array = jax.Array

_LARGEST = 63
_WIDEST_VIEW = 31


@pytree_dataclass
class MazeTask:
    """One maze: what `Maze.reset` and `Maze.step` are told."""

    walls: Array  # [size, words] uint32, packed rows, see `grids`
    start: Array  # (2,) int32, row and column of the square an episode starts on
    exit: Array  # (2,) int32, row and column of the square it ends on
    horizon: Array  # () int32, steps before an episode is truncated


@pytree_dataclass
class MazeState:
    """Where the agent is in one episode."""

    position: Array  # (2,) int32, row and column
    steps: Array  # () int32, steps taken


@dataclasses.dataclass(frozen=True)
class Maze:
    """A perfect maze with an unseen exit: an agent learns the walls and where the exit is.

    Observation: uint8 [O] of 0 and 1. In this order: the walls in the `view` by `view` squares
      around the agent, row by row, north up (1 is wall, as is everything outside); with `see_exit`
      the exit in the same squares; with `position` the agent's square among the (size - 2)^2
      inside the outer wall, row by row, one-hot.
    Action: int32 () in 0..3, up, right, down, left. A move into a wall stays.
    Reward: float32 (), 1 - 0.9 * t / horizon on reaching the exit with step t = 1, 2, ...
      (MiniGrid's, `minigrid/minigrid_env.py`), else 0.
    Termination: on the exit. Truncation: after `task.horizon` steps that did not reach it.
    Task: `MazeTask`. State: `MazeState`.

    p(T): a depth-first maze of ((size - 1) / 2)^2 cells, the start in its top left cell, the exit
    uniform over the other cells; with `far_exit` over those at least half as far from the start,
    along the path, as the farthest one.
    Mazes and exits are drawn in `sample_task` only; a step draws nothing.

    Raises:
      ValueError: a field out of range, or neither a view nor a position to observe.
    """

    size: int = 9  # squares along a side, the outer wall included: odd, 5 to 63
    horizon: int = 40  # steps an episode may take, of the tasks that `sample_task` draws
    view: int = 3  # side of the observed window in squares: odd, or 0 for none
    position: bool = True  # whether the agent observes where it is
    see_exit: bool = False  # whether the window shows the exit
    far_exit: bool = True  # whether the exit keeps away from the start

    def __post_init__(self) -> None:
        require_integer("size", self.size, 5, _LARGEST)
        require("size", self.size, self.size % 2 == 1, "an odd number")
        require_integer("horizon", self.horizon, 1)
        require_integer("view", self.view, 0, _WIDEST_VIEW)
        require("view", self.view, self.view % 2 == 1 or self.view == 0, "an odd number, or 0")
        require("view", self.view, self.view > 0 or self.position, "a window where position is off")
        require(
            "see_exit", self.see_exit, self.view > 0 or not self.see_exit, "a view to see it in"
        )

    @property
    def observation_space(self) -> Box:
        window = self.view**2 * (2 if self.see_exit else 1)
        where = (self.size - 2) ** 2 if self.position else 0
        return Box(0, 1, (window + where,), np.dtype(np.uint8))

    @property
    def action_space(self) -> Discrete:
        return Discrete(4)

    @property
    def max_horizon(self) -> int:
        return self.horizon

    def sample_task(self, key: Array) -> MazeTask:
        key_maze, key_exit = jax.random.split(key)
        cells = (self.size - 1) // 2
        walls = recursive_backtracker(key_maze, cells, cells)
        start = jnp.array([1, 1], jnp.int32)
        allowed = jnp.ones((cells, cells), bool).at[0, 0].set(False)
        if self.far_exit:
            allowed = unpack(far_half(walls, start), self.size)[1::2, 1::2]
        ticket = jnp.where(allowed, jax.random.uniform(key_exit, allowed.shape), -1.0)
        cell = jnp.argmax(ticket).astype(jnp.int32)
        exit = jnp.stack([2 * (cell // cells) + 1, 2 * (cell % cells) + 1])
        return MazeTask(walls, start, exit, jnp.array(self.horizon, jnp.int32))

    def reset(self, key: Array, task: MazeTask) -> tuple[MazeState, TimeStep]:
        del key
        state = MazeState(task.start, jnp.array(0, jnp.int32))
        return state, first_timestep(self._observe(task.start, task))

    def step(
        self, key: Array, state: MazeState, action: Array, task: MazeTask
    ) -> tuple[MazeState, TimeStep]:
        del key
        target = moved(state.position, action)
        position = jnp.where(is_wall(task.walls, target), state.position, target)
        steps = state.steps + 1
        terminated = jnp.all(position == task.exit)
        truncated = (steps >= task.horizon) & ~terminated
        reward = jnp.where(terminated, _exit_reward(steps, task.horizon), jnp.float32(0))
        timestep = TimeStep(self._observe(position, task), reward, terminated, truncated)
        return MazeState(position, steps), timestep

    def optimal_return(self, task: MazeTask) -> Array:
        """The reward at the end of the shortest path; 0 where that is longer than the horizon."""
        steps = distance(task.walls, task.start, task.exit)
        return jnp.where(steps <= task.horizon, _exit_reward(steps, task.horizon), jnp.float32(0))

    def optimal_action(self, state: MazeState, task: MazeTask) -> Array:
        """Along the shortest path. Each call solves the maze."""
        return direction_to(task.walls, state.position, task.exit)

    def _observe(self, position: Array, task: MazeTask) -> Array:
        length = self.observation_space.shape[0]
        seen = jnp.zeros((length,), bool)
        offset = 0
        if self.view:
            seen = window(task.walls, position, self.view, length)
            offset = self.view**2
        if self.see_exit:
            row, column = task.exit - position + self.view // 2
            inside = (row >= 0) & (row < self.view) & (column >= 0) & (column < self.view)
            seen |= mark(jnp.where(inside, offset + row * self.view + column, -1), length)
            offset += self.view**2
        if self.position:
            row, column = position - 1
            seen |= mark(offset + row * (self.size - 2) + column, length)
        return seen.astype(jnp.uint8)


def _exit_reward(steps: Array, horizon: Array) -> Array:
    return 1.0 - 0.9 * steps.astype(jnp.float32) / horizon.astype(jnp.float32)
