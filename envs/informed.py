"""An environment whose observation includes the task, for a task-aware policy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core import Box, Environment, Space, TimeStep, require

__all__ = ["Informed"]

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Informed:
    """An environment that shows its task in every observation.

        env = Informed(envs.make("point"))  # appends the goal, as `PointNavigation.tell` returns it
        env = Informed(env, lambda task: jax.nn.one_hot(task.goal, env.size, dtype=jnp.uint8))

    Observation: [O + T], the environment's, flattened, then `tell(task)`, flattened. The dtype is
      the environment's, unless that is an integer and `tell` returns floats: then it is that of
      `tell`. Integers have the environment's bounds, floats none.
    Action, reward, termination, truncation, task and state: the environment's.

    Raises:
      ValueError: an environment whose observation is not an array, one without a `tell` of its own
        if none is given, or a `tell` of another dtype than its, unless floats join integers.
    """

    env: Environment
    # task -> an array of the observation's dtype, or floats if that is an integer; None: `env.tell`
    tell: Callable[[Any], Array] | None = None

    def __post_init__(self) -> None:
        space = self.env.observation_space
        require("env", self.env, isinstance(space, Box), "one that observes an array")
        tells = self.tell is not None or hasattr(self.env, "tell")
        require("env", self.env, tells, "one that can tell its task")
        told = self._told.dtype
        fits = told == self._dtype_of(told)
        require("tell", told, fits, f"the observation's dtype, {space.dtype}, or a real one")

    def _dtype_of(self, told: np.dtype) -> np.dtype:
        """The dtype of the observation: a float one if either part is, else the environment's."""
        seen = self.env.observation_space.dtype
        is_wider = np.issubdtype(told, np.floating) and not np.issubdtype(seen, np.floating)
        return np.dtype(told if is_wider else seen)

    @property
    def _told(self) -> jax.ShapeDtypeStruct:
        return jax.eval_shape(lambda key: self._tell(self.env.sample_task(key)), jax.random.key(0))

    @property
    def observation_space(self) -> Box:
        space = self.env.observation_space
        assert isinstance(space, Box)
        length = math.prod(space.shape) + math.prod(self._told.shape)
        dtype = self._dtype_of(self._told.dtype)
        if np.issubdtype(dtype, np.floating):
            return Box(-np.inf, np.inf, (length,), dtype)
        return Box(space.low, space.high, (length,), space.dtype)

    @property
    def action_space(self) -> Space:
        return self.env.action_space

    @property
    def max_horizon(self) -> int:
        return self.env.max_horizon

    def sample_task(self, key: Array) -> Any:
        return self.env.sample_task(key)

    def reset(self, key: Array, task: Any) -> tuple[Any, TimeStep]:
        state, timestep = self.env.reset(key, task)
        return state, self._informed(timestep, task)

    def step(self, key: Array, state: Any, action: Array, task: Any) -> tuple[Any, TimeStep]:
        state, timestep = self.env.step(key, state, action, task)
        return state, self._informed(timestep, task)

    def optimal_return(self, task: Any) -> Array:
        """The environment's, if it has an oracle."""
        return self.env.optimal_return(task)  # type: ignore[attr-defined]

    def optimal_action(self, state: Any, task: Any) -> Array:
        """The environment's, if it has an oracle."""
        return self.env.optimal_action(state, task)  # type: ignore[attr-defined]

    def _tell(self, task: Any) -> Array:
        tell = self.tell or self.env.tell  # type: ignore[attr-defined]
        return tell(task)

    def _informed(self, timestep: TimeStep, task: Any) -> TimeStep:
        parts = (timestep.observation, self._tell(task))
        dtype = self._dtype_of(parts[1].dtype)
        seen = jnp.concatenate([part.ravel().astype(dtype) for part in parts])
        return dataclasses.replace(timestep, observation=seen)
