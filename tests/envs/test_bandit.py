"""Bernoulli bandits pay as often as their task says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import BernoulliBandit
from envs.bandit import BanditTask

ENV = BernoulliBandit(arms=3)
TASK = BanditTask(probability=jnp.array([0.0, 0.3, 1.0]), horizon=jnp.int32(4))


@pytest.mark.smoke
@pytest.mark.parametrize("arm", [0, 1, 2])
def test_an_arm_pays_with_its_probability(arm):
    count = 4000
    state, _ = ENV.reset(jax.random.key(0), TASK)
    pull = jax.jit(jax.vmap(lambda key: ENV.step(key, state, jnp.int32(arm), TASK)[1].reward))
    rewards = np.asarray(pull(jax.random.split(jax.random.key(1), count)))
    assert set(rewards.tolist()) <= {0.0, 1.0}
    chance = float(TASK.probability[arm])
    assert abs(rewards.mean() - chance) <= 4 * np.sqrt(chance * (1 - chance) / count)


def test_mean_optimum_is_the_expected_largest_probability():
    """Of five uniform ones 5/6, ten times."""
    env, count = BernoulliBandit(), 4000
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), count))
    optimal = jax.vmap(env.optimal_return)(tasks)
    assert optimal.mean() == pytest.approx(10 * 5 / 6, abs=4 * 10 * 0.141 / np.sqrt(count))
    np.testing.assert_allclose(tasks.probability.mean(axis=0), 0.5, atol=4 * 0.289 / count**0.5)


def test_the_oracle_knows_the_arms():
    state, _ = ENV.reset(jax.random.key(0), TASK)
    assert ENV.optimal_action(state, TASK) == 2
    assert ENV.optimal_return(TASK) == 4.0
