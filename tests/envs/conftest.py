"""The environments under test, batches of their episodes and sets of their tasks."""

from __future__ import annotations

import functools

import jax
import pytest
from whole_episodes import CONFIGURATIONS, run_episodes, sample_tasks

import envs


@functools.cache
def _batch(env, chance):
    return run_episodes(env, sample_tasks(env), chance)


@pytest.fixture(params=CONFIGURATIONS, scope="session")
def env(request):
    """Each configuration in turn."""
    return CONFIGURATIONS[request.param]


@pytest.fixture
def random_episodes(env):
    return _batch(env, 1.0)


@pytest.fixture
def optimal_episodes(env):
    return _batch(env, 0.0)


@pytest.fixture
def erring_episodes(env):
    """Of a policy that is mostly optimal: nearest to beating an oracle that is too low."""
    return _batch(env, 0.1)


@pytest.fixture(scope="module")
def points():
    """A set of point navigation's tasks."""
    return envs.TaskSet.make(envs.make("point"), jax.random.key(0), 2000, chunk=512)


@pytest.fixture(scope="module")
def goals():
    """All of the 21 tasks of VariBAD's gridworld."""
    return envs.TaskSet.make(envs.make("gridworld"), jax.random.key(0), 500)
