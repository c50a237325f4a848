"""The derivative through adaptation, against finite differences and independent formulas."""

import dataclasses
import operator
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from differences import directional_error, to_x64

import envs
import metajax as mj
from metajax import jaxprs, mapping
from metajax.inner import Record, run
from metajax.replays import losses_along, pushforward, replay, replay_path

OPTIMISERS = {
    "sgd": lambda steps: mj.sgd(0.5, steps),
    "sgd-rates": lambda steps: mj.sgd((0.5, 0.25), steps),
    "adam": lambda steps: mj.adam(0.05, steps),
}


def plain_objective(inner_loss, outer_loss, inner, batches, judged, params):
    """The meta-objective over frozen batches, written without the engine."""
    opt_state = inner.optimizer.init(params)
    for batch in batches:
        grads = jax.grad(lambda p, b: inner_loss(p, b)[0])(params, batch)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = inner.optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    return outer_loss(params, judged)[0]


def unstack(record: Record, steps: int):
    return [jax.tree.map(operator.itemgetter(k), record.batches) for k in range(steps)]


def played(problem, inner, params, **options):
    """What an adaptation to a task leaves: where it ends, a record and a trace."""
    task = problem.sample_task(jax.random.key(1))
    compiled = jax.jit(lambda p: run(problem, inner, p, task, jax.random.key(2), **options))
    return compiled(params)


def meta_gradient(problem, inner, params, record):
    return jax.jit(
        jax.grad(lambda p: problem.outer_loss(replay(problem, inner, p, record), record.judged)[0])
    )(params)


@partial(jax.jit, static_argnums=(0, 1, 4))
def recompute_gradients(problem, inner, params, record, steps):
    """What is recorded at full precision: a record collected in float32 has rounded values."""
    rows, starts, opt_state = [], [], inner.optimizer.init(params)
    for batch in unstack(record, steps):
        grads = jax.grad(lambda p, b: problem.inner_loss(p, b)[0])(params, batch)
        rows.append(grads)
        starts.append(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = inner.optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    stacked, path = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *r) for r in (rows, starts))
    return Record(record.batches, stacked, record.judged, path=path, adapted=params)


@pytest.mark.parametrize(
    ("optimiser", "steps"),
    [
        pytest.param("sgd", 1, marks=pytest.mark.smoke),
        pytest.param("adam", 3, marks=pytest.mark.smoke),
        pytest.param("sgd", 3, marks=pytest.mark.slow),
        pytest.param("adam", 1, marks=pytest.mark.slow),
    ],
)
def test_meta_gradient_of_rl_matches_finite_differences_in_x64(optimiser, steps):
    problem = problems.point("log_prob")
    inner = OPTIMISERS[optimiser](steps)
    params = problem.init(jax.random.key(0))
    _, record, _ = played(problem, inner, params)
    with jax.enable_x64(True):
        params, record = to_x64(params), to_x64(record)
        record = recompute_gradients(problem, inner, params, record, steps)
        gradient = meta_gradient(problem, inner, params, record)
        objective = jax.jit(
            lambda p: plain_objective(
                problem.inner_loss,
                problem.outer_loss,
                inner,
                unstack(record, steps),
                record.judged,
                p,
            )
        )
        assert directional_error(objective, gradient, params, jax.random.key(3)) < 1e-6


def test_of_plain_descent_only_where_steps_started_is_kept():
    """The derivative is that of going through the updates again, in less memory."""
    problem, inner = problems.point("lvc"), mj.sgd((0.5, 0.25), 6)
    params = problem.init(jax.random.key(0))
    _, record, _ = played(problem, inner, params)
    again = dataclasses.replace(record, path=None, adapted=None)

    @jax.jit
    def gradient(params, record):
        return jax.grad(
            lambda p: problem.outer_loss(replay(problem, inner, p, record), record.judged)[0]
        )(params)

    found, expected = (
        jax.flatten_util.ravel_pytree(gradient(params, of))[0] for of in (record, again)
    )
    assert np.linalg.norm(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    kept, more = (
        gradient.lower(params, of).compile().memory_analysis().temp_size_in_bytes
        for of in (record, again)
    )
    path = sum(leaf.nbytes for leaf in jax.tree.leaves(record.path))
    assert kept < more - 0.9 * path


def test_what_waits_for_the_derivative_of_a_step_is_its_start_and_what_its_loss_reads(monkeypatch):
    problem = problems.point("lvc")
    params = problem.init(jax.random.key(0))
    key = jax.random.key(1)
    batch = jax.eval_shape(problem.collect, params, problem.sample_task(key), key)
    alive = []
    monkeypatch.setattr(
        mapping,
        "_sized",
        lambda given, jaxpr: alive.append(jaxprs.live_bytes(jaxpr, inside=False)) or given,
    )
    for steps in (4, 8):
        learner = mj.maml(problem, mj.sgd(0.1, steps), optax.sgd(0.1), tasks=2)
        jax.eval_shape(learner.update, jax.eval_shape(learner.init, key))
    read = (params, batch.observation, batch.action, batch.advantage, batch.mask)
    a_score_and_samples = 8
    a_step = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(read))
    assert alive[1] - alive[0] == 4 * (a_step + a_score_and_samples)


def test_a_multi_step_loss_judges_every_step_by_the_batch_that_follows_it():
    problem = problems.point("lvc")
    inner = mj.sgd((0.5, 0.25), 3)
    weights = jnp.array([0.2, 0.5, 0.3])
    params = problem.init(jax.random.key(0))
    _, record, _ = played(problem, inner, params, judgements=True)

    def objective(p):
        path, judged = replay_path(problem, inner, p, record)
        losses, _ = losses_along(problem, path, judged, record)
        return weights @ losses

    def plain(p):
        batches = [*unstack(record, 3), record.judged]
        losses = [
            plain_objective(
                problem.inner_loss, problem.outer_loss, inner, batches[:k], batches[k], p
            )
            for k in (1, 2, 3)
        ]
        return jnp.sum(weights * jnp.stack(losses))

    actual, expected = (
        jax.flatten_util.ravel_pytree(jax.jit(jax.grad(of))(params))[0] for of in (objective, plain)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fast", "weights"), [(None, [1.0]), (lambda path: "bias" in path, [0.2, 0.5, 0.3])]
)
def test_judgements_that_are_known_are_those_taken_anew(fast, weights):
    problem = problems.point("lvc")
    inner = mj.sgd((0.5, 0.25), len(weights))._replace(fast=fast)
    params = problem.init(jax.random.key(0))
    _, record, _ = played(problem, inner, params, judgements=True)

    def objective(p, record):
        path, judged = replay_path(problem, inner, p, record)
        losses, aux = losses_along(problem, path, judged, record)
        return jnp.array(weights) @ losses, (losses, aux)

    of = jax.jit(jax.grad(objective, has_aux=True))
    known, unknown = of(params, record), of(params, dataclasses.replace(record, judgements=None))
    actual, expected = (jax.flatten_util.ravel_pytree(found)[0] for found in (known, unknown))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_lvc_meta_gradient_matches_finite_differences_of_the_ratio_in_x64():
    problem = problems.point("lvc")
    inner = mj.sgd(0.5, 1)
    params = problem.init(jax.random.key(0))
    adapted, record, _ = played(problem, inner, params)
    network = mj.networks.mlp_policy(envs.make("point").action_space, (8,))
    distribution = mj.distributions.diagonal_gaussian
    with jax.enable_x64(True):
        params, record = to_x64(params), to_x64(record)
        record = recompute_gradients(problem, inner, params, record, 1)
        gradient = meta_gradient(problem, inner, params, record)
        adapted = jax.jit(lambda p: replay(problem, inner, p, record))(params)

        def ratio_loss(p, batch_and_old):
            batch, old = batch_and_old
            parameters = network.apply(p, batch.observation)[0]
            weight = batch.mask / jnp.sum(batch.mask)
            ratio = jnp.exp(distribution.log_prob(parameters, batch.action) - old)
            entropy = jnp.sum(distribution.entropy(parameters) * weight)
            return -jnp.sum(ratio * batch.advantage * weight) - 0.01 * entropy, {}

        def old(p, batch):
            return distribution.log_prob(network.apply(p, batch.observation)[0], batch.action)

        (batch,) = unstack(record, 1)
        frozen = [(batch, old(params, batch))]
        judged = (record.judged, old(adapted, record.judged))
        objective = jax.jit(
            lambda p: plain_objective(ratio_loss, ratio_loss, inner, frozen, judged, p)
        )
        assert directional_error(objective, gradient, params, jax.random.key(3)) < 1e-6


@pytest.mark.parametrize(
    "optimiser",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "sgd")) for name in OPTIMISERS],
)
def test_recorded_meta_gradient_is_reverse_over_reverse(optimiser):
    problem, steps = problems.point(), 2
    inner = OPTIMISERS[optimiser](steps)
    params = problem.init(jax.random.key(0))
    adapted, record, _ = played(problem, inner, params)
    losses, batches = (problem.inner_loss, problem.outer_loss), unstack(record, steps)
    plain = partial(plain_objective, *losses, inner, batches, record.judged)
    expected = jax.jit(jax.grad(plain))(params)
    actual = meta_gradient(problem, inner, params, record)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    replayed = jax.jit(lambda p: replay(problem, inner, p, record))(params)
    for a, b in zip(jax.tree.leaves(replayed), jax.tree.leaves(adapted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_slow_parameters_have_the_gradient_of_an_optimiser_that_leaves_them_alone():
    problem, steps = problems.point(), 2

    def is_fast(path):
        return "Dense_1" in path

    def slow(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not is_fast(jax.tree_util.keystr(path)), params
        )

    inner = mj.sgd(0.5, steps)._replace(fast=is_fast)
    alone = optax.chain(optax.sgd(0.5), optax.masked(optax.set_to_zero(), slow))
    params = problem.init(jax.random.key(0))
    _, record, _ = played(problem, inner, params)
    assert len(jax.tree.leaves(record.gradients)) == 2  # a kernel and a bias
    batches = (unstack(record, steps), record.judged)
    plain = partial(plain_objective, problem.inner_loss, problem.outer_loss, mj.Inner(alone, steps))
    expected = jax.jit(jax.grad(lambda p: plain(*batches, p)))(params)
    actual = meta_gradient(problem, inner, params, record)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_supervised_steps_share_their_support_and_are_judged_by_one_query():
    problem = mj.regression(mj.networks.MLP((8, 1)), shots=5, query=7)
    params = problem.init(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    key = jax.random.key(2)
    adapting = jax.jit(lambda params: run(problem, mj.sgd(0.05, 3), params, task, key))
    _, record, trace = adapting(params)
    assert record.batches.inputs.shape == (5, 1)
    assert record.judged.inputs.shape == (7, 1)
    assert trace.score.shape == (4,)
    assert int(trace.samples) == 12

    @jax.jit
    def step(theta):
        grads = jax.grad(lambda p: problem.inner_loss(p, record.batches)[0])(theta)
        moved = jax.tree.map(lambda p, g: p - 0.05 * g, theta, grads)
        return problem.outer_loss(theta, record.judged)[0], moved

    theta = params
    for k in range(4):
        error, theta = step(theta)
        np.testing.assert_allclose(trace.score[k], -error, rtol=1e-5)


def test_later_steps_use_later_rates():
    problem = problems.quadratic()
    params = problem.init(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    adapted, _, _ = run(problem, mj.sgd((0.5, 0.25), 3), params, task, jax.random.key(2))
    theta = params["theta"]
    for rate in (0.5, 0.25, 0.25):
        theta = theta - rate * problems.CURVATURE @ (theta - task["centre"])
    np.testing.assert_allclose(adapted["theta"], theta, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, -0.1, (), (0.1, 0.0)])
def test_inner_rate_that_is_not_positive_is_refused(rate):
    with pytest.raises(ValueError, match=r"inner learning rate: expected (above 0|at least one)"):
        mj.sgd(rate)


def test_forward_and_reverse_derivatives_of_an_adaptation_are_transposes():
    """⟨w, J v⟩ = ⟨Jᵀ w, v⟩, away from where the batches were collected too."""
    problem, inner = mj.regression(mj.networks.MLP((4, 1)), shots=3), OPTIMISERS["adam"](2)
    params = problem.init(jax.random.key(0))
    support = problem.collect(params, problem.sample_task(jax.random.key(1)), jax.random.key(2))
    record = Record(support, None, support)
    with jax.enable_x64(True):
        params, record = to_x64(params), to_x64(record)

        def moved(seed, by=1.0):
            flat, restore = jax.flatten_util.ravel_pytree(params)
            noise = jax.random.normal(jax.random.key(seed), flat.shape, flat.dtype)
            return restore(by * noise)

        here = optax.tree.add(params, moved(3, by=0.1))
        tangent, cotangent = moved(4), moved(5)

        @jax.jit
        def both(here):
            forward = pushforward(problem, inner, here, record, tangent)
            _, pull = jax.vjp(lambda p: replay(problem, inner, p, record), here)
            return optax.tree.vdot(cotangent, forward), optax.tree.vdot(pull(cotangent)[0], tangent)

        forward, reverse = both(here)
        assert abs(float(forward)) > 1e-3
        np.testing.assert_allclose(forward, reverse, rtol=1e-9)


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_batch_of_an_adaptation_is_drawn_with_a_key_of_its_own(on_policy, steps):
    def collect(params, task, key):
        return {**task, "at": params["theta"], "key": jax.random.key_data(key)}

    problem = problems.quadratic()._replace(collect=collect, query=None if on_policy else collect)
    params, task = problem.init(jax.random.key(0)), problem.sample_task(jax.random.key(1))
    _, record, _ = run(problem, mj.sgd(0.1, steps), params, task, jax.random.key(2))
    keys = np.vstack(
        [record.batches["key"], record.judged["key"], jax.random.key_data(jax.random.key(2))]
    )
    assert len(np.unique(keys, axis=0)) == len(keys) == (steps if on_policy else 1) + 2


def test_a_multi_step_loss_off_policy_judges_every_step_by_the_query():
    problem = mj.regression(mj.networks.MLP((8, 1)), shots=5, query=5)
    weights, inner = jnp.array([0.2, 0.5, 0.3]), mj.sgd(0.05, 3)
    params = problem.init(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    _, record, _ = run(problem, inner, params, task, jax.random.key(2))

    def objective(p):
        path, judged = replay_path(problem, inner, p, record)
        return weights @ losses_along(problem, path, judged, record)[0]

    def plain(p):
        total = 0.0
        for weight in weights:
            grads = jax.grad(lambda p: problem.inner_loss(p, record.batches)[0])(p)
            p = jax.tree.map(lambda leaf, g: leaf - 0.05 * g, p, grads)
            total += weight * problem.outer_loss(p, record.judged)[0]
        return total

    actual, expected = (
        jax.flatten_util.ravel_pytree(jax.jit(jax.grad(of))(params))[0] for of in (objective, plain)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
