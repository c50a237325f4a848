"""Whole episodes of an environment, traced and compiled once for all the tests that run them."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from envs.core import provides

# Every registered environment as it comes, and configurations that reach other code. MiniGrid's
# 640 steps would take most of the time of all tests of environments.
CONFIGURATIONS = {
    **{id: envs.make(id) for id in envs.registered()},
    "minigrid": envs.make("minigrid", horizon=60),
    "maze-sees-exit": envs.make("maze", size=13, view=7, position=False, see_exit=True, horizon=60),
    "maze-position-only": envs.make("maze", size=5, view=0, horizon=6),
    "minigrid-sees-all": envs.make("minigrid", family="empty-random", size=5, full=True),
    "trial-of-mazes": envs.Trial(envs.make("maze", size=5, view=0, horizon=6), episodes=3),
    "trial-of-gridworlds": envs.Trial(envs.make("gridworld"), episodes=2),
    "maze-facing": envs.make(
        "maze", size=7, view=5, heading=True, see_exit=True, occlusion=True, random_start=True
    ),
    "maze-of-all-kinds": envs.make(
        "maze",
        size=11,
        view=7,
        full=True,
        occlusion=True,
        generator="kruskal",
        braid=0.5,
        rooms=1,
        smallest=5,
        random_start=True,
        shuffle_controls=True,
        rewards=0.05,
        horizon=30,
    ),
    "maze-slips": envs.make(
        "maze", size=7, generator="scatter", slip=0.4, horizon=30, far_exit=False, heading=True
    ),
    "maze-series": envs.make("maze-series", maze=envs.Maze(size=5), horizon=25),
    "gridworld-of-all-kinds": envs.make(
        "gridworld",
        size=6,
        density=0.3,
        random_start=True,
        shuffle_controls=True,
        slip=0.3,
        rewards=0.3,
    ),
}

SOLVED = [id for id, env in CONFIGURATIONS.items() if provides(env, envs.SolvedEnvironment)]

COUNT = 96  # tasks in a batch
traces = collections.Counter()  # how often the episodes of an environment were traced


@dataclasses.dataclass(frozen=True)
class Episodes:
    """N whole episodes, as numpy; T is max_horizon + 1, index 0 what `reset` returned."""

    keys: Any  # [N, T]; the first is for `reset`
    tasks: Any  # [N, ...]
    states: Any  # [N, T, ...]
    timesteps: Any  # [N, T, ...]
    actions: Any  # [N, T - 1, ...]
    lived: np.ndarray  # [N, T] bool, the steps up to and with the end of the episode
    optimal: np.ndarray  # [N] float32, the oracle's return; NaN without an oracle

    @property
    def returns(self) -> np.ndarray:
        return np.where(self.lived, self.timesteps.reward, 0).sum(axis=1)

    @property
    def lengths(self) -> np.ndarray:
        return self.lived.sum(axis=1) - 1


def run_episodes(env, tasks, chance, seed=0, keys_seed=0) -> Episodes:
    """An episode on each of COUNT tasks; an action is random by `chance`, otherwise optimal."""
    random = np.random.default_rng(seed)
    shape = (COUNT, env.max_horizon)
    wander = random.random(shape) < chance
    space = env.action_space
    if isinstance(space, envs.Discrete):
        actions = random.integers(0, space.n, shape).astype(space.dtype)
    else:
        actions = random.normal(size=(*shape, *space.shape)).astype(space.dtype)
    keys = jax.random.split(jax.random.key(keys_seed), (COUNT, env.max_horizon + 1))
    *found, optimal = jax.tree.map(np.asarray, _compiled(env)(keys, tasks, wander, actions))
    return Episodes(keys, tasks, *found, optimal)


@functools.cache
def sample_tasks(env):
    keys = jax.random.split(jax.random.key(1), COUNT)
    return jax.jit(jax.vmap(env.sample_task))(keys)


def first_task(env):
    return jax.tree.map(lambda leaf: leaf[0], sample_tasks(env))


@functools.cache
def _compiled(env):
    @jax.jit
    def batch(keys, tasks, wander, actions):
        traces[env] += 1
        episodes = jax.vmap(functools.partial(_episode, env))(keys, tasks, wander, actions)
        solved = provides(env, envs.SolvedEnvironment)
        optimal = jax.vmap(env.optimal_return)(tasks) if solved else jnp.full(COUNT, jnp.nan)
        return *episodes, optimal

    return batch


def _episode(env, keys, task, wander, actions):
    def step(carry, given):
        state, timestep, lives = carry
        key, wanders, action = given
        lives = lives & ~(timestep.terminated | timestep.truncated)
        if provides(env, envs.SolvedEnvironment):
            action = jnp.where(wanders, action, env.optimal_action(state, task))
        state, timestep = env.step(key, state, action, task)
        return (state, timestep, lives), ((state, timestep, lives), action)

    first = (*env.reset(keys[0], task), jnp.array(True))
    _, (rest, actions) = jax.lax.scan(step, first, (keys[1:], wander, actions))
    states, timesteps, lived = jax.tree.map(
        lambda start, later: jnp.concatenate([start[None], later]), first, rest
    )
    return states, timesteps, actions, lived
