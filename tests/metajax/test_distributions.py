import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from metajax import distributions
from metajax.distributions import for_action_space


def compiled(distribution):
    """A program for each function in the place of one for each of its operations."""
    shapes = {"noise": 1}
    programs = {
        name: function and jax.jit(function, static_argnums=shapes.get(name))
        for name, function in distribution._asdict().items()
    }
    return distribution._replace(**programs)


categorical = compiled(distributions.categorical)
diagonal_gaussian = compiled(distributions.diagonal_gaussian)


def epsilon_greedy(epsilon):
    return compiled(distributions.epsilon_greedy(epsilon))


def test_categorical_samples_have_the_probabilities_of_the_logits():
    logits = jnp.array([0.0, 1.0, -1.0, 2.0])
    samples = categorical.sample(jax.random.key(0), jnp.broadcast_to(logits, (40_000, 4)))
    frequencies = np.bincount(np.asarray(samples), minlength=4) / 40_000
    np.testing.assert_allclose(frequencies, jax.nn.softmax(logits), atol=0.01)


def test_categorical_never_samples_outside_however_sharp():
    logits = jnp.broadcast_to(jnp.array([-1e4, 1e4, -1e4]), (1000, 3))
    np.testing.assert_array_equal(categorical.sample(jax.random.key(0), logits), 1)


def test_categorical_log_prob_and_entropy_are_their_definitions():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    actions = jnp.array([0, 1, 2, 1, 0], jnp.int32)
    log_probs = jax.nn.log_softmax(logits)
    np.testing.assert_allclose(
        categorical.log_prob(logits, actions), log_probs[jnp.arange(5), actions], rtol=1e-6
    )
    expected = -jnp.sum(jnp.exp(log_probs) * log_probs, -1)
    np.testing.assert_allclose(categorical.entropy(logits), expected, rtol=1e-6)


def test_an_action_that_is_ruled_out_has_no_entropy():
    logits = jnp.array([0.3, -0.2, -jnp.inf])
    both = jax.jit(jax.value_and_grad(categorical.entropy))
    (value, slope), (expected, beside) = both(logits), both(logits[:2])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, [*beside, 0.0], rtol=1e-5, atol=1e-7)


def test_epsilon_greedy_is_the_best_action_or_any_each_episode_with_its_own_chance():
    values = jnp.broadcast_to(jnp.array([1.0, 3.0, 3.0, 2.0]), (40_000, 2, 4))
    behaviour = epsilon_greedy(jnp.array([0.4, 0.0])[None])
    actions = np.asarray(behaviour.sample(jax.random.key(0), values))
    expected = np.array([[0.1, 0.4, 0.4, 0.1], [0.0, 0.5, 0.5, 0.0]])
    for episode in (0, 1):
        frequencies = np.bincount(actions[:, episode], minlength=4) / 40_000
        np.testing.assert_allclose(frequencies, expected[episode], atol=0.01)
    assert set(actions[:, 1]) == {1, 2}
    one = behaviour.log_prob(values[:1], jnp.array([[0, 2]], jnp.int32))
    np.testing.assert_allclose(jnp.exp(one), [[0.1, 0.5]], rtol=1e-6)
    entropy = -(expected * np.log(np.maximum(expected, 1e-30))).sum(-1)
    np.testing.assert_allclose(behaviour.entropy(values[:1])[0], entropy, rtol=1e-6)
    np.testing.assert_array_equal(behaviour.mode(values[0]), [1, 1])


def test_gaussian_log_prob_sums_over_action_dimensions():
    mean, log_std = jnp.array([0.5, -1.0]), jnp.array([0.1, -0.3])
    action = jnp.array([1.0, 0.0])
    each = jax.scipy.stats.norm.logpdf(action, mean, jnp.exp(log_std))
    np.testing.assert_allclose(
        diagonal_gaussian.log_prob((mean, log_std), action), each.sum(), rtol=1e-6
    )
    samples = diagonal_gaussian.sample(
        jax.random.key(0), (jnp.broadcast_to(mean, (40_000, 2)), log_std[None])
    )
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(samples.std(0), jnp.exp(log_std), rtol=0.02)


def test_divergence_is_the_mean_difference_of_log_probs():
    """Of integers a sum over all of them; of normals by Gauss-Hermite quadrature, exact here."""
    logits, other = jax.random.normal(jax.random.key(0), (2, 5, 3))
    actions = jnp.arange(3, dtype=jnp.int32)[:, None]
    difference = categorical.log_prob(logits, actions) - categorical.log_prob(other, actions)
    expected = jnp.sum(jax.nn.softmax(logits).T * difference, axis=0)
    np.testing.assert_allclose(categorical.divergence(logits, other), expected, rtol=1e-5)
    surely = jnp.array([0.0, -jnp.inf])
    np.testing.assert_allclose(categorical.divergence(surely, jnp.zeros(2)), np.log(2), rtol=1e-6)

    one = (jnp.array([0.5, -1.0]), jnp.array([0.1, -0.3]))
    two = (jnp.array([0.1, -0.7]), jnp.array([-0.2, 0.4]))
    points, weights = np.polynomial.hermite_e.hermegauss(3)
    actions = np.array(one[0]) + np.exp(one[1]) * points[:, None]
    each = [-s - 0.5 * ((actions - m) / np.exp(s)) ** 2 for m, s in map(np.array, (one, two))]
    difference = np.subtract(*each).sum(-1)
    expected = weights @ difference / weights.sum()
    np.testing.assert_allclose(diagonal_gaussian.divergence(one, two), expected, rtol=1e-5)


def test_distribution_fits_the_action_space_or_says_why_not():
    assert for_action_space(envs.Discrete(3)) is distributions.categorical
    assert for_action_space(envs.Box(-1, 1, (2,))) is distributions.diagonal_gaussian
    with pytest.raises(TypeError, match="action space: expected"):
        for_action_space(envs.Box(-1, 1, (2, 2)))


def test_a_number_below_one_is_not_rounded_to_an_action_that_is_ruled_out():
    logits = jnp.array([0.0, -jnp.inf], jnp.bfloat16)
    assert categorical.draw(jnp.float32(1 - 2**-24), logits) == 0


@pytest.mark.parametrize(("actions", "ruled_out"), [(4, (2,)), (7, (6,)), (7, (0, 3, 4))])
def test_an_action_of_probability_zero_is_not_drawn_however_sums_round(actions, ruled_out):
    """At either side of each boundary, and at the ends of what `jax.random.uniform` returns."""
    logits = 3.0 * jax.random.normal(jax.random.key(0), (3000, actions))
    logits = logits.at[:, np.asarray(ruled_out)].set(-jnp.inf)
    shares = categorical.shares(logits)
    numbers = [np.zeros((3000, 1), np.float32), np.full((3000, 1), 1 - 2**-24, np.float32)]
    numbers += [np.nextafter(shares, np.float32(to)) for to in (0, 1)] + [shares]
    numbers = np.clip(np.concatenate(numbers, axis=1), 0, np.float32(1 - 2**-24))
    drawn = categorical.draw_from(numbers, shares[:, None])
    assert not np.isin(drawn, ruled_out).any()
    assert len(np.unique(drawn)) == actions - len(ruled_out)


@pytest.mark.parametrize("ties", [3, 5, 6])
def test_the_greedy_action_is_among_the_best_however_sums_round(ties):
    values = jnp.zeros(7).at[:ties].set(1.0)
    assert epsilon_greedy(jnp.array(0.0)).draw(jnp.float32(1 - 2**-24), values) == ties - 1


def test_epsilon_greedy_divergence_is_from_the_first_to_the_second():
    behaviour, actions = epsilon_greedy(jnp.array(0.4)), jnp.arange(3, dtype=jnp.int32)
    values, other = jnp.array([0.0, 1.0, 1.0]), jnp.array([3.0, 0.0, 0.0])
    one, two = (behaviour.log_prob(each, actions) for each in (values, other))
    expected = jnp.sum(jnp.exp(one) * (one - two))
    np.testing.assert_allclose(behaviour.divergence(values, other), expected, rtol=1e-5)


def test_gaussian_entropy_is_a_sum_over_action_dimensions():
    log_std = jnp.array([[0.1, -0.3], [0.0, 2.0]])
    expected = 1 + np.log(2 * np.pi) + np.sum(log_std, axis=1)
    found = diagonal_gaussian.entropy((jnp.ones((2, 2)), log_std))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
