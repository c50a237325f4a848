"""Flax Linen networks. Learners take any object with the same `init` and `apply`.

A policy is `apply(params, observation, carry) -> (distribution parameters, value, carry)`; without
memory the carry is `()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["MLP", "CategoricalPolicy", "GaussianPolicy", "Network", "mlp_policy"]

Array = jax.Array


class Network(Protocol):
    """What a learner asks of a network; a flax Linen module has it."""

    def init(self, key: Array, /, *inputs: Any) -> Any: ...

    def apply(self, params: Any, /, *inputs: Any) -> Any: ...


class MLP(nn.Module):
    """Dense layers with an activation between them, none after the last."""

    features: Sequence[int]
    activation: Callable[[Array], Array] = nn.relu
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    last_kernel_init: Callable[..., Array] | None = None

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        hidden = inputs
        *widths, last = self.features
        for width in widths:
            hidden = self.activation(nn.Dense(width, kernel_init=self.kernel_init)(hidden))
        return nn.Dense(last, kernel_init=self.last_kernel_init or self.kernel_init)(hidden)


# Nearly uniform first policies explore; the gain, 0.01, is that of PPO's reference implementations.
_policy_head = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")


class CategoricalPolicy(nn.Module):
    """Logits over `actions` choices from a flat observation of any dtype; its value is 0."""

    actions: int
    hidden: Sequence[int] = (64, 64)
    activation: Callable[[Array], Array] = nn.tanh

    @nn.compact
    def __call__(self, observation: Array, carry: Any = ()) -> tuple[Array, Array, Any]:
        inputs = observation.astype(jnp.result_type(float))
        mlp = MLP((*self.hidden, self.actions), self.activation, last_kernel_init=_policy_head)
        return mlp(inputs), jnp.zeros(inputs.shape[:-1]), carry


class GaussianPolicy(nn.Module):
    """Mean and state-independent log standard deviation of `actions` normals; its value is 0."""

    actions: int
    hidden: Sequence[int] = (64, 64)
    activation: Callable[[Array], Array] = nn.tanh
    initial_std: float = 1.0

    @nn.compact
    def __call__(
        self, observation: Array, carry: Any = ()
    ) -> tuple[tuple[Array, Array], Array, Any]:
        inputs = observation.astype(jnp.result_type(float))
        mlp = MLP((*self.hidden, self.actions), self.activation, last_kernel_init=_policy_head)
        initial = nn.initializers.constant(math.log(self.initial_std))
        log_std = self.param("log_std", initial, (self.actions,))
        mean = mlp(inputs)
        return (mean, jnp.broadcast_to(log_std, mean.shape)), jnp.zeros(inputs.shape[:-1]), carry


def mlp_policy(
    action_space: Any,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[Array], Array] = nn.tanh,
    initial_std: float = 1.0,
) -> CategoricalPolicy | GaussianPolicy:
    """The multilayer policy that fits an action space: categorical or Gaussian.

    `initial_std` is the Gaussian's standard deviation before training, in units of the action.
    """
    if hasattr(action_space, "n"):
        return CategoricalPolicy(action_space.n, tuple(hidden), activation)
    (actions,) = action_space.shape
    return GaussianPolicy(actions, tuple(hidden), activation, initial_std)
