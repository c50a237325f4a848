"""A point that walks to a corner of the plane, without reward near the middle."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from .core import Box, TimeStep, first_timestep, require_action, require_integer
from .point import PointState, PointTask

__all__ = ["PointCorners"]

Array = jax.Array

CORNER = 2.0  # distance of the corners from the middle along each axis
STRIDE = 0.2  # greatest displacement of a step, and of the start, along each axis
_UNPAID = 0.5  # no reward nearer to the middle than this, in |x| + |y|


@dataclasses.dataclass(frozen=True)
class PointCorners:
    """A point on the plane walks to one of four corners, with sparse rewards: ProMP's navigation.

    Rothfuss et al. 2019 (arXiv 1810.06784); `MetaPointEnvCorner` with its sparse rewards, of
    github.com/jonasrothfuss/ProMP, meta_policy_search/envs/point_envs/point_env_2d_corner.py.

    Observation: float32 (2,), the position.
    Action: float32 (2,), the displacement, clipped to [-0.2, 0.2] along each axis.
    Reward: float32 (), by how much the move reduced the distance to the goal, if it ends in the
      goal's quadrant and not near the middle, |x| + |y| >= 0.5; else 0.
    Termination: never. Truncation: after `task.horizon` steps.
    Task: `PointTask`. State: `PointState`.

    p(T): the goal one of (±2, ±2); each episode starts uniformly in [-0.2, 0.2]^2.

    There is no oracle. Leaving the rewarded region costs nothing and coming back is rewarded, so
    the best policy goes in and out, and its return has no closed form. Walking straight to the goal
    returns about 2.5.

    Raises:
      ValueError: a horizon below 1, or an action that does not fit (while tracing).
    """

    horizon: int = 100  # steps of an episode, in the tasks that `sample_task` draws

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
        side = jax.random.bernoulli(key, shape=(2,))
        goal = jnp.where(side, jnp.float32(CORNER), jnp.float32(-CORNER))
        return PointTask(goal, jnp.array(self.horizon, jnp.int32))

    def reset(self, key: Array, task: PointTask) -> tuple[PointState, TimeStep]:
        del task
        position = jax.random.uniform(key, (2,), jnp.float32, -STRIDE, STRIDE)
        return PointState(position, jnp.array(0, jnp.int32)), first_timestep(position)

    def step(
        self, key: Array, state: PointState, action: Array, task: PointTask
    ) -> tuple[PointState, TimeStep]:
        require_action(self.action_space, action)
        del key
        position = state.position + jnp.clip(action.astype(jnp.float32), -STRIDE, STRIDE)
        steps = state.steps + 1
        # No corner is nearer than the goal.
        is_nearest = jnp.all(position * task.goal >= 0)
        is_paid = is_nearest & (jnp.sum(jnp.abs(position)) >= _UNPAID)
        nearer = _distance(state.position, task.goal) - _distance(position, task.goal)
        reward = jnp.where(is_paid, nearer, jnp.float32(0))
        truncated = steps >= task.horizon
        return PointState(position, steps), TimeStep(
            position, reward, terminated=jnp.array(False), truncated=truncated
        )

    def tell(self, task: PointTask) -> Array:
        """The goal, float32 (2,): what `Informed` shows a policy."""
        return task.goal


def _distance(position: Array, goal: Array) -> Array:
    return jnp.sqrt(jnp.sum((position - goal) ** 2))
