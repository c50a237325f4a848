"""Small problems: one whose meta-gradient has a closed form, and some of reinforcement learning."""

import jax
import jax.numpy as jnp

import envs
import metajax as mj

CURVATURE = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])


def quadratic(spread: float = 1.0) -> mj.Problem:
    """L_c(θ) = ½ (θ − c)ᵀ A (θ − c): the task is its centre c, and data are exact."""

    def loss(params, batch):
        offset = params["theta"] - batch["centre"]
        return 0.5 * offset @ (CURVATURE.astype(offset.dtype) @ offset), {}

    return mj.Problem(
        sample_task=lambda key: {"centre": 1.0 + spread * jax.random.normal(key, (3,))},
        init=lambda key: {"theta": jax.random.normal(key, (3,))},
        collect=lambda params, task, key: {**task, "at": params["theta"]},
        inner_loss=loss,
        outer_loss=loss,
        score=lambda batch: -jnp.sum((batch["at"] - batch["centre"]) ** 2),
        samples=lambda batch: jnp.int32(1),
        ratio_loss=lambda params, batch, clip: loss(params, batch),
        divergence=mj.Divergence(
            lambda params, batch: params["theta"] - batch["at"],
            lambda moved, batch: 0.5 * jnp.sum(moved**2),
        ),
    )


def parted(slow: str, fast: str) -> mj.Problem:
    """The quadratic in two named parts: one is θ, the other is added to two axes of it."""
    whole = quadratic()

    def of_whole(function):
        def call(params, *args):
            part = jnp.concatenate([jnp.zeros_like(params[fast][:1]), params[fast]])
            return function({"theta": params[slow] + part}, *args)

        return call

    return whole._replace(
        init=lambda key: {slow: whole.init(key)["theta"], fast: jnp.zeros(2)},
        collect=of_whole(whole.collect),
        inner_loss=of_whole(whole.inner_loss),
        outer_loss=of_whole(whole.outer_loss),
    )


def point(surrogate: str = "lvc", episodes: int = 4, horizon: int = 6) -> mj.Problem:
    """Two action dimensions, more than one step, a small network."""
    env = envs.make("point", horizon=horizon)
    network = mj.networks.mlp_policy(env.action_space, (8,), initial_std=0.3)
    return mj.policy_gradient(env, network, episodes=episodes, surrogate=surrogate, entropy=0.01)


def gridworld(baseline: str = "mean", context: int = 0) -> mj.Problem:
    env = envs.make("gridworld", horizon=6)
    network = mj.networks.mlp_policy(env.action_space, (8,))
    if context:
        network = mj.networks.Conditioned(network, context)
    return mj.policy_gradient(env, network, episodes=4, baseline=baseline)
