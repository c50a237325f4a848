"""Find the unseen exits of several mazes in a row."""

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
from .dynamics import success_reward
from .grids import mark
from .maze import Maze, MazeState, MazeTask
from .solve import distance

__all__ = ["MazeSeries", "MazeSeriesState", "MazeSeriesTask", "maze_of"]

Array = jax.Array

_REFUSED = ("heading", "slip", "rewards", "smallest", "shortest_horizon", "random_start")


@pytree_dataclass
class MazeSeriesTask:
    """Mazes to be passed through in order."""

    mazes: MazeTask  # every leaf [M, ...]; each maze starts at the exit of the one before
    horizon: Array  # () int32, steps before an episode is truncated, over all the mazes


@pytree_dataclass
class MazeSeriesState:
    """Where the agent is in one episode."""

    maze: MazeState  # the state in the current maze; `steps` counts from the first maze on
    index: Array  # () int32, the current maze, 0 to M - 1


@dataclasses.dataclass(frozen=True)
class MazeSeries:
    """Several mazes in a row: the exit of one is the entry to the next.

    Observation: uint8 [O + count], that of `maze`, then the index of the current maze, one-hot.
    Action: that of `maze`.
    Reward: float32 (), (1 - 0.9 * t / horizon) / count if step t reaches an exit, else 0.
    Termination: on the last exit. Truncation: after `task.horizon` steps that did not reach it.
    Task: `MazeSeriesTask`. State: `MazeSeriesState`.

    p(T): `count` mazes from the p(T) of `maze`, drawn in order, each starting at the exit of the
    one before, with its own exit elsewhere.

    Raises:
      ValueError: a field out of range, a `maze` in which the shortest path through each need not be
        the best way through all, or whose tasks differ in size, start or horizon, or an action that
        does not fit (while tracing).
    """

    count: int = 3  # number of mazes in a task, M
    horizon: int = 120  # steps before truncation, in the tasks that `sample_task` draws
    # draws each maze, and says what the agent observes of it; its horizon is not used
    maze: Maze = Maze()

    def __post_init__(self) -> None:
        require_integer("count", self.count, 1)
        require_integer("horizon", self.horizon, 1)
        for name in _REFUSED:
            value = getattr(self.maze, name)
            require(f"maze.{name}", value, not value, "a maze without it")

    @property
    def observation_space(self) -> Box:
        (length,) = self.maze.observation_space.shape
        return Box(0, 1, (length + self.count,), np.dtype(np.uint8))

    @property
    def action_space(self) -> Discrete:
        return self.maze.action_space

    @property
    def max_horizon(self) -> int:
        return self.horizon

    def sample_task(self, key: Array) -> MazeSeriesTask:
        def after(start: Array, key: Array) -> tuple[Array, MazeTask]:
            task = self.maze.sample_task(key, start)
            return task.exit, task

        first = jnp.array([1, 1], jnp.int32)
        mazes = jax.lax.scan(after, first, jax.random.split(key, self.count))[1]
        return MazeSeriesTask(mazes, jnp.array(self.horizon, jnp.int32))

    def reset(self, key: Array, task: MazeSeriesTask) -> tuple[MazeSeriesState, TimeStep]:
        index = jnp.array(0, jnp.int32)
        state = MazeSeriesState(self.maze.reset(key, maze_of(task, index))[0], index)
        return state, first_timestep(self._observe(state, task))

    def step(
        self, key: Array, state: MazeSeriesState, action: Array, task: MazeSeriesTask
    ) -> tuple[MazeSeriesState, TimeStep]:
        maze, timestep = self.maze.step(key, state.maze, action, maze_of(task, state.index))
        # The next maze is entered on the square of this one's exit.
        through = timestep.terminated
        terminated = through & (state.index == self.count - 1)
        index = jnp.where(through & ~terminated, state.index + 1, state.index)
        truncated = (maze.steps >= task.horizon) & ~terminated
        state = MazeSeriesState(maze, index)
        reward = timestep.reward / self.count
        return state, TimeStep(self._observe(state, task), reward, terminated, truncated)

    def optimal_return(self, task: MazeSeriesTask) -> Array:
        """The greatest return, () float32: the shortest path through each maze in turn.

        Exits beyond the horizon pay nothing.
        """
        ways = jax.vmap(distance)(task.mazes.walls, task.mazes.start, task.mazes.exit)
        steps = jnp.cumsum(jnp.minimum(ways, task.horizon + 1))
        pay = jnp.where(steps <= task.horizon, success_reward(steps, task.horizon), 0.0)
        return jnp.sum(pay) / self.count

    def optimal_action(self, state: MazeSeriesState, task: MazeSeriesTask) -> Array:
        """Along the shortest path to the next exit. Each call solves a maze."""
        return self.maze.optimal_action(state.maze, maze_of(task, state.index))

    def _observe(self, state: MazeSeriesState, task: MazeSeriesTask) -> Array:
        seen = self.maze.observe(state.maze, maze_of(task, state.index))
        return jnp.concatenate([seen, mark(state.index, self.count).astype(jnp.uint8)])


def maze_of(task: MazeSeriesTask, index: Array) -> MazeTask:
    """The maze `index` (), with the horizon of the series."""
    maze = jax.tree.map(lambda leaf: leaf[index], task.mazes)
    return dataclasses.replace(maze, horizon=task.horizon)
