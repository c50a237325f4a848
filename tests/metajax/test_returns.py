import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
import metajax as mj
from metajax import returns
from metajax.returns import discounted_returns, generalised_advantages, normalise, paid_alike


@jax.jit
def compiled(reward, value, mask, discount, gae_lambda):
    advantages = generalised_advantages(reward, value, mask, discount, gae_lambda)
    return advantages, discounted_returns(reward, mask, discount)


@hypothesis.given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
@hypothesis.settings(max_examples=25)
def test_advantages_are_the_definition_summed_by_hand(seed, discount, gae_lambda):
    rng = np.random.default_rng(seed)
    horizon, episodes = 7, 3
    lengths = rng.integers(1, horizon + 1, episodes)
    mask = (np.arange(horizon)[:, None] < lengths).astype(np.float32)
    reward, value = rng.normal(size=(2, horizon, episodes)).astype(np.float32)
    expected = np.zeros((horizon, episodes))
    returns = np.zeros((horizon, episodes))
    for b, length in enumerate(lengths):
        for t in range(length):
            for j in range(t, length):
                after = value[j + 1, b] if j + 1 < length else 0.0
                error = reward[j, b] + discount * after - value[j, b]
                expected[t, b] += (discount * gae_lambda) ** (j - t) * error
                returns[t, b] += discount ** (j - t) * reward[j, b]
    arrays = [jnp.asarray(array) for array in (reward, value, mask)]
    actual, discounted = compiled(*arrays, discount, gae_lambda)
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    np.testing.assert_allclose(discounted * mask, returns, atol=2e-5)


def test_normalised_advantages_have_unit_deviation_over_the_steps_taken_only():
    mask = jnp.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    advantage = jnp.array([[1.0, 2.0], [3.0, 99.0], [6.0, -99.0]])
    taken = np.asarray(normalise(advantage, mask))[np.asarray(mask) > 0]
    np.testing.assert_allclose([taken.mean(), taken.std()], [0.0, 1.0], atol=1e-6)


def test_equal_advantages_normalise_to_zero_not_to_nan():
    ones = jnp.ones((3, 2))
    np.testing.assert_array_equal(normalise(ones, ones), 0.0)
    np.testing.assert_array_equal(normalise(ones, jnp.zeros((3, 2))), 0.0)


def test_rounding_does_not_become_advantages():
    ones = jnp.ones((7, 5))
    for equal in (10.1, -0.3, 1e-20, 1e18):
        np.testing.assert_array_equal(normalise(equal * ones, ones), 0.0)
    apart = normalise(1e6 + jnp.array([[0.0, 16.0]]), jnp.ones((1, 2)))
    np.testing.assert_allclose(apart, [[-1.0, 1.0]], rtol=1e-3)


def test_a_discount_of_a_wider_type_leaves_returns_theirs():
    ones = np.ones((3, 1), np.float32)
    with jax.enable_x64(True):
        arguments = (jnp.asarray(ones), jnp.array([False]), jnp.asarray(ones))
        total, power, _ = returns.n_step_returns(*arguments, jnp.float64(0.5), 2)
    assert total.dtype == power.dtype == np.float32
    np.testing.assert_array_equal(total[:, 0], [1.5, 1.5, 1.0])


def test_equal_advantages_have_a_derivative():
    ones = jnp.ones((3, 2))
    slope = jax.grad(lambda value: jnp.sum(normalise(value * ones, ones)))(1.0)
    np.testing.assert_array_equal(slope, 0.0)


def test_an_accelerators_product_is_the_sum_that_a_loop_takes(monkeypatch):
    values = jax.random.normal(jax.random.key(0), (40, 3))
    looped = returns._discounted_sums(values, 0.97)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(returns._discounted_sums(values, 0.97), looped, rtol=1e-5, atol=1e-5)
    loops = [
        str(jax.make_jaxpr(returns._discounted_sums)(*args)).count("scan[")
        for args in ((values, jnp.float32(0.97)), (jnp.ones((600, 1)), 0.97))
    ]
    assert loops == [1, 1]  # a discount that is learned, and a horizon whose square is large
    assert "scan[" not in str(jax.make_jaxpr(lambda x: returns._discounted_sums(x, 0.97))(values))


def test_episodes_are_paid_alike_where_no_reward_and_no_length_differs():
    reward = jnp.array([[1.0, 1.0], [0.5, 0.5]])
    mask = jnp.ones((2, 2))
    assert paid_alike(reward, mask)
    assert not paid_alike(reward.at[1, 0].set(0.0), mask)
    assert not paid_alike(reward, mask.at[1, 0].set(0.0))


@pytest.mark.parametrize(
    ("rewards", "taken", "alike"),
    [
        ([1.0, 0.5], [1.0, 1.0], False),
        ([0.0, 0.0], [1.0, 1.0], True),
        ([0.0, 0.0], [1.0, 0.0], True),
        ([0.5, 0.5], [1.0, 1.0], True),
        ([0.5, 0.0], [1.0, 0.0], False),  # paid for lasting: that it ended tells something
    ],
)
def test_a_single_episode_is_paid_alike_where_no_step_tells_anything(rewards, taken, alike):
    reward, mask = (jnp.array(values)[:, None] for values in (rewards, taken))
    assert paid_alike(reward, mask) == alike


@pytest.mark.parametrize("baseline", ["linear", "mean"])
def test_where_nothing_was_reached_nothing_is_learned(baseline):
    """What a baseline misses by is no credit, however it is normalised."""
    env = envs.make("gridworld", horizon=6)
    network = mj.networks.mlp_policy(env.action_space, (4,))
    problem = mj.policy_gradient(env, network, episodes=8, baseline=baseline)
    task = dataclasses.replace(env.sample_task(jax.random.key(0)), goal=jnp.array([4, 4]))
    batch = jax.jit(problem.collect)(problem.init(jax.random.key(1)), task, jax.random.key(2))
    assert len(np.unique(batch.reward)) == 1
    np.testing.assert_array_equal(batch.advantage, 0.0)
