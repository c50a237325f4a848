"""Value iteration, against every policy that there is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.value_iteration import value_iteration


def _process(seed, states, actions):
    random = np.random.default_rng(seed)
    transition = random.dirichlet(np.ones(states), (states, actions)).astype(np.float32)
    return transition, random.normal(size=(states, actions)).astype(np.float32)


def _under(transition, reward, policy):
    """The transition and the reward of the policy, an action for each state."""
    states = np.arange(len(policy))
    return transition[states, policy].astype(float), reward[states, policy].astype(float)


@pytest.mark.smoke
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_values_of_a_horizon_are_those_of_the_best_of_all_policies(horizon):
    transition, reward = _process(0, 3, 2)
    best = np.full(3, -np.inf)
    for plan in itertools.product(itertools.product(range(2), repeat=3), repeat=horizon):
        value = np.zeros(3)
        for policy in plan:
            moved, paid = _under(transition, reward, np.array(policy))
            value = paid + 0.9 * moved @ value
        best = np.maximum(best, value)
    values = value_iteration(transition, reward, horizon=horizon, discount=0.9)
    np.testing.assert_allclose(values.max(axis=1), best, atol=1e-6)


@pytest.mark.parametrize("discount", [0.0, 0.4, 0.95])
def test_values_without_a_horizon_are_those_of_the_best_stationary_policy(discount):
    transition, reward = _process(1, 4, 3)
    best = np.full(4, -np.inf)
    for policy in itertools.product(range(3), repeat=4):
        moved, paid = _under(transition, reward, np.array(policy))
        best = np.maximum(best, np.linalg.solve(np.eye(4) - discount * moved, paid))
    values = jnp.max(value_iteration(transition, reward, discount=discount), axis=1)
    np.testing.assert_allclose(values, best, atol=5e-5)


def test_the_horizon_may_be_data():
    transition, reward = _process(2, 5, 2)
    horizons = jnp.array([1, 4, 2])
    values = jax.jit(jax.vmap(lambda steps: value_iteration(transition, reward, horizon=steps)))
    for horizon, found in zip(horizons.tolist(), values(horizons), strict=True):
        alone = value_iteration(transition, reward, horizon=horizon)
        np.testing.assert_allclose(found, alone, rtol=1e-6)
    np.testing.assert_array_equal(values(horizons)[0], reward)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(discount=1.1), "discount: got 1.1, expected a number from 0 to 1"),
        (dict(), "discount: got 1.0, expected less than 1 where there is no horizon"),
        (dict(horizon=0), "horizon: got 0, expected an integer of at least 1"),
        (dict(horizon=jnp.int32(-3)), "horizon: got .*-3.*, expected an integer of at least 1"),
        (dict(horizon=2.0), "horizon: got 2.0, expected an integer"),
        (dict(discount=0.9, tolerance=2.0), "tolerance: got 2.0, expected a number between 0 and"),
        (dict(discount=0.9, tolerance=0.0), "tolerance: got 0.0, expected a number between 0 and"),
    ],
)
def test_a_number_out_of_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message) as refusal:
        value_iteration(*_process(0, 2, 2), **fields)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda transition, reward: (transition, reward.astype(int)),
        lambda transition, reward: (transition, reward[:1]),
        lambda transition, reward: (transition[:, :, :1], reward),
        lambda transition, reward: (reward, reward),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(change):
    expected = r"transition, reward: got .*, expected floats \[S, A, S\] and floats \[S, A\]$"
    with pytest.raises(ValueError, match=expected) as refusal:
        value_iteration(*change(*_process(0, 2, 2)), horizon=3)
    assert "\n" not in str(refusal.value)
