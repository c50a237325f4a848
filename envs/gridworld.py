"""An open grid with a goal that the agent does not see."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .core import Box, Discrete, TimeStep, first_timestep, pytree_dataclass, require_integer
from .grids import is_wall, mark, moved, pack
from .solve import direction_to, distance

__all__ = ["Gridworld", "GridworldState", "GridworldTask"]

Array = jax.Array

_LARGEST = 63
_STEP_COST = -0.1
_GOAL_REWARD = 1.0


@pytree_dataclass
class GridworldTask:
    """One goal: what `Gridworld.reset` and `Gridworld.step` are told."""

    walls: Array  # [size, words] uint32, packed rows, see `grids`; p(T) has none
    start: Array  # (2,) int32, row and column of the square an episode starts on
    goal: Array  # (2,) int32, row and column of the rewarded square
    horizon: Array  # () int32, steps before an episode is truncated


@pytree_dataclass
class GridworldState:
    """Where the agent is in one episode."""

    position: Array  # (2,) int32, row and column
    steps: Array  # () int32, steps taken


@dataclasses.dataclass(frozen=True)
class Gridworld:
    """An open grid with an unseen goal that pays for as long as the agent stays on it.

    VariBAD's gridworld: Zintgraf et al. 2020 (arXiv 1910.08348), section 5.1.

    Observation: uint8 [size * size], the agent's square, row by row, one-hot.
    Action: int32 () in 0..4, stay, up, right, down, left. A move off the grid or into a wall stays.
    Reward: float32 (), 1 on the goal after the move, -0.1 elsewhere.
    Termination: never. Truncation: after `task.horizon` steps.
    Task: `GridworldTask`. State: `GridworldState`.

    p(T): no walls, the start in the top left corner, the goal uniform over the squares outside the
    two by two block in that corner (21 squares where size is 5).

    Raises:
      ValueError: a size outside 3 to 63, or a horizon below 1.
    """

    size: int = 5  # squares along a side
    horizon: int = 15  # steps of an episode, of the tasks that `sample_task` draws

    def __post_init__(self) -> None:
        require_integer("size", self.size, 3, _LARGEST)
        require_integer("horizon", self.horizon, 1)

    @property
    def observation_space(self) -> Box:
        return Box(0, 1, (self.size**2,), np.dtype(np.uint8))

    @property
    def action_space(self) -> Discrete:
        return Discrete(5)

    @property
    def max_horizon(self) -> int:
        return self.horizon

    def sample_task(self, key: Array) -> GridworldTask:
        # Row by row, the first two rows lack two squares each at their left.
        short = self.size - 2
        pick = jax.random.randint(key, (), 0, self.size**2 - 4, jnp.int32)
        square = jnp.where(pick < short, pick + 2, pick + 4)
        goal = jnp.stack([square // self.size, square % self.size])
        walls = pack(jnp.zeros((self.size, self.size), bool))
        start = jnp.zeros((2,), jnp.int32)
        return GridworldTask(walls, start, goal, jnp.array(self.horizon, jnp.int32))

    def reset(self, key: Array, task: GridworldTask) -> tuple[GridworldState, TimeStep]:
        del key
        state = GridworldState(task.start, jnp.array(0, jnp.int32))
        return state, first_timestep(self._observe(task.start))

    def step(
        self, key: Array, state: GridworldState, action: Array, task: GridworldTask
    ) -> tuple[GridworldState, TimeStep]:
        del key
        target = moved(state.position, action - 1)
        position = jnp.where(is_wall(task.walls, target), state.position, target)
        steps = state.steps + 1
        on_goal = jnp.all(position == task.goal)
        reward = jnp.where(on_goal, jnp.float32(_GOAL_REWARD), jnp.float32(_STEP_COST))
        timestep = TimeStep(
            self._observe(position),
            reward,
            terminated=jnp.array(False),
            truncated=steps >= task.horizon,
        )
        return GridworldState(position, steps), timestep

    def optimal_return(self, task: GridworldTask) -> Array:
        """The shortest path to the goal, the goal known, and staying there."""
        steps = distance(task.walls, task.start, task.goal)
        away = jnp.minimum(jnp.maximum(steps - 1, 0), task.horizon)
        on_goal = task.horizon - away
        return _STEP_COST * away.astype(jnp.float32) + _GOAL_REWARD * on_goal.astype(jnp.float32)

    def optimal_action(self, state: GridworldState, task: GridworldTask) -> Array:
        """Along the shortest path, then stay. Each call solves the grid."""
        onward = direction_to(task.walls, state.position, task.goal) + 1
        return jnp.where(jnp.all(state.position == task.goal), jnp.int32(0), onward)

    def _observe(self, position: Array) -> Array:
        return mark(position[0] * self.size + position[1], self.size**2).astype(jnp.uint8)
