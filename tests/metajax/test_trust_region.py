"""The trust region: what it solves, what its search accepts; and MAML's step within one."""

import dataclasses
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import envs
import metajax as mj
from metajax.algorithms.maml_trpo import curvature_product
from metajax.inner import run
from metajax.trust_region import conjugate_gradients, longest_step, search

REGION = mj.TrustRegion()
INNER = mj.sgd((0.0625, 0.03125), 2)
TASKS = 2


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def system(double):
    """A positive definite matrix, and a vector, of six numbers in two arrays."""
    random = np.random.default_rng(0)
    root = random.normal(size=(6, 6))
    tree = {"a": jnp.asarray(random.normal(size=(2, 2))), "b": jnp.asarray(random.normal(size=2))}
    _, restore = jax.flatten_util.ravel_pytree(tree)
    matrix = jnp.asarray(root @ root.T)
    return matrix, tree, lambda vector: restore(matrix @ flat_array(vector))


def flat_array(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_numbers(system):
    matrix, target, product = system
    solution, residual = conjugate_gradients(product, target, 6)
    np.testing.assert_allclose(flat(solution), np.linalg.solve(matrix, flat(target)), rtol=1e-6)
    fewer, left = conjugate_gradients(product, target, 3)
    np.testing.assert_allclose(flat(left), flat(target) - matrix @ flat(fewer), atol=1e-10)
    assert np.linalg.norm(flat(left)) > 1e3 * np.linalg.norm(flat(residual))
    zeros = jax.tree.map(jnp.zeros_like, target)
    assert not flat(conjugate_gradients(product, zeros, 6)[0]).any()  # nothing to solve


def test_conjugate_gradients_end_where_a_direction_has_no_positive_curvature():
    def solved(diagonal, target):
        matrix = jnp.diag(jnp.array(diagonal))
        target = jnp.array(target)
        solution, residual = conjugate_gradients(lambda vector: matrix @ vector, target, 6)
        np.testing.assert_allclose(residual, target - matrix @ solution, atol=1e-6)
        return solution

    # Of the target itself: 1 - 4 < 0.
    np.testing.assert_allclose(solved([1.0, -4.0], [1.0, 1.0]), [1.0, 1.0])
    # Of the second direction: the first step, of length |b|² / bᵀAb = 2, is kept.
    np.testing.assert_allclose(solved([2.0, -1.0], [1.0, 1.0]), [2.0, 2.0])


def test_longest_step_is_the_natural_gradient_on_the_edge_of_the_region(system):
    matrix, gradient, product = system
    step = flat(longest_step(mj.TrustRegion(bound=0.02, damping=0.1), gradient, product))
    damped = matrix + 0.1 * np.eye(6)
    assert 0.5 * step @ damped @ step == pytest.approx(0.02, rel=1e-6)
    direction = -np.linalg.solve(damped, flat(gradient))
    np.testing.assert_allclose(step / np.linalg.norm(step), direction / np.linalg.norm(direction))


@pytest.mark.parametrize(
    ("loss", "divergence", "tries"),
    [
        (lambda x: -x, lambda x: 0.0 * x, 0),  # the whole step
        (lambda x: (x - 0.45) ** 2, lambda x: 0.0 * x, 1),  # the loss is too high beyond 0.9
        (lambda x: -x, lambda x: 0.02 * x**2, 2),  # in bound up to 0.71
        (lambda x: x, lambda x: 0.0 * x, None),  # it rises at once
        (lambda x: -x, lambda x: 0.0 * x + 1.0, None),  # never in bound
        (lambda x: jnp.nan * x, lambda x: 0.0 * x, None),
    ],
)
def test_search_takes_the_first_step_that_improves_in_bound_or_none(loss, divergence, tries):
    start, step = {"x": jnp.float32(0.0)}, {"x": jnp.float32(1.0)}

    def judge(params):
        return loss(params["x"]), divergence(params["x"])

    before = jnp.float32(loss(jnp.float32(0.0)))
    params, taken = search(REGION, start, step, judge, before)
    expected = 0.0 if tries is None else 0.8**tries
    assert params["x"] == pytest.approx(expected)
    assert taken["step_length"] == pytest.approx(expected)


def test_a_step_that_is_not_finite_is_not_taken():
    start = {"x": jnp.float32(1.0)}
    params, _ = search(
        REGION, start, {"x": jnp.float32(jnp.nan)}, lambda p: (p["x"], p["x"]), jnp.float32(1.0)
    )
    assert params["x"] == 1.0


def problem():
    """Two action dimensions, several steps, in double precision throughout."""
    env = envs.make("point", horizon=3)
    network = mj.networks.mlp_policy(env.action_space, (), initial_std=0.3)
    single = mj.policy_gradient(env, network, episodes=3, baseline="none")

    def collect(params, task, key):
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64), single.collect(params, task, key)
        )

    ratio = single.ratio_loss
    return single._replace(collect=collect, inner_loss=lambda p, batch: ratio(p, batch, None))


@pytest.fixture(scope="module")
def collected():
    """A state, and the records that its first update collects, with a leading axis N."""
    with jax.enable_x64(True):
        state = mj.maml_trpo(problem(), INNER, REGION, TASKS).init(jax.random.key(0))

        def of_task(key):
            key_task, key_adapt = jax.random.split(key)
            task = problem().sample_task(key_task)
            return run(problem(), INNER, state.params, task, key_adapt)[1]

        keys = jax.random.split(jax.random.fold_in(state.key, state.step), TASKS)
        return state, jax.jit(jax.vmap(of_task))(keys)


def plain_adaptation(params, record):
    """θ_K over the record's batches, with nothing of the engine."""
    for k, rate in enumerate((0.0625, 0.03125)):
        batch = jax.tree.map(lambda leaf, k=k: leaf[k], record.batches)
        gradient = jax.grad(lambda p, b: problem().inner_loss(p, b)[0])(params, batch)
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, gradient)
    return params


@pytest.mark.parametrize(
    ("name", "options", "policy"),
    [
        ("point", dict(horizon=6), dict(action_scale=0.1)),
        ("gridworld", {}, {}),  # outputs are a table
        ("point", dict(horizon=6), dict(dtype=jnp.bfloat16)),
    ],
)
def test_the_hessian_of_a_divergence_is_that_of_its_outputs_between_jacobians(
    name, options, policy
):
    env = envs.make(name, **options)
    network = mj.networks.mlp_policy(env.action_space, (8,), **policy)
    of_env = mj.policy_gradient(env, network, episodes=4)

    @jax.jit
    def both(key):
        params = of_env.init(key)
        batch = of_env.collect(params, of_env.sample_task(key), key)
        some = jax.random.bernoulli(key, 0.7, batch.mask.shape)
        batch = dataclasses.replace(batch, mask=jnp.where(some, batch.mask, 0.0))
        start, restore = jax.flatten_util.ravel_pytree(params)
        vector = jax.random.normal(key, start.shape)

        def slope(start):
            return jax.grad(lambda start: of_env.divergence(restore(start), batch))(start)

        found = of_env.divergence.hessian_product(params, batch, restore(vector))
        return flat_array(found), jax.jvp(slope, (start,), (vector,))[1]

    found, expected = both(jax.random.key(1))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < (0.02 if "dtype" in policy else 1e-5)


@pytest.mark.slow
def test_trust_region_holds_beside_slow_parameters():
    env = envs.make("point", horizon=3)
    network = mj.networks.mlp_policy(env.action_space, (), initial_std=0.3)
    single = mj.policy_gradient(env, network, episodes=3, baseline="none")
    learner = mj.maml_trpo(*mj.meta_learned(single, mj.sgd(0.1), ["learning_rate"]), REGION, TASKS)
    _, metrics = jax.jit(learner.update)(learner.init(jax.random.key(0)))
    assert 0 < metrics["divergence"] <= REGION.bound


def test_a_divergence_in_one_part_is_refused():
    whole = problem()._replace(divergence=lambda params, batch: jnp.float32(0.0))
    with pytest.raises(ValueError, match="`divergence` in two parts, got a function"):
        mj.maml_trpo(whole, INNER, REGION, TASKS)


@pytest.mark.usefixtures("double")
def test_curvature_is_the_hessian_of_the_divergence_after_adaptation(collected):
    state, records = collected
    record = jax.tree.map(lambda leaf: leaf[0], records)
    start, restore = jax.flatten_util.ravel_pytree(state.params)

    @jax.jit
    def both(start):
        def divergence(start):
            return problem().divergence(plain_adaptation(restore(start), record), record.judged)

        def product(vector):
            found = curvature_product(problem(), INNER, restore(start), record, restore(vector))
            return flat_array(found)

        return jax.hessian(divergence)(start), jax.vmap(product)(jnp.eye(start.size))

    expected, actual = both(start)
    assert np.linalg.norm(expected) > 0.1
    np.testing.assert_allclose(actual, expected, atol=1e-9 * np.linalg.norm(expected))


@pytest.mark.usefixtures("double")
def test_a_step_lowers_the_loss_in_bound_whatever_the_layout(collected):
    state, records = collected

    @jax.jit
    def judged(params):
        def of_task(record):
            adapted = plain_adaptation(params, record)
            loss, _ = problem().ratio_loss(adapted, record.judged, None)
            return loss, problem().divergence(adapted, record.judged)

        return jax.tree.map(jnp.mean, jax.vmap(of_task)(records))

    learner = mj.maml_trpo(
        problem(), INNER, REGION, TASKS, mapping=mj.Mapping(mj.task_mesh(2), chunk=1)
    )
    after, metrics = jax.jit(learner.update)(state)
    before, now = judged(state.params), judged(after.params)
    assert now[0] < before[0]
    assert 0.1 * REGION.bound < now[1] <= REGION.bound
    np.testing.assert_allclose(metrics["outer_loss"], before[0], atol=1e-12)
    np.testing.assert_allclose(metrics["divergence"], now[1], rtol=1e-9)
    assert metrics["step_length"] in 0.8 ** np.arange(15, dtype=np.float32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(outer=optax.adam(0.1)), "outer: MAML-TRPO expected a TrustRegion, got Gradient"),
        (dict(problem=mj.regression(mj.networks.MLP((1,)))), "problem: TRPO needs a policy"),
        (dict(problem=problems.point("dice")), "problem: TRPO needs a policy"),
        (dict(tasks=0), "tasks: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(changed, message):
    given = dict(problem=problems.quadratic(), inner=mj.sgd(0.1), outer=REGION, tasks=4)
    with pytest.raises(ValueError, match=message):
        partial(mj.maml_trpo, **(given | changed))()


@pytest.mark.parametrize("learner", [mj.maml, mj.reptile, mj.promp, mj.cavia])
def test_a_trust_region_is_no_optimiser_to_the_others(learner):
    with pytest.raises(ValueError, match=r"outer: expected an optimiser of optax, got TrustRegion"):
        learner(problems.quadratic(), mj.sgd(0.1), REGION, 4)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (dict(bound=0.0), "bound: expected above 0, got 0.0"),
        (dict(damping=-1.0), "damping: expected at least 0, got -1.0"),
        (dict(solver_steps=0), "solver_steps: expected at least 1, got 0"),
        (dict(attempts=0), "attempts: expected at least 1, got 0"),
        (dict(shrink=1.0), "shrink: expected above 0 and below 1, got 1.0"),
    ],
)
def test_a_region_that_cannot_be_is_refused(field, message):
    with pytest.raises(ValueError, match=message):
        mj.TrustRegion(**field)


def test_no_step_where_no_direction_has_positive_curvature():
    assert not longest_step(REGION, jnp.ones(2), lambda vector: -vector).any()


def test_search_tries_as_often_as_it_may_and_wants_an_improvement():
    start, step, none = {"x": jnp.float32(0)}, {"x": jnp.float32(1)}, jnp.float32(0)

    def taken(judge, attempts):
        return search(mj.TrustRegion(attempts=attempts), start, step, judge, none)[1]["step_length"]

    def third(params):
        return -params["x"], 0.02 * params["x"] ** 2

    np.testing.assert_allclose([taken(third, 2), taken(third, 3)], [0.0, 0.64], rtol=1e-6)
    assert taken(lambda params: (0.0 * params["x"], 0.0 * params["x"]), 15) == 0
