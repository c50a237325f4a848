"""Our environments and others' behind one interface, for `environments.py` to time.

Each draws a task, resets and steps ONE environment with its own auto-reset; batching is up to the
caller. Peers are used as documented, with the observation nearest to ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from envs import Gridworld, Maze, MiniGrid
from envs.adapters.episodes import draw

from .records import versions

__all__ = ["CONTENDERS", "Contender", "load"]

Array = jax.Array


class Contender(NamedTuple):
    """One environment, with auto-reset."""

    package: str  # whose version is reported
    actions: int
    task: Callable[[Array], Any]  # key -> task
    reset: Callable[[Array, Any], tuple[Any, Any]]  # key, task -> state, observation
    # key, state, action, task -> state, observation, reward
    step: Callable[[Array, Any, Array, Any], tuple[Any, Any, Array]]


def _ours(env: Maze | MiniGrid | Gridworld) -> Contender:
    """Ours, where an episode that ends is followed by another on the same task.

    The observation follows from state and task, so the state is selected first, then observed once.
    """

    def reset(key: Array, task: Any) -> tuple[Any, Any]:
        state, timestep = env.reset(key, task)
        return state, timestep.observation

    def step(key: Array, state: Any, action: Array, task: Any) -> tuple[Any, Any, Array]:
        key_step, key_reset = jax.random.split(key)
        state, timestep = env.step(key_step, state, action, task)
        start, _ = env.reset(key_reset, task)
        ended = timestep.terminated | timestep.truncated
        state = jax.tree.map(lambda a, b: jnp.where(ended, a, b), start, state)
        return state, env.observe(state, task), timestep.reward

    return Contender("metajax", env.action_space.n, env.sample_task, reset, step)


def _gymnax(id: str) -> Contender:
    import gymnax

    env, params = gymnax.make(id)

    def reset(key: Array, task: Any) -> tuple[Any, Any]:
        observation, state = env.reset(key, params)
        return state, observation

    def step(key: Array, state: Any, action: Array, task: Any) -> tuple[Any, Any, Array]:
        observation, state, reward, *_ = env.step(key, state, action, params)
        return state, observation, reward

    return Contender("gymnax", env.num_actions, lambda key: (), reset, step)


def _xland(id: str) -> Contender:
    import xminigrid
    from xminigrid.wrappers import GymAutoResetWrapper

    env, params = xminigrid.make(id)
    env = GymAutoResetWrapper(env)

    def reset(key: Array, task: Any) -> tuple[Any, Any]:
        timestep = env.reset(params, key)
        return timestep, timestep.observation

    def step(key: Array, state: Any, action: Array, task: Any) -> tuple[Any, Any, Array]:
        timestep = env.step(params, state, action)
        return timestep, timestep.observation, timestep.reward

    return Contender("xminigrid", env.num_actions(params), lambda key: (), reset, step)


def _navix(id: str) -> Contender:
    import navix

    env = navix.make(id, observation_fn=navix.observations.symbolic_first_person)

    def reset(key: Array, task: Any) -> tuple[Any, Any]:
        timestep = env.reset(key)
        return timestep, timestep.observation

    def step(key: Array, state: Any, action: Array, task: Any) -> tuple[Any, Any, Array]:
        timestep = env.step(state, action)  # resets by itself
        return timestep, timestep.observation, timestep.reward

    return Contender("navix", len(env.action_set), lambda key: (), reset, step)


def _jumanji() -> Contender:
    import jumanji
    from jumanji.wrappers import AutoResetWrapper

    env = AutoResetWrapper(jumanji.make("Maze-v0"))

    def reset(key: Array, task: Any) -> tuple[Any, Any]:
        state, timestep = env.reset(key)
        return state, timestep.observation

    def step(key: Array, state: Any, action: Array, task: Any) -> tuple[Any, Any, Array]:
        state, timestep = env.step(state, action)
        return state, timestep.observation, timestep.reward

    return Contender("jumanji", 4, lambda key: (), reset, step)


def _jaxued() -> Contender:
    from jaxued.environments import Maze
    from jaxued.environments.maze import make_level_generator

    env = Maze(max_height=13, max_width=13, agent_view_size=5)
    params = env.default_params

    def reset(key: Array, task: Any) -> tuple[Any, Any]:
        observation, state = env.reset_to_level(key, task, params)
        return state, observation

    # As its AutoReplayWrapper does, which itself calls a function that jax has removed.
    def step(key: Array, state: Any, action: Array, task: Any) -> tuple[Any, Any, Array]:
        key_step, key_reset = jax.random.split(key)
        observation, state, reward, done, _ = env.step(key_step, state, action, params)
        again = reset(key_reset, task)
        state, observation = jax.tree.map(
            lambda start, later: jax.lax.select(done, start, later), again, (state, observation)
        )
        return state, observation, reward

    actions = env.action_space(params).n
    return Contender("jaxued", actions, make_level_generator(13, 13, 60), reset, step)


def _ours_anew(env: Any, count: int | None = None) -> Contender:
    """Ours, where an episode that ends is followed by one on another task.

    The task is drawn from p(T) inside the step, which under `vmap` every step of every environment
    computes, as with peers whose reset draws a layout; or, if `count` is given, it is one of that
    many drawn beforehand.
    """
    if count is None:
        another = env.sample_task
    else:
        keys = jax.random.split(jax.random.key(7), count)
        tasks = jax.jit(lambda: jax.lax.map(env.sample_task, keys, batch_size=4096))()
        another = functools.partial(draw, tasks=tasks)

    def reset(key: Array, task: Any) -> tuple[Any, Any]:
        state, timestep = env.reset(key, task)
        return (state, task), timestep.observation

    def step(key: Array, state: Any, action: Array, task: Any) -> tuple[Any, Any, Array]:
        key_step, key_task, key_reset = jax.random.split(key, 3)
        state, task = state
        state, timestep = env.step(key_step, state, action, task)
        drawn = another(key_task)
        start, _ = env.reset(key_reset, drawn)
        ended = timestep.terminated | timestep.truncated
        state, task = jax.tree.map(
            lambda a, b: jnp.where(ended, a, b), (start, drawn), (state, task)
        )
        return (state, task), env.observe(state, task), timestep.reward

    return Contender("metajax", env.action_space.n, env.sample_task, reset, step)


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "maze 13x13, view 5": lambda: _ours(Maze(size=13, view=5, position=False, horizon=200)),
    "maze 13x13, view 5, a new one each episode": lambda: _ours_anew(
        Maze(size=13, view=5, position=False, horizon=200)
    ),
    "maze 13x13, view 5, one of 65536 each episode": lambda: _ours_anew(
        Maze(size=13, view=5, position=False, horizon=200), 65536
    ),
    "gymnax MetaMaze": lambda: _gymnax("MetaMaze-misc"),
    "jaxued Maze 13x13": _jaxued,
    "XLand-MiniGrid R1-9x9": lambda: _xland("XLand-MiniGrid-R1-9x9"),
    "Jumanji Maze-v0": _jumanji,
    "minigrid empty 8x8": lambda: _ours(MiniGrid("empty", size=8)),
    "navix Empty-8x8": lambda: _navix("Navix-Empty-8x8-v0"),
    "XLand-MiniGrid Empty-8x8": lambda: _xland("MiniGrid-Empty-8x8"),
    "minigrid doorkey 8x8": lambda: _ours(MiniGrid("doorkey", size=8)),
    "minigrid doorkey 8x8, a new one each episode": lambda: _ours_anew(MiniGrid("doorkey", size=8)),
    "minigrid doorkey 8x8, one of 65536 each episode": lambda: _ours_anew(
        MiniGrid("doorkey", size=8), 65536
    ),
    "navix DoorKey-Random-8x8": lambda: _navix("Navix-DoorKey-Random-8x8-v0"),
    "XLand-MiniGrid DoorKey-8x8": lambda: _xland("MiniGrid-DoorKey-8x8"),
    "gridworld 5x5": lambda: _ours(Gridworld()),
    "gridworld 5x5, slipping": lambda: _ours(Gridworld(slip=1 / 3)),
    "gymnax FourRooms": lambda: _gymnax("FourRooms-misc"),
}
"""By name; those without a package's name in front are ours."""


def load(name: str) -> tuple[Contender, str] | str:
    """A contender and the version of its package, or why it is not available."""
    try:
        contender = CONTENDERS[name]()
        # Ours may be a checkout that was never installed.
        ours = contender.package == "metajax"
        return contender, versions().get("metajax", "") if ours else version(contender.package)
    except (ImportError, PackageNotFoundError, AttributeError, TypeError) as reason:
        return f"{type(reason).__name__}: {reason}"
