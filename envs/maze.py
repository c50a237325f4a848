"""Find the unseen exit of a perfect maze."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .core import Box, Discrete, TimeStep, pytree_dataclass
from .grids import is_wall, moved, window
from .mazes import recursive_backtracker
from .solve import descend, distances

__all__ = ["Maze", "MazeState", "MazeTask"]

Array = jax.Array

_LARGEST = 63


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
    """A perfect maze whose exit the agent does not see: what it learns is which way the exit lies.

    Observation: uint8 [O] of 0 and 1. In this order: the walls in the `view` by `view` squares around the
      agent, row by row, north up (1 is wall, as is everything outside); with `see_exit` the exit in the
      same squares; with `position` the agent's square among the (size - 2)^2 inside the outer wall, row
      by row, one-hot.
    Action: int32 () in 0..3, up, right, down, left. A move into a wall stays.
    Reward: float32 (), 1 - 0.9 * t / horizon on reaching the exit with step t = 1, 2, ... (MiniGrid's,
      `minigrid/minigrid_env.py`), else 0.
    Termination: on the exit. Truncation: after `task.horizon` steps that did not reach it.
    Task: `MazeTask`. State: `MazeState`.

    p(T): a depth-first maze of ((size - 1) / 2)^2 cells, the start in its top left cell, the exit
    uniform over the cells at least half as far from the start, along the path, as the farthest one.
    Mazes and exits are drawn in `sample_task` only; a step draws nothing.

    Raises:
      ValueError: a field out of range, or neither a view nor a position to observe.
    """

    size: int = 9  # squares along a side, the outer wall included: odd, 5 to 63
    horizon: int = 40  # steps an episode may take, of the tasks that `sample_task` draws
    view: int = 3  # side of the observed window in squares: odd, or 0 for none
    position: bool = True  # whether the agent observes where it is
    see_exit: bool = False  # whether the window shows the exit

    def __post_init__(self) -> None:
        if self.size % 2 == 0 or not 5 <= self.size <= _LARGEST:
            raise ValueError(f"size: got {self.size}, expected an odd number from 5 to {_LARGEST}")
        if self.horizon < 1:
            raise ValueError(f"horizon: got {self.horizon}, expected at least 1")
        if self.view < 0 or (self.view > 0 and self.view % 2 == 0):
            raise ValueError(f"view: got {self.view}, expected an odd number, or 0 for no window")
        if self.view == 0 and not self.position:
            raise ValueError("view: got 0 without position, expected a view, the position, or both")
        if self.view == 0 and self.see_exit:
            raise ValueError("see_exit: got True with view 0, expected a view to see it in")

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
        distance = distances(walls, start, self.size)[1::2, 1::2]
        far = 2 * distance >= jnp.max(distance)
        ticket = jnp.where(far, jax.random.uniform(key_exit, far.shape), -1.0)
        cell = jnp.argmax(ticket).astype(jnp.int32)
        exit = jnp.stack([2 * (cell // cells) + 1, 2 * (cell % cells) + 1])
        return MazeTask(walls, start, exit, jnp.array(self.horizon, jnp.int32))

    def reset(self, key: Array, task: MazeTask) -> tuple[MazeState, TimeStep]:
        del key
        state = MazeState(task.start, jnp.array(0, jnp.int32))
        no = jnp.array(False)
        return state, TimeStep(self._observe(task.start, task), jnp.array(0.0, jnp.float32), no, no)

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
        distance = distances(task.walls, task.exit, self.size)[task.start[0], task.start[1]]
        reward = _exit_reward(distance, task.horizon)
        return jnp.where(distance <= task.horizon, reward, jnp.float32(0))

    def optimal_action(self, state: MazeState, task: MazeTask) -> Array:
        """Along the shortest path. Each call solves the maze."""
        distance = distances(task.walls, task.exit, self.size)
        return descend(distance, task.walls, state.position)

    def _observe(self, position: Array, task: MazeTask) -> Array:
        parts = []
        if self.view:
            parts.append(window(task.walls, position, self.view).reshape(-1))
        if self.see_exit:
            parts.append(_one_hot(task.exit - position + self.view // 2, self.view))
        if self.position:
            parts.append(_one_hot(position - 1, self.size - 2))
        return jnp.concatenate(parts).astype(jnp.uint8)


def _exit_reward(steps: Array, horizon: Array) -> Array:
    return 1.0 - 0.9 * steps.astype(jnp.float32) / horizon.astype(jnp.float32)


def _one_hot(square: Array, side: int) -> Array:
    """bool [side * side], true at `square` (2,); all false where that lies outside."""
    index = jnp.arange(side, dtype=jnp.int32)
    return ((index == square[0])[:, None] & (index == square[1])[None]).reshape(-1)
