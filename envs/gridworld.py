"""An open grid with a goal that the agent does not see."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from . import levels, mazes, solve
from .core import (
    Discrete,
    OneHot,
    TimeStep,
    first_timestep,
    pytree_dataclass,
    require_action,
    require_integer,
    require_number,
)
from .dynamics import (
    action_for,
    require_variation,
    sample_variation,
    slipped,
    steered,
    told,
)
from .grids import is_wall, mark, moved, pack, unpack

__all__ = ["Gridworld", "GridworldState", "GridworldTask"]

Array = jax.Array

_LARGEST = 63
_STEP_COST = -0.1
_GOAL_REWARD = 1.0


@pytree_dataclass
class GridworldTask:
    """One goal, as `Gridworld.reset` and `step` take it; a field that is None is not varied."""

    walls: Array  # [size, words] uint32, packed rows, see `grids`
    start: Array  # (2,) int32, row and column of the square an episode starts on
    goal: Array  # (2,) int32, row and column of the rewarded square
    horizon: Array  # () int32, steps before an episode is truncated
    controls: Array | None = None  # [A] int32, a permutation: action a acts as action controls[a]
    slip: Array | None = None  # () float32, probability that a step takes a random action instead
    rewards: Array | None = None  # [size, size] float32, added for the square the agent is on


@pytree_dataclass
class GridworldState:
    """Where the agent is in one episode."""

    position: Array  # (2,) int32, row and column
    steps: Array  # () int32, steps taken


@dataclasses.dataclass(frozen=True)
class Gridworld:
    """An open grid with an unseen goal that pays for as long as the agent stays on it.

    VariBAD's gridworld: Zintgraf et al. 2020 (arXiv 1910.08348), section 5.1. There the observation
    is the square's two coordinates.

    Observation: uint8 [size * size], the agent's square, one-hot, squares numbered row by row.
    Action: int32 () in 0..4: stay, up, right, down, left. An agent that moves off the grid or into
      a wall stays where it is.
    Reward: float32 (), 1 if the agent is on the goal after the move, else -0.1; plus, where the
      task has rewards, that of the square it is on.
    Termination: never. Truncation: after `task.horizon` steps.
    Task: `GridworldTask`. State: `GridworldState`.

    p(T): no walls, the start in the top left corner, the goal uniform over the squares outside the
    two by two block in that corner (21 squares where size is 5). Further fields widen p(T); with
    `random_start` the goal is uniform over all squares but the start.

    Raises:
      ValueError: a field out of range, or a task or an action that does not fit (while tracing).
    """

    size: int = 5  # squares along a side
    horizon: int = 15  # steps of an episode, in the tasks that `sample_task` draws
    density: float = 0.0  # probability that a square is a wall; a path to the goal is kept open
    random_start: bool = False  # whether a task's start is a random square
    shuffle_controls: bool = False  # whether each task permutes the actions
    slip: float = 0.0  # greatest slip probability; a task's is uniform in [0, slip)
    rewards: float = 0.0  # standard deviation of the reward of each square
    shortest_horizon: int = 0  # horizons are uniform from this to `horizon`; 0: all are `horizon`

    def __post_init__(self) -> None:
        require_integer("size", self.size, 3, _LARGEST)
        require_integer("horizon", self.horizon, 1)
        require_number("density", self.density, 0, 1)
        require_variation(self)

    @property
    def observation_space(self) -> OneHot:
        return OneHot(self.size**2)

    @property
    def action_space(self) -> Discrete:
        return Discrete(5)

    @property
    def max_horizon(self) -> int:
        return self.horizon

    def sample_task(self, key: Array) -> GridworldTask:
        key_goal, key_start, key_walls, key_varied = jax.random.split(key, 4)
        start, goal = self._sample_ends(key_start, key_goal)
        walls = pack(jnp.zeros((self.size, self.size), bool))
        if self.density:
            # `scatter` draws within an outer wall, which is then cut off.
            side = self.size + 2
            walls = mazes.scatter(key_walls, side, side, self.density, start + 1, goal + 1)
            walls = pack(unpack(walls, side)[1:-1, 1:-1])
        varied = sample_variation(key_varied, self, (self.size, self.size))
        return GridworldTask(walls, start, goal, **varied)

    def reset(self, key: Array, task: GridworldTask) -> tuple[GridworldState, TimeStep]:
        del key
        levels.require_fit(task.walls, self.size)
        state = GridworldState(task.start, jnp.array(0, jnp.int32))
        return state, first_timestep(self.observe(state, task))

    def step(
        self, key: Array, state: GridworldState, action: Array, task: GridworldTask
    ) -> tuple[GridworldState, TimeStep]:
        levels.require_fit(task.walls, self.size)
        require_action(self.action_space, action)
        done = slipped(key, steered(action, task.controls), task.slip, self.action_space.n)
        target = moved(state.position, done - 1)
        position = jnp.where(is_wall(task.walls, target), state.position, target)
        steps = state.steps + 1
        on_goal = jnp.all(position == task.goal)
        reward = jnp.where(on_goal, jnp.float32(_GOAL_REWARD), jnp.float32(_STEP_COST))
        if task.rewards is not None:
            reward += task.rewards[position[0], position[1]]
        state = GridworldState(position, steps)
        timestep = TimeStep(
            self.observe(state, task),
            reward,
            terminated=jnp.array(False),
            truncated=steps >= task.horizon,
        )
        return state, timestep

    def observe(self, state: GridworldState, task: GridworldTask) -> Array:
        """The observation in a state, uint8 [size * size]."""
        return mark(self.observed_row(state, task), self.size**2).astype(jnp.uint8)

    def observed_row(self, state: GridworldState, task: GridworldTask) -> Array:
        """The index of the 1 in the observation of a state, () int32."""
        del task
        row, column = state.position
        return row * self.size + column

    def tell(self, task: GridworldTask) -> Array:
        """The task as `Informed` shows it to a policy; see `dynamics.told`.

        Raises:
          ValueError: an environment that varies slip, rewards or the horizon.
        """
        return told(self, task, task.goal, self.size)

    def optimal_return(self, task: GridworldTask) -> Array:
        """The greatest expected return of an episode, () float32.

        It is that of the shortest path to the goal and staying there if the task neither slips nor
        has rewards; otherwise it is found by backward induction over steps and squares.
        """
        if task.slip is not None or task.rewards is not None:
            state, _ = self.reset(jax.random.key(0), task)
            return self._plan(state, task)[0]
        steps = solve.distance(task.walls, task.start, task.goal)
        away = jnp.minimum(jnp.maximum(steps - 1, 0), task.horizon)
        on_goal = task.horizon - away
        return _STEP_COST * away.astype(jnp.float32) + _GOAL_REWARD * on_goal.astype(jnp.float32)

    def optimal_action(self, state: GridworldState, task: GridworldTask) -> Array:
        """The best action, () int32, found as in `optimal_return`. Each call solves the task."""
        if task.slip is not None or task.rewards is not None:
            action = self._plan(state, task)[1]
        else:
            onward = solve.direction_to(task.walls, state.position, task.goal) + 1
            action = jnp.where(jnp.all(state.position == task.goal), jnp.int32(0), onward)
        return action_for(action, task.controls)

    def from_text(self, text: str, horizon: int | None = None) -> GridworldTask:
        """The task that a drawing shows; see `levels.parse`.

        A drawing smaller than `size` is padded with walls; `horizon` is the environment's if None.

        Raises:
          ValueError: a drawing that is not a level or is too large, a goal that no path leads to,
            or a horizon out of range.
        """
        level = levels.parse(text, self.size, faces=False, border=False)
        steps = self.horizon if horizon is None else horizon
        require_integer("horizon", steps, 1, self.horizon)
        return GridworldTask(level.walls, level.start, level.goal, jnp.array(steps, jnp.int32))

    def to_text(self, task: GridworldTask) -> str:
        """The drawing of a task's level, which `from_text` reads back.

        It shows neither the horizon nor controls, slip and rewards.
        """
        return levels.draw(task.walls, self.size, task.start, task.goal, None)

    def mutate(self, key: Array, task: GridworldTask) -> GridworldTask:
        """The task with a random wall toggled or its goal moved; still solvable. Pure JAX."""
        walls, goal = levels.mutate(key, task.walls, self.size, task.start, task.goal)
        return dataclasses.replace(task, walls=walls, goal=goal)

    def check(self, task: GridworldTask) -> None:
        """Checks that a task, or each of a batch of tasks, is one of this environment's.

        Raises:
          ValueError: a task that does not fit; the message says which part of which one, and why.
        """
        actions = self.action_space.n
        levels.check(task, self.size, self.horizon, actions, goal="goal", border=False)

    def _plan(self, state: GridworldState, task: GridworldTask) -> tuple[Array, Array]:
        """The greatest expected return from `state` on, () float32; the best action, () int32."""
        squares = jnp.full((self.size, self.size), _STEP_COST, jnp.float32)
        pay = squares.at[task.goal[0], task.goal[1]].set(_GOAL_REWARD)
        if task.rewards is not None:
            pay += task.rewards
        slip = jnp.float32(0) if task.slip is None else task.slip
        never = jnp.zeros((self.size, self.size), bool)
        values, actions = solve.plan(
            task.walls, lambda t: pay, never, slip, task.horizon, state.steps, stay=True
        )
        row, column = state.position
        return values[row, column], actions[row, column]

    def _sample_ends(self, key_start: Array, key_goal: Array) -> tuple[Array, Array]:
        """The start and the goal, both (2,) int32."""
        squares = self.size**2
        if self.random_start:
            first = jax.random.randint(key_start, (), 0, squares, jnp.int32)
            # Uniform over the other squares: a random offset from the start, modulo their number.
            further = jax.random.randint(key_goal, (), 1, squares, jnp.int32)
            second = (first + further) % squares
        else:
            # Row by row, the first two rows lack two squares each at their left.
            pick = jax.random.randint(key_goal, (), 0, squares - 4, jnp.int32)
            first, second = jnp.int32(0), jnp.where(pick < self.size - 2, pick + 2, pick + 4)
        start, goal = (jnp.stack([at // self.size, at % self.size]) for at in (first, second))
        return start, goal
