import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import metajax as mj
from metajax.baselines import (
    BASELINES,
    linear_features,
    linear_features_of_rows,
    mean_return,
)

linear = jax.jit(linear_features)


def test_linear_baseline_is_the_least_squares_fit():
    rng = np.random.default_rng(0)
    horizon, episodes = 50, 6
    observation = rng.normal(size=(horizon, episodes, 2)).astype(np.float32)
    returns = rng.normal(size=(horizon, episodes)).astype(np.float32) * 10
    mask = (np.arange(horizon)[:, None] < rng.integers(10, horizon, episodes)).astype(np.float32)
    time = np.broadcast_to(np.arange(horizon)[:, None, None] / 100.0, (horizon, episodes, 1))
    columns = [observation, observation**2, time, time**2, time**3, np.ones_like(time)]
    features = np.concatenate(columns, -1).reshape(-1, 8).astype(np.float64)
    taken = mask.reshape(-1) > 0
    weights = np.linalg.lstsq(features[taken], returns.reshape(-1)[taken], rcond=None)[0]
    actual = linear(*map(jnp.asarray, (observation, returns, mask)))
    expected = (features @ weights).reshape(horizon, episodes) * mask
    np.testing.assert_allclose(actual, expected, atol=0.05)


def test_linear_baseline_fits_what_is_linear_even_far_from_unit_scale():
    key = jax.random.key(0)
    observation = 1e-3 * jax.random.normal(key, (40, 5, 2))
    returns = 7.0 + 2e3 * observation[..., 0]
    value = linear(observation, returns, jnp.ones((40, 5)))
    np.testing.assert_allclose(value, returns, atol=2e-2)


def test_mean_baseline_averages_the_episodes_still_running():
    mask = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    returns = jnp.array([[4.0, 2.0], [3.0, 0.0]])
    value = mean_return(jnp.zeros((2, 2, 1)), returns, mask)
    np.testing.assert_array_equal(value, [[3.0, 3.0], [3.0, 0.0]])


def test_bits_enter_once_since_they_are_their_own_squares():
    key_bits, key_returns = jax.random.split(jax.random.key(0))
    bits = jax.random.bernoulli(key_bits, shape=(30, 4, 6))
    returns = jax.random.normal(key_returns, (30, 4))
    once = linear(bits, returns, jnp.ones((30, 4)))
    twice = linear(bits.astype(jnp.uint8), returns, jnp.ones((30, 4)))
    np.testing.assert_allclose(once, twice, atol=1e-3)


def test_sums_over_the_steps_of_each_row_are_the_products_with_one_hot_observations():
    rng = np.random.default_rng(0)
    row = rng.integers(0, 9, (30, 4)).astype(np.int32)
    returns = rng.normal(size=(30, 4))
    mask = (np.arange(30)[:, None] < rng.integers(5, 30, 4)).astype(np.float64)
    with jax.enable_x64(True):
        row, returns, mask = map(jnp.asarray, (row, returns, mask))
        one_hot = jax.nn.one_hot(row, 9, dtype=bool)
        expected = linear(one_hot, returns, mask)
        actual = jax.jit(linear_features_of_rows, static_argnums=1)(row, 9, returns, mask)
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.smoke
def test_an_update_calls_no_library_kernel_that_could_wait_for_its_own_thread_pool():
    """jaxlib's batched LAPACK kernels dead-lock where two CPU devices call them at once."""
    learner = mj.maml(
        problems.gridworld("linear"), mj.sgd(1.0), optax.sgd(1.0), 4,
        mapping=mj.Mapping(mesh=mj.task_mesh(2)),
    )  # fmt: skip
    state = jax.eval_shape(learner.init, jax.random.key(0))
    assert "lapack" not in jax.jit(learner.update).lower(state).as_text()


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_is_finite_and_zero_where_no_step_was_taken(name):
    mask = jnp.ones((4, 3)).at[2:].set(0.0)
    value = jax.jit(BASELINES[name])(jnp.zeros((4, 3, 5), jnp.uint8), jnp.ones((4, 3)), mask)
    assert np.isfinite(value).all()
    np.testing.assert_array_equal(value[2:], 0.0)
