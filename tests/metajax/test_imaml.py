"""Implicit MAML: slow parameters, memory, and curvature that differs from step to step."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import problems

import metajax as mj
from metajax.algorithms.imaml import proximal
from metajax.inner import run

STRENGTH = 2.0  # of the pull toward the start


def _flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def test_imaml_takes_the_hessian_of_the_last_batch_where_that_was_collected():
    rate, steps = 0.05, 3

    def loss(params, batch):
        return jnp.sum(batch["weight"] * (params["theta"] - batch["centre"]) ** 4) / 4, {}

    def collect(params, task, key):
        return {**task, "at": params["theta"], "weight": jax.random.uniform(key, (3,), minval=0.5)}

    problem = problems.quadratic()._replace(collect=collect, inner_loss=loss, outer_loss=loss)
    inner = mj.sgd(rate, steps)
    with jax.enable_x64(True):
        learner = mj.imaml(problem, inner, optax.sgd(1.0), 1, strength=STRENGTH, solver_steps=3)
        state = learner.init(jax.random.key(0))
        after, _ = jax.jit(learner.update)(state)
        key_task, key = jax.random.split(jax.random.split(jax.random.fold_in(state.key, 0), 1)[0])
        task = problem.sample_task(key_task)
        _, record, _ = run(problem, proximal(inner, STRENGTH), state.params, task, key)
        start = now = state.params["theta"]
        slope = jax.grad(lambda theta, batch: loss({"theta": theta}, batch)[0])
        for k in range(steps):
            last, batch = now, jax.tree.map(lambda leaf, k=k: leaf[k], record.batches)
            now = last - rate * (slope(last, batch) + STRENGTH * (last - start))
        hessian = jax.jacobian(slope)(last, batch)
        expected = jnp.linalg.solve(jnp.eye(3) + hessian / STRENGTH, slope(now, record.judged))
        actual = state.params["theta"] - after.params["theta"]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_imaml_gives_slow_parameters_what_the_fast_ones_minimum_owes_them():
    problem = problems.parted("body", "head")
    inner = mj.sgd(0.2, 40)._replace(fast=lambda path: path == "head")
    with jax.enable_x64(True):
        learner = mj.imaml(
            problem, inner, optax.sgd(1.0), 1, strength=STRENGTH, damping=0.0, solver_steps=3
        )
        state = learner.init(jax.random.key(0))
        after, _ = jax.jit(learner.update)(state)
        key_task, _ = jax.random.split(jax.random.split(jax.random.fold_in(state.key, 0), 1)[0])
        centre = problem.sample_task(key_task)["centre"]

        def at_the_minimum(params):
            """The loss where the head minimises it, with the pull toward where it started."""
            rows, offset = jnp.eye(3)[1:], params["body"] - centre
            curvature = jnp.asarray(problems.CURVATURE, offset.dtype)
            pulled = rows @ curvature @ rows.T + STRENGTH * jnp.eye(2)
            target = STRENGTH * params["head"] - rows @ curvature @ offset
            offset = offset + jnp.linalg.solve(pulled, target) @ rows
            return 0.5 * offset @ curvature @ offset

        expected = _flat(jax.grad(at_the_minimum)(state.params))
        actual = _flat(state.params) - _flat(after.params)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_imaml_takes_as_much_memory_for_many_inner_steps_as_for_few():
    problem = mj.regression(mj.networks.MLP((32, 32, 1)))

    def temporary_bytes(steps):
        learner = mj.imaml(problem, mj.sgd(0.01, steps), optax.sgd(1.0), 8)
        state = jax.eval_shape(learner.init, jax.random.key(0))
        compiled = jax.jit(learner.update).lower(state).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(64) <= 1.1 * temporary_bytes(4)
