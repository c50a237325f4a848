"""Looking a network's outputs up is the same as asking it at every step."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
import metajax as mj
from metajax.lookups import lookup, playing_by
from metajax.replays import hessian_product


class AsBox:
    """An environment that does not say that its observations are one-hot."""

    def __init__(self, env):
        self.env = env
        space = env.observation_space
        self.observation_space = envs.Box(space.low, space.high, space.shape, space.dtype)

    def __getattr__(self, name):
        return getattr(self.env, name)


@pytest.fixture(scope="module")
def problems():
    env = envs.make("gridworld", horizon=6)
    network = mj.networks.mlp_policy(env.action_space, (8,), skip=2.0)
    return [mj.policy_gradient(e, network, episodes=4, entropy=0.1) for e in (env, AsBox(env))]


@pytest.fixture(scope="module")
def batch(problems):
    table, _ = problems
    params = jax.jit(table.init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    task = table.sample_task(jax.random.key(1))
    return params, task, jax.jit(table.collect)(params, task, jax.random.key(2))


def test_episodes_are_the_same(problems, batch):
    params, task, looked_up = batch
    asked = jax.jit(problems[1].collect)(params, task, jax.random.key(2))
    np.testing.assert_array_equal(looked_up.action, asked.action)
    np.testing.assert_allclose(looked_up.behaviour, asked.behaviour, rtol=1e-5, atol=1e-6)


def test_losses_and_their_derivatives_are_the_same(problems, batch):
    params, _, episodes = batch
    advantage = jax.random.normal(jax.random.key(3), episodes.mask.shape)
    episodes = dataclasses.replace(episodes, advantage=advantage)

    def every(problem, params):
        (loss, aux), gradient = jax.value_and_grad(problem.inner_loss, has_aux=True)(
            params, episodes
        )
        fast, slow = mj.sgd(0.1).split(params)
        product, _ = hessian_product(problem, fast, slow, episodes, gradient)
        return loss, aux, gradient, product

    one, other = (jax.jit(partial(every, problem))(params) for problem in problems)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, other)


def test_a_network_is_asked_once_for_each_observation_there_is():
    asked = []

    class Network:
        def apply(self, params, observation, carry):
            asked.append(observation.shape)
            return params * jnp.sum(observation, -1, jnp.float32, keepdims=True), None, carry

    space = envs.make("gridworld").observation_space
    many = jax.nn.one_hot(jnp.arange(4000).reshape(100, 40) % 25, 25, dtype=space.dtype)
    found = lookup(Network(), space, envs.Discrete(1))
    reading = found.read(jnp.float32(3.0), found.seen(many, None))
    assert asked == [(25, 25)]
    np.testing.assert_array_equal(reading.each(lambda out: 2 * out), np.full((100, 40, 1), 6.0))


@pytest.mark.parametrize("space", [envs.OneHot(5), envs.Box(0, 1, (5,), np.uint8)])
def test_what_the_actions_taken_have_is_read(space):
    class Network:
        def apply(self, params, observation, carry):
            return observation.astype(jnp.float32) @ params, None, carry

    params = jnp.arange(15.0).reshape(5, 3)
    at = jnp.array([[4, 0], [2, 2]])
    action = jnp.array([[0, 2], [1, 1]], jnp.int32)
    found = lookup(Network(), space, envs.Discrete(3))
    reading = found.read(params, found.seen(jax.nn.one_hot(at, 5, dtype=jnp.uint8), None))
    values = reading.taken(lambda values: values**2, action)
    np.testing.assert_array_equal(values, params[at, action] ** 2)


@pytest.mark.parametrize("name", ["categorical", "epsilon-greedy"])
def test_a_draw_that_is_looked_up_is_the_draw_of_what_is_looked_up(name):
    class Network:
        def apply(self, params, observation, carry):
            return observation.astype(jnp.float32) @ params, None, carry

    distribution = mj.distributions.categorical
    if name == "epsilon-greedy":
        distribution = mj.distributions.epsilon_greedy(jnp.linspace(0.0, 0.9, 500))
    params = jnp.round(3 * jax.random.normal(jax.random.key(0), (5, 4)))  # some are the best alike
    observed = lookup(Network(), envs.OneHot(5), envs.Discrete(4))
    playing = playing_by(observed, distribution)
    at = jax.random.randint(jax.random.key(1), (500,), 0, 5)
    found, _, _ = observed.one(playing.prepare(params), at, ())
    noise = distribution.noise(jax.random.key(2), (500,))
    np.testing.assert_array_equal(playing.parameters(found), params[at])
    np.testing.assert_array_equal(
        playing.distribution.draw(noise, found), distribution.draw(noise, params[at])
    )
