"""Networks: what they begin with, and what is rounded where products take bfloat16 operands."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import envs
import metajax as mj
from metajax import experiments, presets, training
from metajax.jaxprs import bodies
from metajax.replays import hessian_product

OBSERVATIONS = jax.random.normal(jax.random.key(0), (6, 5, 25))
ADVANTAGES = jax.random.normal(jax.random.key(1), (6, 5))


def surrogate(dtype):
    policy = mj.networks.CategoricalPolicy(4, (16,), skip=1.0, dtype=dtype)

    def loss(params, batch):
        observations, advantages = batch
        log_probs = jax.nn.log_softmax(policy.apply(params, observations)[0])
        return jnp.mean(log_probs[..., 0] * advantages), {}

    return policy, loss


def derivatives(dtype):
    """The gradient of a policy's surrogate at random parameters, and the Hessian times it."""
    policy, loss = surrogate(dtype)
    shapes = jax.eval_shape(lambda: policy.init(jax.random.key(2), OBSERVATIONS))
    params = optax.tree.random_like(jax.random.key(3), shapes, jax.random.normal)
    params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    batch = (OBSERVATIONS, ADVANTAGES)
    gradient = jax.grad(lambda p: loss(p, batch)[0])(params)
    slow = jax.tree.map(lambda _: None, params)
    problem = problems.quadratic()._replace(inner_loss=loss)
    return gradient, hessian_product(problem, params, slow, batch, gradient)[0]


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for body in bodies(equation):
            yield from products(body)


@pytest.mark.parametrize("actions", [envs.Discrete(4), envs.Box(-1, 1, (4,))])
def test_weights_of_all_layers_are_what_a_policy_is_told_to_begin_with(actions):
    initial = nn.initializers.glorot_uniform()
    for given, widest in ((initial, None), (None, 0.03)):  # by default the last is nearly 0
        policy = mj.networks.mlp_policy(actions, (50, 40), kernel_init=given)
        layers = policy.init(jax.random.key(0), jnp.zeros(3))["params"]["MLP_0"]
        for kernel in (layer["kernel"] for layer in layers.values()):
            limit = (6 / sum(kernel.shape)) ** 0.5
            if given is not None:
                assert 0.9 * limit < jnp.max(jnp.abs(kernel)) <= limit
        assert widest is None or jnp.max(jnp.abs(kernel)) < widest


def test_operands_alone_are_bfloat16_in_the_gradient_and_in_its_derivative():
    program = jax.make_jaxpr(lambda: derivatives(jnp.bfloat16))().jaxpr
    layers = list(products(program))
    assert len(layers) >= 3 * (2 + 4)  # of each layer, in the gradient and in its derivative
    for equation in layers:
        assert {v.aval.dtype for v in equation.invars} == {np.dtype(jnp.bfloat16)}
        assert equation.outvars[0].aval.dtype == np.float32
    assert {v.aval.dtype for v in program.outvars} == {np.dtype(np.float32)}


def test_gradients_are_those_of_float32_to_the_rounding_of_operands():
    rounded, exact = (jax.jit(derivatives, static_argnums=0)(d) for d in (jnp.bfloat16, None))
    for one, other in zip(jax.tree.leaves(rounded), jax.tree.leaves(exact), strict=True):
        error = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert 1e-5 < error < 0.02  # an operand keeps 8 bits


def test_products_of_bfloat16_are_summed_in_float32():
    ones = jnp.ones((1, 2**10))
    layer = mj.networks.Dense(1, jax.nn.initializers.ones, dtype=jnp.bfloat16)
    params = layer.init(jax.random.key(0), ones)
    inputs = ones.at[0, 0].set(1 + 2**-7)
    for one in (inputs, inputs[0]):
        assert layer.apply(params, one).item() == 2**10 + 2**-7


def learning_curve(seed, precision):
    config = dataclasses.replace(presets.PRESETS["gridworld"], updates=100, precision=precision)
    rows = []
    learner = experiments.build(config).learner
    training.train(
        learner, updates=100, log_every=20, seed=seed, progress=False, on_log=rows.append
    )
    return [row["score_after"] for row in rows]


@pytest.mark.slow
def test_policies_in_bfloat16_learn_as_fast_as_in_float32():
    exact, rounded = (
        np.array([learning_curve(seed, precision) for seed in range(4)])
        for precision in ("float32", "bfloat16")
    )
    variance = np.var(exact, axis=0, ddof=1) + np.var(rounded, axis=0, ddof=1)
    apart = np.abs(exact.mean(axis=0) - rounded.mean(axis=0))
    assert np.all(apart < 2.45 * np.sqrt(variance / 4))  # t of 95% at 6 degrees of freedom
    assert rounded[:, -1].mean() > rounded[:, 0].mean() + 2.0
