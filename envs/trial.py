"""Several episodes on one task as one longer episode, for agents with memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core import (
    Box,
    Discrete,
    Environment,
    Space,
    TimeStep,
    provides,
    pytree_dataclass,
    require,
    require_integer,
)

__all__ = ["Trial", "TrialState"]

Array = jax.Array


@pytree_dataclass
class TrialState:
    """How far a trial has come."""

    inner: Any  # the environment's state in the current episode
    episode: Array  # () int32, episodes that have ended


@dataclasses.dataclass(frozen=True)
class Trial:
    """Several episodes on one task as one: RL²'s trials.

    Duan et al. 2016 (arXiv 1611.02779), section 2.2.

    Observation: float32 [O + A + 2], unbounded. In this order: the environment's observation,
      flattened; the last action, one-hot if discrete, else as given; the last reward; whether the
      last step ended an episode, 0 or 1. All but the first part are 0 after `reset`.
    Action, reward (float32): the environment's.
    Termination: never. Truncation: with the last step of the last episode.
    Task: the environment's. So are `tell`, `optimal_return` and `optimal_action`, if it has them.
    State: `TrialState`.

    The step that ends an episode, by termination or truncation, also begins the next one: its
    reward and end flag belong to the old episode, its observation to the new one, as in RL² and
    VariBAD. No step is lost between episodes, so a trial has as many steps as its episodes
    together, at most `episodes * env.max_horizon`. An episode's final observation is not seen,
    except the last one's, which ends the trial. Every step computes a `reset`, which is cheap
    because the task is data: only what the environment's own reset draws is drawn.

    Raises:
      ValueError: fewer than 1 episode, or an environment whose observation is not an array.
    """

    env: Environment
    episodes: int = 2  # number of episodes in a trial

    def __post_init__(self) -> None:
        require_integer("episodes", self.episodes, 1)
        require("env", self.env, provides(self.env, Environment), "an environment")
        space = self.env.observation_space
        require("env", self.env, isinstance(space, Box), "one that observes an array")

    @property
    def observation_space(self) -> Box:
        observed = math.prod(self.env.observation_space.shape)
        return Box(-np.inf, np.inf, (observed + self._action_length + 2,))

    @property
    def action_space(self) -> Space:
        return self.env.action_space

    @property
    def max_horizon(self) -> int:
        return self.episodes * self.env.max_horizon

    def sample_task(self, key: Array) -> Any:
        return self.env.sample_task(key)

    def reset(self, key: Array, task: Any) -> tuple[TrialState, TimeStep]:
        inner, timestep = self.env.reset(key, task)
        no_action = jnp.zeros((self._action_length,), jnp.float32)
        reward = timestep.reward.astype(jnp.float32)
        seen = self._observe(timestep.observation, no_action, reward, jnp.array(False))
        timestep = dataclasses.replace(timestep, observation=seen, reward=reward)
        return TrialState(inner, jnp.array(0, jnp.int32)), timestep

    def step(
        self, key: Array, state: TrialState, action: Array, task: Any
    ) -> tuple[TrialState, TimeStep]:
        key_step, key_reset = jax.random.split(key)
        inner, timestep = self.env.step(key_step, state.inner, action, task)
        ended = timestep.terminated | timestep.truncated
        episode = state.episode + ended.astype(jnp.int32)
        over = episode >= self.episodes

        fresh, first = self.env.reset(key_reset, task)
        begins = ended & ~over
        inner, seen = jax.tree.map(
            lambda start, here: jnp.where(begins, start, here),
            (fresh, first.observation),
            (inner, timestep.observation),
        )
        reward = timestep.reward.astype(jnp.float32)
        observation = self._observe(seen, self._flat_action(action), reward, ended)
        timestep = TimeStep(observation, reward, terminated=jnp.array(False), truncated=over)
        return TrialState(inner, episode), timestep

    def episode_of(self, observation: Array) -> Array:
        """Which episode of its trial each step belongs to, from what is observed before the step.

        Args:
          observation: a trial's from its start, [T, ..., O + A + 2].

        Returns:
          0 for the first episode, int32 [T, ...].
        """
        return jnp.cumsum(observation[..., -1] > 0.5, axis=0, dtype=jnp.int32)

    # Properties, so that a trial has what its environment has and no more. They return methods,
    # which are equal every time: compiled programs are looked up by them.
    @property
    def tell(self) -> Callable[[Any], Array]:
        """The environment's.

        Raises:
          AttributeError: it has none.
        """
        return self.env.tell  # type: ignore[attr-defined]

    @property
    def optimal_return(self) -> Callable[[Any], Array]:
        """`episodes` times the environment's, as the task is known from the start: () float32.

        Raises:
          AttributeError: an environment without an oracle, such as an adapted one.
        """
        return self._where("optimal_return", self._best_return)

    @property
    def optimal_action(self) -> Callable[[TrialState, Any], Array]:
        """The environment's optimal action.

        Raises:
          AttributeError: as `optimal_return`.
        """
        return self._where("optimal_action", self._best_action)

    def _best_return(self, task: Any) -> Array:
        return self.episodes * self.env.optimal_return(task)  # type: ignore[attr-defined]

    def _best_action(self, state: TrialState, task: Any) -> Array:
        return self.env.optimal_action(state.inner, task)  # type: ignore[attr-defined]

    def _where(self, name: str, method: Callable[..., Array]) -> Callable[..., Array]:
        if not hasattr(self.env, name):
            raise AttributeError(f"env: {type(self.env).__name__} has no oracle, no {name}")
        return method

    @property
    def _action_length(self) -> int:
        space = self.action_space
        return space.n if isinstance(space, Discrete) else math.prod(space.shape)

    def _flat_action(self, action: Array) -> Array:
        """The action as it is observed, float32 [A]."""
        space = self.action_space
        if isinstance(space, Discrete):
            return (jnp.arange(space.n, dtype=action.dtype) == action).astype(jnp.float32)
        return action.astype(jnp.float32).ravel()

    def _observe(self, seen: Array, action: Array, reward: Array, ended: Array) -> Array:
        rest = jnp.stack([reward, ended.astype(jnp.float32)])
        return jnp.concatenate([seen.astype(jnp.float32).ravel(), action, rest])
