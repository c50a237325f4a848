"""gymnax, in both directions: our environments for its trainers, and its environments as ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ..core import (
    Box,
    Discrete,
    Environment,
    Space,
    TimeStep,
    first_timestep,
    require,
    require_integer,
)
from .episodes import Episode, as_tasks, begin, follow

__all__ = ["FromGymnax", "GymnaxParams", "GymnaxState", "ToGymnax", "from_gymnax", "to_gymnax"]

Array = jax.Array

# From 1.0 on, gymnax's `step` returns six values, truncation separate from termination.
_INSTALLED_RETURNS = 6 if hasattr(environment.Environment, "is_truncated") else 5


@struct.dataclass
class GymnaxParams(environment.EnvParams):
    """What may change without recompilation. `max_steps_in_episode` can only shorten a horizon."""

    tasks: Any = None  # [M, ...], from which a reset draws one; None: a new one from p(T)


@struct.dataclass
class GymnaxState(environment.EnvState):
    """The state of one episode; `time`, () int32, counts its steps."""

    episode: Episode
    terminated: Array  # () bool
    truncated: Array  # () bool


@dataclasses.dataclass(frozen=True, eq=False)
class ToGymnax(environment.Environment):
    """One of our environments as gymnax's trainers expect it; made by `to_gymnax`."""

    env: Environment
    returns: int
    same_task: bool
    tasks: Any = dataclasses.field(repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ToGymnax) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return self.env, self.returns, self.same_task, *map(id, jax.tree.leaves(self.tasks))

    @property
    def name(self) -> str:
        return type(self.env).__name__

    @property
    def num_actions(self) -> int:
        """The number of actions, or of their dimensions if they are continuous."""
        space = self.env.action_space
        return space.n if isinstance(space, Discrete) else int(np.prod(space.shape))

    @property
    def default_params(self) -> GymnaxParams:
        return GymnaxParams(max_steps_in_episode=self.env.max_horizon, tasks=self.tasks)

    def observation_space(self, params: GymnaxParams | None = None) -> spaces.Space:
        return _to_gymnax_space(self.env.observation_space)

    def action_space(self, params: GymnaxParams | None = None) -> spaces.Space:
        return _to_gymnax_space(self.env.action_space)

    # Unlike gymnax's own `reset` and `step`, these are not jitted: that is left to the trainer.
    def reset(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, key: Array, params: GymnaxParams | None = None
    ) -> tuple[Array, GymnaxState]:
        return self.reset_env(key, self.default_params if params is None else params)

    def step(  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
        key: Array,
        state: GymnaxState,
        action: Array | float,
        params: GymnaxParams | None = None,
    ) -> tuple[Any, ...]:
        """One step, followed by a reset if it ends the episode.

        Returns:
          observation, state, reward, done, info if `returns` is 5, or observation, state, reward,
          terminated, truncated, info if it is 6. If an episode ended, observation and state are
          those of the next one; `info["final_observation"]` is always that of the step itself.
        """
        params = self.default_params if params is None else params
        final, current, reward = self._advance(key, state, action, params)
        task = state.episode.task if self.same_task else None
        first, following = self._begin(jax.random.fold_in(key, 1), params, task)
        terminated, truncated = current.terminated, current.truncated
        ended = terminated | truncated
        observation, state = follow(ended, (first, following), (final, current))
        info = {
            "discount": 1.0 - terminated.astype(jnp.float32),
            "terminated": terminated,
            "truncated": truncated,
            "final_observation": final,
        }
        if self.returns == 5:
            return observation, state, reward, ended, info
        return observation, state, reward, terminated, truncated, info

    def reset_env(self, key: Array, params: GymnaxParams) -> tuple[Array, GymnaxState]:
        return self._begin(key, params, None)

    def step_env(
        self, key: Array, state: GymnaxState, action: Array | float, params: GymnaxParams
    ) -> tuple[Any, ...]:
        """One step without auto-reset: observation, state, reward, end, info.

        The end is `terminated` if `step` returns six values, as in gymnax 1.0, and `done` if it
        returns five, as in earlier versions.
        """
        observation, state, reward = self._advance(key, state, action, params)
        end = state.terminated if self.returns == 6 else state.terminated | state.truncated
        return observation, state, reward, end, {"discount": self.discount(state, params)}

    def is_terminated(self, state: GymnaxState, params: GymnaxParams) -> Array:
        return state.terminated

    def is_truncated(self, state: GymnaxState, params: GymnaxParams) -> Array:
        return state.truncated

    def is_terminal(self, state: GymnaxState, params: GymnaxParams) -> Array:
        return state.terminated if self.returns == 6 else state.terminated | state.truncated

    def discount(self, state: GymnaxState, params: GymnaxParams) -> Array:
        return 1.0 - state.terminated.astype(jnp.float32)

    def _begin(self, key: Array, params: GymnaxParams, task: Any) -> tuple[Array, GymnaxState]:
        episode, timestep = begin(self.env, key, params.tasks, task)
        no = jnp.array(False)
        return timestep.observation, GymnaxState(jnp.int32(0), episode, no, no)

    def _advance(
        self, key: Array, state: GymnaxState, action: Array | float, params: GymnaxParams
    ) -> tuple[Array, GymnaxState, Array]:
        """Observation, state and reward of one step, without a reset."""
        action = jnp.asarray(action, self.env.action_space.dtype)
        task = state.episode.task
        inner, timestep = self.env.step(
            jax.random.fold_in(key, 0), state.episode.state, action, task
        )
        time = state.time + 1
        limit = (time >= params.max_steps_in_episode) & ~timestep.terminated
        state = GymnaxState(
            time, Episode(task, inner), timestep.terminated, timestep.truncated | limit
        )
        return timestep.observation, state, timestep.reward


def to_gymnax(
    env: Environment, tasks: Any = None, *, returns: int | None = None, same_task: bool = False
) -> ToGymnax:
    """`env` as gymnax's trainers expect it, with auto-reset and a task per environment.

    It is hashable, and equal to another with the same environment, options and set of tasks.
    Nothing is jitted; that is left to the trainer.

    Args:
      env: the environment.
      tasks: a pytree of tasks with a leading axis M, such as `TaskSet.tasks`, from which every
        reset draws one. It becomes `default_params.tasks`; `params` with another set of M tasks
        need no recompilation. Without a set, every reset draws a new task from p(T), and under
        `vmap` every step computes that draw: for a maze, many times the cost of the step.
      returns: how many values `step` returns. 5: observation, state, reward, done, info, as up to
        gymnax 0.0.9 and as rejax and PureJaxRL unpack; 6: terminated and truncated in place of
        done, as from gymnax 1.0 on. None: as the installed gymnax does.
      same_task: whether an auto-reset starts another episode on the same task.

    Raises:
      ValueError: another number of values, or tasks that are not of `env`.
    """
    require("returns", returns, returns in (None, 5, 6), "5, 6 or None")
    tasks = None if tasks is None else as_tasks(env, tasks)
    return ToGymnax(env, returns or _INSTALLED_RETURNS, same_task, tasks)


@dataclasses.dataclass(frozen=True)
class FromGymnax:
    """A gymnax environment as one of ours; made by `from_gymnax`.

    Observation, action: gymnax's. Reward: float32 (), gymnax's.
    Termination: gymnax's. Truncation: gymnax's, or after `max_horizon` or the task's
      `max_steps_in_episode` steps, if it does not also terminate; see `from_gymnax`.
    Task: gymnax's `params`. State: gymnax's state.
    """

    env: environment.Environment
    sample_params: Callable[[Array], Any]
    observation_space: Space
    action_space: Space
    max_horizon: int

    def sample_task(self, key: Array) -> Any:
        return jax.tree.map(jnp.asarray, self.sample_params(key))

    def reset(self, key: Array, task: Any) -> tuple[Any, TimeStep]:
        observation, state = self.env.reset_env(key, task)
        return jax.tree.map(jnp.asarray, state), first_timestep(self._observed(observation))

    def step(self, key: Array, state: Any, action: Array, task: Any) -> tuple[Any, TimeStep]:
        observation, state, reward, end, _ = self.env.step_env(key, state, action, task)
        end = jnp.asarray(end, bool)
        limit = jnp.asarray(state.time) >= jnp.minimum(task.max_steps_in_episode, self.max_horizon)
        if _tells_truncation(self.env):
            limit |= self.env.is_truncated(state, task)
            terminated = end
        else:
            terminated = end & ~limit
        timestep = TimeStep(
            self._observed(observation),
            jnp.asarray(reward, jnp.float32).reshape(()),
            terminated,
            truncated=limit & ~terminated,
        )
        return jax.tree.map(jnp.asarray, state), timestep

    def _observed(self, observation: Array) -> Array:
        return jnp.asarray(observation, self.observation_space.dtype)


def from_gymnax(
    env: environment.Environment,
    params: Any = None,
    sample_params: Callable[[Array], Any] | None = None,
    max_horizon: int | None = None,
) -> FromGymnax:
    """A gymnax environment, of either convention, with its `params` as the task.

    gymnax's auto-reset is not used. From 1.0 on, a step that both terminates and reaches the limit
    is a termination. In earlier versions `done` means either, and a step that reaches
    `max_steps_in_episode` always counts as a truncation.

    Args:
      env: the environment itself, without wrappers.
      params: the task of every episode; `env.default_params` if None.
      sample_params: p(T), key -> params, such as `lambda key: params.replace(m=
        jax.random.uniform(key))` for Pendulum's mass; always `params` if None. gymnax keeps what
        follows from others as fields of their own (CartPole's `polemass_length`): replace both.
      max_horizon: the most steps of an episode, whatever its task says; that of `params` if None.

    Raises:
      ValueError: a wrapper, a space that is neither a box nor discrete, or a horizon below 1.
    """
    if isinstance(env, tuple):
        raise ValueError("env: expected an environment, got a tuple, as gymnax.make returns")
    require("env", env, isinstance(env, environment.Environment), "an environment unwrapped")
    if callable(params):
        raise ValueError("params: expected those of a task, got a function; see sample_params")
    params = env.default_params if params is None else params
    most = int(params.max_steps_in_episode) if max_horizon is None else max_horizon
    require_integer("max_horizon", most, 1)
    observation, _ = jax.eval_shape(env.reset_env, jax.random.key(0), params)
    return FromGymnax(
        env,
        sample_params or (lambda key: params),
        _from_gymnax_space("observation_space", env.observation_space(params), observation),
        _from_gymnax_space("action_space", env.action_space(params)),
        most,
    )


def _tells_truncation(env: environment.Environment) -> bool:
    if isinstance(env, ToGymnax):
        return env.returns == 6
    return hasattr(env, "is_truncated")


def _to_gymnax_space(space: Space) -> spaces.Space:
    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    return spaces.Box(space.low, space.high, space.shape, space.dtype)


def _from_gymnax_space(name: str, space: Any, seen: Any = None) -> Space:
    """`space` as one of ours; the observation `seen`, if given, has its true shape and dtype."""
    if isinstance(space, spaces.Discrete):
        return Discrete(space.n)
    require(name, space, isinstance(space, spaces.Box), "a box or a discrete space")
    seen = space if seen is None else seen
    # Our boxes have one pair of bounds for all elements: the widest.
    low, high = float(np.min(space.low)), float(np.max(space.high))
    return Box(low, high, tuple(seen.shape), np.dtype(seen.dtype))
