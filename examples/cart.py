"""A preset of your own: `metajax train cart:CART` in this folder trains on it.

All flags of a policy's preset hold for it, and `--env.max-horizon` is that of its environment.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from envs.core import Box, TimeStep, first_timestep
from metajax.configs import PolicyConfig


@dataclasses.dataclass(frozen=True)
class Cart:
    """A cart on a line, pushed toward a place that it cannot see."""

    max_horizon: int = 30
    """Steps of an episode."""

    observation_space = Box(-float("inf"), float("inf"), (2,))
    action_space = Box(-1.0, 1.0, (1,))

    def sample_task(self, key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (), minval=-1.0, maxval=1.0)

    def reset(self, key: jax.Array, task: jax.Array) -> tuple[jax.Array, TimeStep]:
        state = jnp.zeros(3)  # place, speed, time
        return state, first_timestep(state[:2])

    def step(
        self, key: jax.Array, state: jax.Array, action: jax.Array, task: jax.Array
    ) -> tuple[jax.Array, TimeStep]:
        place, speed, time = state
        speed = 0.9 * speed + 0.1 * jnp.clip(action[0], -1.0, 1.0)
        state = jnp.stack([place + speed, speed, time + 1.0])
        reward = -jnp.abs(state[0] - task)
        truncated = state[2] >= self.max_horizon
        return state, TimeStep(state[:2], reward, jnp.array(False), truncated)


@dataclasses.dataclass(frozen=True)
class CartConfig(PolicyConfig):
    """Carts."""

    env: Cart = Cart()
    """The environment."""


CART = CartConfig(
    preset="cart",
    updates=200,
    tasks=32,
    episodes=10,
    discount=0.95,
    inner_learning_rate=(0.1,),
    outer_learning_rate=3e-3,
    hidden=(32,),
    initial_std=0.5,
)
