"""Estimators against exact gradients and Hessians: every trajectory counts by its probability."""

import dataclasses
from functools import partial

import enumerated
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import estimators
from metajax.algorithms.emaml import exploring_loss
from metajax.inner import Record

half = partial(estimators.loaded_dice_surrogate, dice_lambda=0.5)
none = partial(estimators.loaded_dice_surrogate, dice_lambda=0.0)
CASES = {**estimators.SURROGATES, "loaded_dice(0.5)": half, "loaded_dice(0)": none}
# How far back the second derivative gives credit.
MEMORY = {"loaded_dice(0.5)": 0.5, "loaded_dice": 1.0, "dice": 1.0}
RATE = 0.4

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module", autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def derivatives(theta, episodes):
    """name -> expected gradient and Hessian; those of J; and each trajectory's g_t, (T, M, P)."""

    weight = enumerated.probability(theta, episodes)

    def both(of):
        return jax.grad(of)(theta).reshape(-1), hessian(of, theta)

    out = {
        name: both(
            lambda t, name=name: enumerated.expected_surrogate(
                CASES[name], t, weight, enumerated.credit(name, episodes), episodes
            )
        )
        for name in CASES
    }
    exact = both(lambda t: enumerated.objective(t, episodes))
    g = jax.jacfwd(enumerated.log_probs)(theta, episodes).reshape(*episodes.mask.shape, -1)
    return out, exact, g * episodes.mask[..., None]


def hessian(of, theta):
    return jax.hessian(of)(theta).reshape(theta.size, theta.size)


@pytest.fixture(scope="module", params=[1, 2], ids=["one-coin", "two-coins"])
def taken(request, double):
    """The episodes, where they are played from, and the derivatives there."""
    episodes = enumerated.listing(request.param)
    theta = jnp.asarray(np.random.default_rng(0).normal(size=(2, request.param, 2)))
    return episodes, theta, *jax.device_get(jax.jit(derivatives)(theta, episodes))


def missing(name, theta, episodes, g):
    """What the expected Hessian leaves out: E Σ_t A_t (g_t v_tᵀ + v_t g_tᵀ), and g_t g_tᵀ."""
    ago = np.subtract.outer(np.arange(enumerated.HORIZON), np.arange(enumerated.HORIZON))
    left_out = np.where(ago > 0, 1.0 - MEMORY.get(name, 0.0) ** np.maximum(ago, 1), 0.0)
    past = np.einsum("tj,jmp->tmp", left_out, g)
    probability = np.asarray(enumerated.probability(theta, episodes))
    weight = np.asarray(enumerated.advantages(episodes)) * probability
    cross = np.einsum("tm,tmp,tmq->pq", weight, g, past)
    own = np.einsum("tm,tmp,tmq->pq", weight, g, g) if name == "log_prob" else 0.0
    return cross + cross.T + own


def relative_error(actual, expected):
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def test_the_listing_is_a_distribution_and_some_episodes_end_early(taken):
    episodes, theta, *_ = taken
    np.testing.assert_allclose(np.sum(enumerated.probability(theta, episodes)), 1.0)
    assert set(np.sum(np.asarray(episodes.mask), 0)) == {1.0, 2.0, 3.0}


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_expected_gradient_is_that_of_the_objective(name, taken):
    _, _, derivatives, exact, _ = taken
    assert relative_error(derivatives[name][0], exact[0]) < 1e-12


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_expected_hessian_is_that_of_the_objective_less_the_stated_terms(name, taken):
    episodes, theta, derivatives, (_, exact), g = taken
    bias = missing(name, theta, episodes, g)
    assert relative_error(derivatives[name][1], exact - bias) < 1e-12
    if MEMORY.get(name) == 1.0:
        assert relative_error(derivatives[name][1], exact) < 1e-12
    else:
        assert np.linalg.norm(bias) > 0.01 * np.linalg.norm(exact)  # there is something to state


def test_loaded_dice_without_memory_is_lvc(taken):
    lvc, without = taken[2]["lvc"], taken[2]["loaded_dice(0)"]
    for a, b in zip(lvc, without, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def unrolled(theta, steps, episodes):
    """J after exact gradient steps on J, written without the engine."""
    for _ in range(steps):
        theta = theta + RATE * jax.grad(enumerated.objective)(theta, episodes)
    return enumerated.objective(theta, episodes)


def meta_gradient(name, steps, theta, episodes):
    problem = enumerated.problem(name, CASES[name], episodes)
    learner = mj.maml(problem, mj.sgd(RATE, steps), optax.sgd(1.0), 1)
    update = jax.jit(lambda state: learner.update(state)[0].params)
    state = dataclasses.replace(learner.init(jax.random.key(0)), params=theta)
    return np.asarray(update(state) - theta)


two_coins = pytest.mark.parametrize("taken", [2], ids=["two-coins"], indirect=True)


@two_coins
@pytest.mark.parametrize(("name", "steps"), [("dice", 1), ("loaded_dice", 3)])
def test_maml_on_unbiased_estimators_is_the_exact_meta_gradient(name, steps, taken):
    episodes, theta, *_ = taken
    actual = meta_gradient(name, steps, theta, episodes)
    expected = jax.jit(jax.grad(unrolled), static_argnums=1)(theta, steps, episodes)
    assert relative_error(actual, expected) < 1e-12


@two_coins
@pytest.mark.parametrize("name", ["lvc", "log_prob"])
def test_maml_on_biased_estimators_misses_what_their_hessian_misses(name, taken):
    episodes, theta, _, (gradient, curvature), g = taken
    curvature = curvature - missing(name, theta, episodes, g)
    adapted = theta + RATE * gradient.reshape(theta.shape)
    judged = np.asarray(jax.grad(enumerated.objective)(adapted, episodes)).reshape(-1)
    expected = judged + RATE * curvature @ judged
    actual = meta_gradient(name, 1, theta, episodes).reshape(-1)
    assert relative_error(actual, expected) < 1e-12


def sampled_objective(theta, steps, credit, episodes):
    """E[J(θ_K)], each step on one trajectory: all of them, by their probability."""
    if steps == 0:
        return enumerated.objective(theta, episodes)

    def after(weight):
        gradient = jax.grad(enumerated.expected_surrogate, argnums=1)
        step = gradient(estimators.log_prob_surrogate, theta, weight, credit, episodes)
        return sampled_objective(theta + RATE * step, steps - 1, credit, episodes)

    reached = jax.vmap(after)(jnp.eye(episodes.chance.size))
    return jnp.sum(enumerated.probability(theta, episodes) * reached)


def expected_e_maml_gradient(theta, problem, steps, episodes):
    """E of the gradient that E-MAML takes, over the trajectories of all its inner steps."""
    inner = mj.sgd(RATE, steps)
    singles = jnp.eye(episodes.chance.size)

    def of(params, probability, weights, gradients):
        if len(weights) < steps:

            def extend(weight, chance):
                grads = jax.grad(lambda p: problem.inner_loss(p, {"weight": weight})[0])(params)
                return of(
                    params - RATE * grads,
                    probability * chance,
                    [*weights, weight],
                    [*gradients, grads],
                )

            chances = enumerated.probability(params, episodes)
            return jnp.sum(jax.vmap(extend)(singles, chances), axis=0)
        judged = problem.collect(params, (), None)
        record = Record({"weight": jnp.stack(weights)}, jnp.stack(gradients), judged)
        reached = problem.score(judged)
        gradient = jax.grad(lambda p: exploring_loss(problem, inner, p, record, reached)[0])
        return probability * gradient(theta)

    return -of(theta, jnp.float64(1.0), [], [])


@pytest.mark.parametrize("taken", [1], ids=["one-coin"], indirect=True)
@pytest.mark.parametrize("steps", [1, 2])
def test_e_maml_is_the_exact_meta_gradient_of_adapting_to_sampled_trajectories(steps, taken):
    episodes, theta, *_ = taken
    credit = enumerated.advantages(episodes)
    expected = jax.jit(jax.grad(sampled_objective), static_argnums=1)(
        theta, steps, credit, episodes
    )
    problem = enumerated.problem("log_prob", estimators.log_prob_surrogate, episodes)
    actual = jax.jit(lambda theta: expected_e_maml_gradient(theta, problem, steps, episodes))(theta)
    assert relative_error(actual, expected) < 1e-12


def test_ratio_is_lvc_where_the_episodes_were_played():
    """In value and in both derivatives by log π, of which everything else follows."""
    played, advantage, tangent = jax.random.normal(jax.random.key(0), (3, 4, 2))
    mask = jnp.ones((4, 2)).at[2:, 1].set(0.0)

    def both_orders(surrogate):
        gradient = jax.grad(surrogate)
        return surrogate(played), *jax.jvp(gradient, (played,), (tangent,))

    ratio = both_orders(lambda now: estimators.ratio_surrogate(now, played, advantage, mask))
    lvc = both_orders(lambda now: estimators.lvc_surrogate(now, advantage, mask))
    for one, other in zip(ratio, lvc, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.5, 1.0, 0.0),  # taken more often already, by more than the clip
        (1.5, -1.0, -1.5),  # too often for a bad action: still to be undone
        (0.5, -1.0, 0.0),
        (0.5, 1.0, 0.5),
        (1.1, 1.0, 1.1),  # within the clip
        (1.0, 1.0, 1.0),
    ],
)
def test_clipped_ratio_gains_nothing_by_going_on(ratio, advantage, slope):
    def surrogate(log_ratio):
        return estimators.ratio_surrogate(
            log_ratio[None, None],
            jnp.zeros((1, 1)),
            jnp.full((1, 1), advantage),
            jnp.ones((1, 1)),
            0.3,
        )

    np.testing.assert_allclose(jax.grad(surrogate)(jnp.log(ratio)), slope, rtol=1e-12)
