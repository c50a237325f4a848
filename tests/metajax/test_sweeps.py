"""A problem's hyper-parameters as arguments of a program: swept by `vmap`, and differentiated."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from differences import directional_error, to_x64

import envs
import metajax as mj
from metajax.inner import run
from metajax.replays import replay

ENVIRONMENT = envs.make("gridworld", horizon=6)


def policy_gradient(**hyper):
    network = mj.networks.mlp_policy(ENVIRONMENT.action_space, (4,))
    return mj.policy_gradient(ENVIRONMENT, network, episodes=8, baseline="mean", **hyper)


def q_learning(**hyper):
    network = mj.networks.mlp_policy(ENVIRONMENT.action_space, (4,))
    return mj.q_learning(ENVIRONMENT, network, episodes=8, **hyper)


SWEEPS = {
    "policy_gradient": (policy_gradient, {"entropy": (0.0, 0.1), "discount": (0.5, 1.0)}),
    "q_learning": (q_learning, {"huber": (0.01, 1.0), "discount": (0.5, 1.0)}),
}


@pytest.mark.parametrize(
    "name", ["policy_gradient", pytest.param("q_learning", marks=pytest.mark.slow)]
)
def test_a_sweep_of_hyper_parameters_is_its_runs(name):
    problem, values = SWEEPS[name]
    runs = [dict(zip(values, chosen, strict=True)) for chosen in zip(*values.values(), strict=True)]

    def learner(hyper):
        return mj.maml(problem(**hyper), mj.sgd(0.5, 1), optax.sgd(0.5), tasks=2)

    state = learner(runs[0]).init(jax.random.key(0))
    trained = partial(lambda state, hyper: learner(hyper).update(state)[0].params, state)
    together = jax.jit(jax.vmap(trained))(jax.tree.map(lambda *each: jnp.array(each), *runs))
    alone = [jax.jit(partial(trained, hyper))() for hyper in runs]  # no arrays, but numbers
    for swept, *each in zip(*map(jax.tree.leaves, (together, *alone)), strict=True):
        np.testing.assert_allclose(swept, jnp.stack(each), rtol=1e-4, atol=1e-6)
    moved = jax.tree.map(lambda leaf: jnp.abs(leaf[0] - leaf[1]).max(), together)
    assert max(jax.tree.leaves(moved)) > 1e-4


def size(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("bootstraps", [False, True])
def test_what_a_loss_closes_over_has_its_derivative_through_the_adaptation(bootstraps):
    problem = q_learning() if bootstraps else problems.point("log_prob")
    inner = mj.sgd(0.5, 2)
    params = problem.init(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    _, record, _ = jax.jit(partial(run, problem, inner))(params, task, jax.random.key(2))
    record = dataclasses.replace(record, gradients=None)
    with jax.enable_x64(True):
        params, record = to_x64(params), to_x64(record)

        @jax.jit
        def objective(weights):
            def weighted(params, batch, **named):
                loss, aux = problem.inner_loss(params, batch, **named)
                return weights["loss"] * loss + weights["size"] * size(params), aux

            return size(replay(problem._replace(inner_loss=weighted), inner, params, record))

        weights = {"loss": np.float64(0.9), "size": np.float64(0.1)}
        gradient = jax.grad(objective)(weights)
        assert directional_error(objective, gradient, weights, jax.random.key(3)) < 1e-6
