"""A point on the plane that walks to a goal it does not see."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .core import (
    Box,
    TimeStep,
    first_timestep,
    pytree_dataclass,
    require_action,
    require_integer,
)

__all__ = ["PointNavigation", "PointState", "PointTask"]

Array = jax.Array

_STRIDE = 0.1  # greatest displacement of a step along each axis
_ARRIVED = 0.01  # the episode ends this close to the goal along both axes


@pytree_dataclass
class PointTask:
    """One goal, as `PointNavigation.reset` and `PointNavigation.step` take it."""

    goal: Array  # (2,) float32
    horizon: Array  # () int32, steps before an episode is truncated


@pytree_dataclass
class PointState:
    """Where the point is in one episode."""

    position: Array  # (2,) float32
    steps: Array  # () int32, steps taken


@dataclasses.dataclass(frozen=True)
class PointNavigation:
    """A point on the plane walks to an unseen goal: MAML's 2D navigation.

    Finn et al. 2017 (arXiv 1703.03400), section 5.3; `PointEnv` of github.com/cbfinn/maml_rl.

    Observation: float32 (2,), the position.
    Action: float32 (2,), the displacement, clipped to [-0.1, 0.1] along each axis.
    Reward: float32 (), minus the Euclidean distance to the goal after the move.
    Termination: less than 0.01 from the goal along both axes after the move.
    Truncation: after `task.horizon` steps that did not get there.
    Task: `PointTask`. State: `PointState`.

    p(T): the goal uniform in [-0.5, 0.5]^2; the start is (0, 0).

    Raises:
      ValueError: a horizon below 1, or an action that does not fit (while tracing).
    """

    horizon: int = 100  # steps before truncation, in the tasks that `sample_task` draws

    def __post_init__(self) -> None:
        require_integer("horizon", self.horizon, 1)

    @property
    def observation_space(self) -> Box:
        return Box(-np.inf, np.inf, (2,))

    @property
    def action_space(self) -> Box:
        return Box(-np.inf, np.inf, (2,))

    @property
    def max_horizon(self) -> int:
        return self.horizon

    def sample_task(self, key: Array) -> PointTask:
        goal = jax.random.uniform(key, (2,), jnp.float32, -0.5, 0.5)
        return PointTask(goal, jnp.array(self.horizon, jnp.int32))

    def reset(self, key: Array, task: PointTask) -> tuple[PointState, TimeStep]:
        del key, task
        position = jnp.zeros((2,), jnp.float32)
        return PointState(position, jnp.array(0, jnp.int32)), first_timestep(position)

    def step(
        self, key: Array, state: PointState, action: Array, task: PointTask
    ) -> tuple[PointState, TimeStep]:
        require_action(self.action_space, action)
        del key
        move = jnp.clip(action.astype(jnp.float32), -_STRIDE, _STRIDE)
        position = state.position + move
        steps = state.steps + 1
        offset = position - task.goal
        reward = -jnp.sqrt(jnp.sum(offset**2))
        terminated = jnp.all(jnp.abs(offset) < _ARRIVED)
        truncated = (steps >= task.horizon) & ~terminated
        return PointState(position, steps), TimeStep(position, reward, terminated, truncated)

    def tell(self, task: PointTask) -> Array:
        """The goal, float32 (2,): what `Informed` shows a policy."""
        return task.goal

    def optimal_return(self, task: PointTask) -> Array:
        """The greatest return, () float32: both axes at once, as fast as the clip allows.

        No policy is nearer to the goal after any number of steps, or arrives sooner.
        """
        step = jnp.arange(1, self.max_horizon + 1, dtype=jnp.int32)
        left = jnp.abs(task.goal)[None] - _STRIDE * step.astype(jnp.float32)[:, None]
        distance = jnp.sqrt(jnp.sum(jnp.maximum(left, 0.0) ** 2, axis=-1))
        return -jnp.sum(jnp.where(step <= task.horizon, distance, 0.0))

    def optimal_action(self, state: PointState, task: PointTask) -> Array:
        """The displacement to the goal, float32 (2,); `step` clips it."""
        return task.goal - state.position
