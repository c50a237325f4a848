"""MiniGrid as an environment of pure functions."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..core import (
    Box,
    Discrete,
    TimeStep,
    first_timestep,
    require,
    require_action,
    require_integer,
)
from ..dynamics import (
    action_for,
    require_variation,
    sample_variation,
    slipped,
    steered,
    success_reward,
)
from . import fetch, oracle
from .levels import FAMILIES, Family
from .obstacles import blocked, walk
from .view import WIDEST, egocentric, full_grid
from .world import FORWARD, LEFT, MiniGridState, MiniGridTask, first_state, transition

__all__ = ["MiniGrid"]


Array = jax.Array

_MOST_WORDS = 2**24  # in a breadth-first fill of `fetch`: 64 MiB


@dataclasses.dataclass(frozen=True)
class MiniGrid:
    """MiniGrid's world of walls, lava, doors, keys, balls and boxes, seen by an agent inside.

    Chevalier-Boisvert et al. 2023 (arXiv 2306.13831). The tests check that it matches the
    `minigrid` package step for step; `convert` converts its levels.

    Observation: uint8 [view, view, 3], MiniGrid's `image`: (kind, colour, state) of the squares
      ahead, indexed [column, row], with the agent in the middle of the last row, looking up. Walls
      and closed doors hide what is behind them, unless `see_through_walls`. With `full`, the whole
      grid, uint8 [W, H, 3], with (10, 0, heading) at the agent, as in MiniGrid's `FullyObsWrapper`.
      MiniGrid's `direction` is `state.heading`; with `compass` it is also in the state channel of
      the agent's own square of the view, which is always 0 in MiniGrid.
    Action: int32 () in 0..6: turn left, turn right, forward, pick up, drop, toggle, done.
    Reward: float32 (), 1 - 0.9 * t / horizon if step t = 1, 2, ... succeeds, else 0; -1 for walking
      into a moving obstacle, or into a wall in a family that has such obstacles; plus, where the
      task has rewards, that of the square the agent is on after the step.
    Termination: on success, in lava, on a wrong answer, on a collision. Truncation: after
      `task.horizon` steps that did not terminate (MiniGrid also truncates a last step that does).
    Task: `MiniGridTask`; height, width and number of objects are fixed by `family`, `size` and
      `count`, and `padded` lets different ones share a batch. State: `MiniGridState`.

    p(T): the levels of the `family`, drawn as MiniGrid draws them; all are solvable. MiniGrid's
    BlockedUnlockPickup, Fetch, GoToDoor, GoToObject, LockedRoom, ObstructedMaze, Playground,
    PutNear, RedBlueDoors and WFC are not among them.
    | family | size | count |
    |---|---|---|
    | empty, empty-random, fourrooms, doorkey, lavagap | side of the grid | 1 |
    | memory, memory-random | side of the grid | 1 |
    | unlock, unlockpickup | side of a room | 1 |
    | keycorridor | side of a room | rows of rooms |
    | lavacrossing, simplecrossing | side of the grid | crossings |
    | multiroom | largest side of a room | rooms |
    | distshift | 9 | 1 or 2, its two levels |
    | dynamic-obstacles, dynamic-obstacles-random | side of the grid | obstacles |
    As in MiniGrid, there are at most size - 3 crossings, and size // 2 obstacles where `count` is
    above size / 2 + 1.

    Raises:
      ValueError: an unknown family (the nearest are named), a field out of range, or an action that
        does not fit (while tracing).
    """

    family: str = "doorkey"  # see the table
    size: int | None = None  # see the table; None for MiniGrid's
    count: int | None = None  # see the table; None for MiniGrid's
    horizon: int | None = None  # steps before truncation; None for MiniGrid's
    view: int = 7  # side of the view in squares: odd, 3 to 15
    see_through_walls: bool | None = None  # whether nothing is hidden; None for MiniGrid's
    full: bool = False  # whether the agent sees the whole grid
    compass: bool = False  # whether the view shows the heading
    shuffle_controls: bool = False  # whether each task permutes the actions
    slip: float = 0.0  # greatest slip probability; a task's is uniform in [0, slip)
    rewards: float = 0.0  # standard deviation of the reward of each square
    shortest_horizon: int = 0  # horizons are uniform from this to `horizon`; 0: all are `horizon`

    def __post_init__(self) -> None:
        near = difflib.get_close_matches(str(self.family), FAMILIES) or list(FAMILIES)
        require("family", self.family, self.family in FAMILIES, " or ".join(map(repr, near)))
        sizes, counts = self._family.sizes, self._family.counts
        if self.size is not None:
            require_integer("size", self.size, sizes[0], sizes[-1])
            require("size", self.size, self.size in sizes, "an odd number")
        if self.count is not None:
            require_integer("count", self.count, counts[0], counts[-1])
        if self.horizon is not None:
            require_integer("horizon", self.horizon, 1)
        require_integer("view", self.view, 3, WIDEST)
        require("view", self.view, self.view % 2 == 1, "an odd number")
        require_variation(self)
        require("compass", self.compass, not (self.compass and self.full), "a view to tell it in")

    @property
    def _family(self) -> Family:
        return FAMILIES[self.family]

    @property
    def _level(self) -> tuple[int, int]:
        """Size and count."""
        family = self._family
        size = family.size if self.size is None else self.size
        return size, family.count if self.count is None else self.count

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grids that `sample_task` draws."""
        return self._family.shape(*self._level)

    @property
    def observation_space(self) -> Box:
        high, wide = self.shape
        squares = (wide, high) if self.full else (self.view, self.view)
        return Box(0, 10, (*squares, 3), np.dtype(np.uint8))

    @property
    def action_space(self) -> Discrete:
        return Discrete(7)

    @property
    def max_horizon(self) -> int:
        return self._family.horizon(*self._level) if self.horizon is None else self.horizon

    def sample_task(self, key: Array) -> MiniGridTask:
        key_level, key_varied = jax.random.split(key)
        task = self._family.draw(key_level, *self._level)
        varied = sample_variation(key_varied, self, self.shape)
        return dataclasses.replace(task, **varied)

    def reset(self, key: Array, task: MiniGridTask) -> tuple[MiniGridState, TimeStep]:
        del key
        state = first_state(task)
        return state, first_timestep(self.observe(state, task))

    def step(
        self, key: Array, state: MiniGridState, action: Array, task: MiniGridTask
    ) -> tuple[MiniGridState, TimeStep]:
        require_action(self.action_space, action)
        action = steered(action, task.controls)
        if task.slip is not None:
            key_slip, key = jax.random.split(key)
            action = slipped(key_slip, action, task.slip, self.action_space.n)
        collision = jnp.array(False)
        if self._family.obstacles:
            action = jnp.where(action > FORWARD, LEFT, action)
            collision = (action == FORWARD) & blocked(state, task)
            state = dataclasses.replace(state, squares=walk(key, state, task))
        state, success, failure = transition(state, action, task)
        terminated = success | failure | collision
        truncated = (state.steps >= task.horizon) & ~terminated
        reward = jnp.where(success, success_reward(state.steps, task.horizon), jnp.float32(0))
        reward = jnp.where(collision, jnp.float32(-1), reward)
        if task.rewards is not None:
            reward += task.rewards[state.position[0], state.position[1]]
        return state, TimeStep(self.observe(state, task), reward, terminated, truncated)

    # Properties, so that an environment whose optimum is not known has no oracle. They return
    # methods, which are equal every time: compiled programs are looked up by them.
    @property
    def optimal_return(self) -> Callable[[MiniGridTask], Array]:
        """Of a task, the reward of its shortest solution; 0 if that takes longer than the horizon.

        () float32; NaN for a task that the oracle of this environment's family cannot solve
        exactly. A task with slip or square rewards is refused with a ValueError.

        Raises:
          AttributeError: moving obstacles, slip or square rewards, or levels in which an object
            must be fetched and that are too large.
        """
        self._require_oracle("optimal_return")
        return self._best_return

    @property
    def optimal_action(self) -> Callable[[MiniGridState, MiniGridTask], Array]:
        """In a state of a task, the first action of a shortest solution, () int32.

        Each call solves the level.

        Raises:
          AttributeError: as `optimal_return`.
        """
        self._require_oracle("optimal_action")
        return self._best_action

    def _best_return(self, task: MiniGridTask) -> Array:
        steps, _ = self._plan(first_state(task), task)
        reward = success_reward(jnp.minimum(steps, task.horizon), task.horizon)
        reward = jnp.where(steps <= task.horizon, reward, jnp.float32(0))
        exact = (fetch if self._family.fetches else oracle).is_exact(task)
        return jnp.where(exact, reward, jnp.float32(jnp.nan))

    def _best_action(self, state: MiniGridState, task: MiniGridTask) -> Array:
        return action_for(self._plan(state, task)[1], task.controls)

    def _require_oracle(self, name: str) -> None:
        size, words = self._level[0], 0
        if self._family.fetches:
            words = fetch.words(jax.eval_shape(self.sample_task, jax.random.key(0)), self.shape[1])
        for field, value, holds, expected in (
            ("family", self.family, not self._family.obstacles, "one without moving obstacles"),
            ("slip", self.slip, not self.slip, "0"),
            ("rewards", self.rewards, not self.rewards, "0"),
            ("size", size, words <= _MOST_WORDS, f"one solved in {_MOST_WORDS} words, not {words}"),
        ):
            if not holds:
                raise AttributeError(f"{name}: got {field} {value!r}, expected {expected}")

    def _plan(self, state: MiniGridState, task: MiniGridTask) -> tuple[Array, Array]:
        for name in ("slip", "rewards"):
            value = getattr(task, name)
            require(f"task.{name}", value, value is None, "none where a level is to be solved")
        if not self._family.fetches:
            return oracle.plan(state, task)
        wide = self.shape[1]
        need, most = fetch.words(task, wide), _MOST_WORDS
        require("task", need, need <= most, f"one solved in {most} words")
        return fetch.plan(state, task, wide)

    def observe(self, state: MiniGridState, task: MiniGridTask) -> Array:
        """The observation in a state, in `observation_space`."""
        if self.full:
            return full_grid(state, task, self.shape[1])
        through = self.see_through_walls
        through = self._family.see_through_walls if through is None else through
        return egocentric(state, task, self.view, through, self.compass)
