"""An environment whose observation includes the task, for a task-aware policy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core import Box, Environment, Space, TimeStep, provides, require

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
    Action, reward, termination, truncation, task and state: the environment's, and so are
      `optimal_return` and `optimal_action` if it has an oracle.

    Raises:
      ValueError: no environment, one whose observation is not an array, one without a `tell` of its
        own if none is given, or a `tell` of another dtype than its, unless one of them is floats.
    """

    env: Environment
    # task -> an array of the observation's dtype, or of another where either is floats; None:
    # `env.tell`
    tell: Callable[[Any], Array] | None = None

    def __post_init__(self) -> None:
        require("env", self.env, provides(self.env, Environment), "an environment")
        space = self.env.observation_space
        require("env", self.env, isinstance(space, Box), "one that observes an array")
        tells = callable(self.tell or getattr(self.env, "tell", None))
        require("env", self.env, tells, "one that can tell its task")
        told = self._told.dtype
        seen = self._dtype_of(told)
        whole = not np.issubdtype(told, np.floating)
        fits = told == seen or (whole and np.issubdtype(seen, np.floating))
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

    # Properties, so that an environment without an oracle is informed without one.
    @property
    def optimal_return(self) -> Callable[[Any], Array]:
        """The environment's.

        Raises:
          AttributeError: an environment without an oracle.
        """
        return self.env.optimal_return  # type: ignore[attr-defined]

    @property
    def optimal_action(self) -> Callable[[Any, Any], Array]:
        """The environment's.

        Raises:
          AttributeError: as `optimal_return`.
        """
        return self.env.optimal_action  # type: ignore[attr-defined]

    def _tell(self, task: Any) -> Array:
        tell = self.tell or self.env.tell  # type: ignore[attr-defined]
        return tell(task)

    def _informed(self, timestep: TimeStep, task: Any) -> TimeStep:
        parts = (timestep.observation, self._tell(task))
        dtype = self._dtype_of(parts[1].dtype)
        seen = jnp.concatenate([part.ravel().astype(dtype) for part in parts])
        return dataclasses.replace(timestep, observation=seen)
