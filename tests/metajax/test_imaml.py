"""Implicit MAML where curvature and batches differ from step to step, by a dense solution."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems

import metajax as mj
from metajax.algorithms.imaml import proximal
from metajax.inner import run


def test_imaml_takes_the_hessian_of_the_last_batch_where_that_was_collected():
    strength, rate, steps = 2.0, 0.05, 3

    def loss(params, batch):
        return jnp.sum(batch["weight"] * (params["theta"] - batch["centre"]) ** 4) / 4, {}

    def collect(params, task, key):
        return {**task, "at": params["theta"], "weight": jax.random.uniform(key, (3,), minval=0.5)}

    problem = problems.quadratic()._replace(collect=collect, inner_loss=loss, outer_loss=loss)
    inner = mj.sgd(rate, steps)
    with jax.enable_x64(True):
        learner = mj.imaml(problem, inner, optax.sgd(1.0), 1, strength=strength, solver_steps=3)
        state = learner.init(jax.random.key(0))
        after, _ = jax.jit(learner.update)(state)
        key_task, key = jax.random.split(jax.random.split(jax.random.fold_in(state.key, 0), 1)[0])
        task = problem.sample_task(key_task)
        _, record, _ = run(problem, proximal(inner, strength), state.params, task, key)
        start = now = state.params["theta"]
        slope = jax.grad(lambda theta, batch: loss({"theta": theta}, batch)[0])
        for k in range(steps):
            last, batch = now, jax.tree.map(lambda leaf, k=k: leaf[k], record.batches)
            now = last - rate * (slope(last, batch) + strength * (last - start))
        hessian = jax.jacobian(slope)(last, batch)
        expected = jnp.linalg.solve(jnp.eye(3) + hessian / strength, slope(now, record.judged))
        actual = state.params["theta"] - after.params["theta"]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
