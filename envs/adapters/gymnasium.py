"""gymnasium: our environments for trainers that step from Python, one at a time or in a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from .. import render
from ..core import Discrete, Environment, Space, require, require_integer
from .episodes import Episode, as_task, as_tasks, begin, follow

__all__ = ["ToGymnasium", "ToGymnasiumVector", "to_gymnasium", "to_gymnasium_vector"]

_SEEDS = 2**32


class ToGymnasium(gymnasium.Env):
    """One of our environments as a `gymnasium.Env`; made by `to_gymnasium`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, env: Environment, tasks: Any, render_mode: str | None) -> None:
        self.env = env
        self.render_mode = render_mode
        self.observation_space = _gymnasium_space(env.observation_space)
        self.action_space = _gymnasium_space(env.action_space)
        self._tasks = tasks
        self._episode: Episode | None = None

    @property
    def task(self) -> Any:
        """The current episode's task; `reset(options={"task": ...})` accepts it."""
        return self._under_way().task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode on `options["task"]`, or else on a task that it draws.

        Raises:
          ValueError: a task that is not of the environment.
        """
        super().reset(seed=seed)
        task = None if options is None else options.get("task")
        if task is not None:
            task = as_task(self.env, task)
        self._key = jax.random.key(self.np_random.integers(_SEEDS, dtype=np.uint32))
        programs = _programs(self.env)
        self._key, self._episode, observation = programs.begin(self._key, self._tasks, task)
        return np.array(observation), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of the episode.

        Raises:
          ValueError: an action of another shape or kind, that is NaN, or that a `Discrete` space
            does not have. The bounds of a `Box` are left to the environment.
          gymnasium.error.ResetNeeded: before the first `reset`.
        """
        action = _checked(self.env.action_space, action, ())
        episode = self._under_way()
        self._key, self._episode, timestep = _programs(self.env).step(self._key, episode, action)
        timestep = jax.device_get(timestep)
        return (
            np.array(timestep.observation),
            float(timestep.reward),
            bool(timestep.terminated),
            bool(timestep.truncated),
            {},
        )

    def render(self) -> np.ndarray | None:
        """A picture, uint8 [H, W, 3], or None if the environment was made without a render mode."""
        if self.render_mode is None:
            return None
        episode = self._under_way()
        return render.still(self.env, episode.state, episode.task)

    def _under_way(self) -> Episode:
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("no episode is under way: call reset() first")
        return self._episode


class ToGymnasiumVector(gymnasium.vector.VectorEnv):
    """N of our environments as one `gymnasium.vector.VectorEnv`; see `to_gymnasium_vector`."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, env: Environment, num_envs: int, tasks: Any) -> None:
        self.env = env
        self.num_envs = num_envs
        self.single_observation_space = _gymnasium_space(env.observation_space)
        self.single_action_space = _gymnasium_space(env.action_space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._tasks = tasks
        self._episodes: Episode | None = None

    @property
    def task(self) -> Any:
        """The tasks of the current episodes, [N, ...]."""
        return self._under_way().task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts N episodes on `options["task"]` [N, ...], or else on tasks that it draws.

        Raises:
          ValueError: anything but N tasks of the environment, or a `reset_mask` among the options:
            an episode is followed by another in the step that ends it, and by nothing else.
        """
        masked = options is not None and "reset_mask" in options
        require("options", "reset_mask", not masked, "none, as all episodes are started")
        super().reset(seed=seed)
        tasks = None if options is None else options.get("task")
        if tasks is not None:
            tasks = as_tasks(self.env, tasks)
            count = len(jax.tree.leaves(tasks)[0])
            require("task", count, count == self.num_envs, f"{self.num_envs} tasks")
        self._key = jax.random.key(self.np_random.integers(_SEEDS, dtype=np.uint32))
        self._key, self._episodes, observation = _vector_programs(self.env, self.num_envs).begin(
            self._key, self._tasks, tasks
        )
        return np.array(observation), {}

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every environment; those whose episode it ends are reset in the same step.

        Their last observations are in `infos["final_obs"]`, where `infos["_final_obs"]` is true.

        Raises:
          ValueError: actions of another shape or kind, that are NaN, or that a `Discrete` space
            does not have. The bounds of a `Box` are left to the environment.
          gymnasium.error.ResetNeeded: before the first `reset`.
        """
        actions = _checked(self.env.action_space, actions, (self.num_envs,))
        episodes, programs = self._under_way(), _vector_programs(self.env, self.num_envs)
        self._key, self._episodes, *found = programs.step(self._key, episodes, actions, self._tasks)
        observation, timestep = jax.device_get(found)
        ended = timestep.terminated | timestep.truncated
        infos = {}
        if ended.any():
            last = np.full(self.num_envs, None, object)
            for index in np.flatnonzero(ended):
                last[index] = np.array(timestep.observation[index])
            # Of infos, gymnasium batches the values; ours have none.
            infos = {
                "final_obs": last,
                "_final_obs": ended,
                "final_info": {},
                "_final_info": ended.copy(),
            }
        return (
            np.array(observation),
            np.array(timestep.reward),
            np.array(timestep.terminated),
            np.array(timestep.truncated),
            infos,
        )

    def _under_way(self) -> Episode:
        if self._episodes is None:
            raise gymnasium.error.ResetNeeded("no episode is under way: call reset() first")
        return self._episodes


def to_gymnasium(
    env: Environment, tasks: Any = None, *, render_mode: str | None = None
) -> ToGymnasium:
    """`env` as a `gymnasium.Env`; each step is one compiled call.

    Args:
      env: the environment.
      tasks: a pytree of tasks with a leading axis M, such as `TaskSet.tasks`, from which every
        reset draws one; if None, every reset draws a new task from p(T).
      render_mode: "rgb_array" for pictures by `envs.render.still`, or None.

    Raises:
      ValueError: tasks that are not of `env`, another render mode, or one for an environment that
        `envs.render` does not draw.
    """
    modes = (None, *ToGymnasium.metadata["render_modes"])
    require("render_mode", render_mode, render_mode in modes, "'rgb_array' or None")
    shown = render_mode is None or render.has_picture(env)
    require("render_mode", render_mode, shown, f"None for {type(env).__name__}, which is not drawn")
    return ToGymnasium(env, None if tasks is None else as_tasks(env, tasks), render_mode)


def to_gymnasium_vector(env: Environment, num_envs: int, tasks: Any = None) -> ToGymnasiumVector:
    """N copies of `env` as one `gymnasium.vector.VectorEnv` whose step is one compiled call.

    Episodes are reset in the step that ends them (`AutoresetMode.SAME_STEP`), which gymnasium's
    `NormalizeObservation` for vectors refuses. Without a set of tasks, every step therefore
    computes the drawing of N new ones.

    Args:
      env: the environment.
      num_envs: N.
      tasks: as in `to_gymnasium`.

    Raises:
      ValueError: num_envs below 1, or tasks that are not of `env`.
    """
    require_integer("num_envs", num_envs, 1)
    return ToGymnasiumVector(env, num_envs, None if tasks is None else as_tasks(env, tasks))


class _Programs(NamedTuple):
    begin: Callable[..., Any]
    step: Callable[..., Any]


@functools.cache
def _programs(env: Environment) -> _Programs:
    """The compiled programs, shared by all adapters of equal environments."""

    def begin_one(key: jax.Array, tasks: Any, task: Any) -> tuple[Any, ...]:
        key, key_begin = jax.random.split(key)
        episode, timestep = begin(env, key_begin, tasks, task)
        return key, episode, timestep.observation

    def step(key: jax.Array, episode: Episode, action: jax.Array) -> tuple[Any, ...]:
        key, key_step = jax.random.split(key)
        state, timestep = env.step(key_step, episode.state, action, episode.task)
        return key, Episode(episode.task, state), timestep

    return _Programs(jax.jit(begin_one), jax.jit(step))


@functools.cache
def _vector_programs(env: Environment, num_envs: int) -> _Programs:
    def begin_all(key: jax.Array, tasks: Any, given: Any) -> tuple[Any, ...]:
        key, key_begin = jax.random.split(key)
        keys = jax.random.split(key_begin, num_envs)
        episodes, timestep = jax.vmap(functools.partial(begin, env), in_axes=(0, None, 0))(
            keys, tasks, given
        )
        return key, episodes, timestep.observation

    def step_one(key: jax.Array, episode: Episode, action: jax.Array, tasks: Any) -> Any:
        key_step, key_next = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
        state, timestep = env.step(key_step, episode.state, action, episode.task)
        following, first = begin(env, key_next, tasks)
        episode, observation = follow(
            timestep.terminated | timestep.truncated,
            (following, first.observation),
            (Episode(episode.task, state), timestep.observation),
        )
        return episode, observation, timestep

    def step_all(key: jax.Array, episodes: Episode, actions: jax.Array, tasks: Any) -> Any:
        key, key_step = jax.random.split(key)
        keys = jax.random.split(key_step, num_envs)
        return key, *jax.vmap(step_one, in_axes=(0, 0, 0, None))(keys, episodes, actions, tasks)

    return _Programs(jax.jit(begin_all), jax.jit(step_all))


def _checked(space: Space, action: Any, batch: tuple[int, ...]) -> np.ndarray:
    """The action in the dtype of the environment, checked."""
    action = np.asarray(action)
    shape = (*batch, *space.shape)
    require("action", action.shape, action.shape == shape, f"an array of shape {shape}")
    if isinstance(space, Discrete):
        fits = action.dtype.kind in "iu" and bool(np.all((action >= 0) & (action < space.n)))
        require("action", action, fits, f"integers from 0 to {space.n - 1}")
    else:
        require("action", action.dtype.name, action.dtype.kind in "iuf", "numbers")
        require("action", np.nan, not np.isnan(action).any(), "numbers")
    return action.astype(space.dtype)


def _gymnasium_space(space: Space) -> gymnasium.Space:
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
    return gymnasium.spaces.Box(space.low, space.high, space.shape, space.dtype.type)
