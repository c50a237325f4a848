"""The environments under test, and batches of their episodes that the tests share."""

from __future__ import annotations

import functools

import pytest
from whole_episodes import CONFIGURATIONS, run_episodes, sample_tasks


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
