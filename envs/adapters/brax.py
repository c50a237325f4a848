"""brax: its environments as ours, where a task is a set of attribute values."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, Wrapper
from brax.envs.base import State as PhysicsState

from ..core import Box, TimeStep, first_timestep, pytree_dataclass, require, require_integer

__all__ = ["BraxState", "FromBrax", "from_brax"]

Array = jax.Array


@pytree_dataclass
class BraxState:
    """The state of one episode."""

    physics: PhysicsState  # brax's state
    steps: Array  # () int32, steps taken


@dataclasses.dataclass(frozen=True)
class FromBrax:
    """A brax environment as one of ours; made by `from_brax`.

    Observation: brax's, one array of its dtype. Action: float32 [A], within [-1, 1].
    Reward: float32 (), brax's.
    Termination: brax's `done`. Truncation: after `max_horizon` steps that did not terminate.
    Task: what `draw_task` draws and `assign` sets. State: `BraxState`.
    """

    env: Env
    draw_task: Callable[[Array], Any]
    assign: Callable[[Env, Any], None]
    observation_space: Box
    max_horizon: int

    @property
    def action_space(self) -> Box:
        return Box(-1.0, 1.0, (self.env.action_size,))

    def sample_task(self, key: Array) -> Any:
        return self.draw_task(key)

    def reset(self, key: Array, task: Any) -> tuple[BraxState, TimeStep]:
        physics = jax.tree.map(jnp.asarray, self._on(task).reset(key))
        return BraxState(physics, jnp.array(0, jnp.int32)), first_timestep(physics.obs)

    def step(
        self, key: Array, state: BraxState, action: Array, task: Any
    ) -> tuple[BraxState, TimeStep]:
        del key
        physics = jax.tree.map(jnp.asarray, self._on(task).step(state.physics, action))
        steps = state.steps + 1
        terminated = physics.done != 0
        timestep = TimeStep(
            physics.obs,
            physics.reward.astype(jnp.float32),
            terminated,
            truncated=(steps >= self.max_horizon) & ~terminated,
        )
        return BraxState(physics, steps), timestep

    def _on(self, task: Any) -> Env:
        """A copy with the task set, so that traced values do not leak out of the trace."""
        env = copy.copy(self.env)
        self.assign(env, task)
        return env


def from_brax(
    env: Env,
    sample_task: Callable[[Array], Any] | None = None,
    assign: Callable[[Any, Any], None] | None = None,
    max_horizon: int = 1000,
) -> FromBrax:
    """A brax environment with tasks, such as masses to adapt to.

        def assign(env, mass):
            env.sys = env.sys.tree_replace({"link.inertia.mass": mass})

    Args:
      env: from `brax.envs.get_environment`, without wrappers.
      sample_task: p(T), key -> task; if None, the only task is empty.
      assign: env, task -> None; sets a task's values as attributes of `env`, a shallow copy.
      max_horizon: steps after which an episode is truncated.

    Raises:
      ValueError: a wrapper, `sample_task` without `assign` or the reverse, an observation that is
        not one array, or a horizon below 1.
    """
    require("env", env, not isinstance(env, Wrapper), "an environment unwrapped")
    paired = (sample_task is None) == (assign is None)
    require("assign", assign, paired, "a function together with sample_task")
    require_integer("max_horizon", max_horizon, 1)
    first = jax.eval_shape(env.reset, jax.random.key(0)).obs
    require("observation", first, hasattr(first, "shape"), "one array")
    space = Box(-np.inf, np.inf, first.shape, first.dtype)
    return FromBrax(
        env, sample_task or (lambda key: ()), assign or (lambda env, task: None), space, max_horizon
    )
