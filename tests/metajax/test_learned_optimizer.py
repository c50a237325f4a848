"""The learned update rule: what it is at first, its derivative, its symmetry."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from differences import directional_error, to_x64

import metajax as mj
from metajax.algorithms.learned_optimizer import learned_rule
from metajax.inner import Record, descend, merge, run
from metajax.networks import MLP
from metajax.replays import replay

STEPS, RATE = 2, 0.05


@pytest.fixture(scope="module")
def regression():
    return mj.regression(MLP((6, 1), jnp.tanh), shots=4, query=3)


@pytest.fixture(scope="module")
def learned(regression):
    """Problem, inner optimiser, meta-parameters of a rule that has been learned, and a task."""
    problem, inner = learned_rule(regression, mj.sgd(RATE, STEPS), size=3)
    meta = jax.jit(problem.init)(jax.random.key(0))
    output = meta["rule"]["params"]["Dense_2"]["kernel"]
    assert not np.any(output)
    meta["rule"]["params"]["Dense_2"]["kernel"] = output + jnp.array([[1.0], [-2.0], [0.5]])
    return problem, inner, meta, problem.sample_task(jax.random.key(1))


@pytest.fixture(scope="module")
def adapt(learned):
    problem, inner, _, task = learned
    return jax.jit(lambda meta: run(problem, inner, meta, task, jax.random.key(2))[0])


def test_a_new_rule_leaves_the_steps_as_they_are(regression, learned, adapt):
    problem, _, _, task = learned
    meta = jax.jit(problem.init)(jax.random.key(0))
    actual = adapt(meta)
    expected = jax.jit(
        lambda params: run(regression, mj.sgd(RATE, STEPS), params, task, jax.random.key(2))[0]
    )(meta["params"])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), actual["params"], expected)
    jax.tree.map(np.testing.assert_array_equal, actual["rule"], meta["rule"])


def test_meta_gradient_matches_finite_differences_in_x64(learned):
    problem, inner, meta, task = learned
    support = problem.collect(meta, task, jax.random.key(2))
    judged = problem.query(meta, task, jax.random.key(3))

    def plain(meta, support):
        """Steps without the engine's record, and their gradients."""

        def step(carry, _):
            fast, state = carry
            gradient = jax.grad(lambda fast: problem.inner_loss(merge(fast, slow), support)[0])
            grads = gradient(fast)
            return descend(inner.optimizer, grads, state, fast, meta=meta), grads

        fast, slow = inner.split(meta)
        (fast, _), grads = jax.lax.scan(step, (fast, inner.optimizer.init(fast)), length=STEPS)
        return problem.outer_loss(merge(fast, slow), judged)[0], grads

    def every(meta, support):
        loss, grads = plain(meta, support)
        record = Record(support, grads, judged)
        return loss, jax.grad(
            lambda meta: problem.outer_loss(replay(problem, inner, meta, record), judged)[0]
        )(meta)

    with jax.enable_x64(True):
        meta, support, judged = to_x64((meta, support, judged))
        compiled = jax.jit(every)
        gradient = compiled(meta, support)[1]
        error = directional_error(
            lambda meta: compiled(meta, support)[0], gradient, meta, jax.random.key(4)
        )
    assert error < 1e-6
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["rule"]))


def test_units_that_are_interchanged_are_changed_alike(learned, adapt):
    _, _, meta, _ = learned
    order = np.array([3, 0, 5, 1, 4, 2])

    def interchanged(params):
        one, two = (params["params"][name] for name in ("Dense_0", "Dense_1"))
        one = {"kernel": one["kernel"][:, order], "bias": one["bias"][order]}
        return {"params": {"Dense_0": one, "Dense_1": {**two, "kernel": two["kernel"][order]}}}

    expected = interchanged(adapt(meta)["params"])
    actual = adapt({**meta, "params": interchanged(meta["params"])})["params"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), actual, expected)


def test_zero_gradients_move_nothing_and_have_finite_derivatives(learned):
    _, inner, meta, _ = learned
    fast, _ = inner.split(meta)

    def moved(meta, grads):
        state = inner.optimizer.init(fast)
        after, state = descend(inner.optimizer, {**fast, "params": grads}, state, fast, meta=meta)
        after, _ = descend(inner.optimizer, {**fast, "params": grads}, state, after, meta=meta)
        return sum(map(jnp.sum, jax.tree.leaves(after))), after

    zeros = jax.tree.map(jnp.zeros_like, fast["params"])
    derivatives, after = jax.jit(jax.grad(moved, argnums=(0, 1), has_aux=True))(meta, zeros)
    jax.tree.map(np.testing.assert_array_equal, after, fast)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(derivatives))


def test_a_rule_without_units_is_refused(regression):
    with pytest.raises(ValueError, match="size: expected at least 1, got 0"):
        learned_rule(regression, mj.sgd(0.1), size=0)
