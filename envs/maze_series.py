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

__all__ = ["MazeSeries", "MazeSeriesState", "MazeSeriesTask"]

Array = jax.Array

_REFUSED = ("heading", "slip", "rewards", "smallest", "shortest_horizon", "random_start")


@pytree_dataclass
class MazeSeriesTask:
    """Mazes to be gone through in order."""

    mazes: MazeTask  # with a leading axis M; each starts where the one before it ended
    horizon: Array  # () int32, steps before an episode is truncated, over all the mazes


@pytree_dataclass
class MazeSeriesState:
    """Where the agent is in one episode."""

    maze: MazeState  # in the maze that it is in; `steps` counts from the first maze on
    index: Array  # () int32, which maze that is, 0 to M-1


@dataclasses.dataclass(frozen=True)
class MazeSeries:
    """Several mazes in a row: the exit of one is the entry to the next.

    Observation: that of `maze`, then one-hot which of the mazes the agent is in: uint8 [O + count].
    Action: that of `maze`.
    Reward: float32 (), (1 - 0.9 * t / horizon) / count on reaching an exit with step t, else 0.
    Termination: on the last exit. Truncation: after `task.horizon` steps that did not reach it.
    Task: `MazeSeriesTask`. State: `MazeSeriesState`.

    p(T): `count` mazes of p(T) of `maze`, drawn one by one, each with its start where the exit of
    the one before it is, and an exit elsewhere.

    Raises:
      ValueError: a field out of range, or a maze where the shortest way through each need not be
        the best way through all, or whose tasks differ in size, start or horizon.
    """

    count: int = 3  # mazes of a task, M
    horizon: int = 120  # steps an episode may take, of the tasks that `sample_task` draws
    maze: Maze = Maze()  # what each maze is drawn from, and what the agent observes of it

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
        state = MazeSeriesState(self.maze.reset(key, _maze(task, index))[0], index)
        return state, first_timestep(self._observe(state, task))

    def step(
        self, key: Array, state: MazeSeriesState, action: Array, task: MazeSeriesTask
    ) -> tuple[MazeSeriesState, TimeStep]:
        maze, timestep = self.maze.step(key, state.maze, action, _maze(task, state.index))
        # The next maze is entered on the square where this one was left.
        through = timestep.terminated
        terminated = through & (state.index == self.count - 1)
        index = jnp.where(through & ~terminated, state.index + 1, state.index)
        truncated = (maze.steps >= task.horizon) & ~terminated
        state = MazeSeriesState(maze, index)
        reward = timestep.reward / self.count
        return state, TimeStep(self._observe(state, task), reward, terminated, truncated)

    def optimal_return(self, task: MazeSeriesTask) -> Array:
        """The shortest way through each maze; exits beyond the horizon pay nothing."""
        ways = jax.vmap(distance)(task.mazes.walls, task.mazes.start, task.mazes.exit)
        steps = jnp.cumsum(jnp.minimum(ways, task.horizon + 1))
        pay = jnp.where(steps <= task.horizon, success_reward(steps, task.horizon), 0.0)
        return jnp.sum(pay) / self.count

    def optimal_action(self, state: MazeSeriesState, task: MazeSeriesTask) -> Array:
        """Along the shortest path to the next exit. Each call solves a maze."""
        return self.maze.optimal_action(state.maze, _maze(task, state.index))

    def _observe(self, state: MazeSeriesState, task: MazeSeriesTask) -> Array:
        seen = self.maze.observe(state.maze, _maze(task, state.index))
        return jnp.concatenate([seen, mark(state.index, self.count).astype(jnp.uint8)])


def _maze(task: MazeSeriesTask, index: Array) -> MazeTask:
    """The maze that the agent is in, with the horizon of them all."""
    maze = jax.tree.map(lambda leaf: leaf[index], task.mazes)
    return dataclasses.replace(maze, horizon=task.horizon)
