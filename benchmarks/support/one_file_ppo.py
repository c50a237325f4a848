"""PPO modelled on PureJaxRL's: one jitted function that needs only gymnax's five-valued `step`.

The structure, network and defaults are those of github.com/luchris429/purejaxrl
(`purejaxrl/ppo.py`, Lu et al. 2022, Apache-2.0); the code is our own. It imports nothing from
`envs` and trains on any gymnax environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

__all__ = ["Settings", "make_train"]

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Settings:
    """PureJaxRL's settings, but with more environments and a larger learning rate."""

    updates: int
    num_envs: int = 64
    num_steps: int = 128
    epochs: int = 4
    minibatches: int = 8
    learning_rate: float = 1e-3
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    max_gradient_norm: float = 0.5


class _ActorCritic(nn.Module):
    actions: int

    @nn.compact
    def __call__(self, observation: Array) -> tuple[distrax.Categorical, Array]:
        def tower(outputs: int, scale: float) -> Array:
            x = observation
            for _ in range(2):
                x = nn.tanh(nn.Dense(64, kernel_init=nn.initializers.orthogonal(2**0.5))(x))
            return nn.Dense(outputs, kernel_init=nn.initializers.orthogonal(scale))(x)

        return distrax.Categorical(logits=tower(self.actions, 0.01)), tower(1, 1.0)[..., 0]


class _Transition(NamedTuple):
    """Every leaf is [T, N, ...]."""

    observation: Array
    action: Array
    reward: Array
    done: Array
    value: Array
    log_prob: Array


def make_train(settings: Settings, env: Any, params: Any) -> Callable[[Array], Array]:
    """A training run as a function of a key, to the mean episode return of each update."""
    network = _ActorCritic(env.action_space(params).n)
    apply: Callable[..., Any] = network.apply
    reset = jax.vmap(env.reset, in_axes=(0, None))
    step = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    def collect(policy: TrainState, key: Array, state: Any, observation: Array) -> Any:
        def advance(carry: Any, key: Array) -> Any:
            state, observation = carry
            key_action, key_step = jax.random.split(key)
            chosen, value = apply(policy.params, observation)
            action, log_prob = chosen.sample_and_log_prob(seed=key_action)
            keys = jax.random.split(key_step, settings.num_envs)
            following, state, reward, done, _ = step(keys, state, action, params)
            transition = _Transition(observation, action, reward, done, value, log_prob)
            return (state, following), transition

        keys = jax.random.split(key, settings.num_steps)
        return jax.lax.scan(advance, (state, observation), keys)

    def advantages(batch: _Transition, last_value: Array) -> Array:
        def backward(carry: Any, step: _Transition) -> Any:
            advantage, following = carry
            alive = settings.discount * (1 - step.done)
            error = step.reward + alive * following - step.value
            advantage = error + settings.gae_lambda * alive * advantage
            return (advantage, step.value), advantage

        start = (jnp.zeros_like(last_value), last_value)
        return jax.lax.scan(backward, start, batch, reverse=True)[1]

    def loss(weights: Any, batch: _Transition, advantage: Array, target: Array) -> Array:
        chosen, value = apply(weights, batch.observation)
        near = batch.value + jnp.clip(value - batch.value, -settings.clip, settings.clip)
        value_loss = jnp.maximum((value - target) ** 2, (near - target) ** 2).mean() / 2
        ratio = jnp.exp(chosen.log_prob(batch.action) - batch.log_prob)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clipped = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
        surrogate = jnp.minimum(ratio * advantage, clipped * advantage).mean()
        return settings.value * value_loss - surrogate - settings.entropy * chosen.entropy().mean()

    def update(carry: Any, key: Array) -> Any:
        policy, state, observation = carry
        key_collect, key_epochs = jax.random.split(key)
        (state, observation), batch = collect(policy, key_collect, state, observation)
        advantage = advantages(batch, apply(policy.params, observation)[1])
        examples = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]), (batch, advantage, advantage + batch.value)
        )

        def descend(policy: TrainState, minibatch: Any) -> Any:
            return policy.apply_gradients(grads=jax.grad(loss)(policy.params, *minibatch)), None

        def epoch(policy: TrainState, key: Array) -> Any:
            order = jax.random.permutation(key, batch.reward.size)
            shuffled = jax.tree.map(
                lambda x: x[order].reshape(settings.minibatches, -1, *x.shape[1:]), examples
            )
            return jax.lax.scan(descend, policy, shuffled)

        policy, _ = jax.lax.scan(epoch, policy, jax.random.split(key_epochs, settings.epochs))
        score = batch.reward.sum() / jnp.maximum(batch.done.sum(), 1)
        return (policy, state, observation), score

    def train(key: Array) -> Array:
        key_network, key_reset, key_updates = jax.random.split(key, 3)
        space = env.observation_space(params)
        steps = settings.updates * settings.epochs * settings.minibatches
        optimiser = optax.chain(
            optax.clip_by_global_norm(settings.max_gradient_norm),
            optax.adam(optax.linear_schedule(settings.learning_rate, 0.0, steps), eps=1e-5),
        )
        policy = TrainState.create(
            apply_fn=apply,
            params=network.init(key_network, jnp.zeros(space.shape)),
            tx=optimiser,
        )
        observation, state = reset(jax.random.split(key_reset, settings.num_envs), params)
        keys = jax.random.split(key_updates, settings.updates)
        return jax.lax.scan(update, (policy, state, observation), keys)[1]

    return train
