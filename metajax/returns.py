"""Returns and advantages of episodes that share a time axis, time-major (T, B).

Episodes start together; `mask` is 1 on the steps that were taken and 0 after an episode's end, so
no episode ever follows another in a column. A masked step has reward 0 and counts for nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["discounted_returns", "generalised_advantages", "normalise"]

Array = jax.Array


def _discounted_sums(values: Array, discount: Array | float) -> Array:
    """Σ_{j≥t} discount^{j-t} values_j along the leading axis."""

    def step(tail: Array, value: Array) -> tuple[Array, Array]:
        total = value + discount * tail
        return total, total

    return jax.lax.scan(step, jnp.zeros_like(values[0]), values, reverse=True)[1]


def discounted_returns(reward: Array, mask: Array, discount: Array | float) -> Array:
    """Returns to go G_t = Σ_{j≥t} γ^{j-t} r_j, (T, B)."""
    return _discounted_sums(reward * mask, discount)


def generalised_advantages(
    reward: Array,
    value: Array,
    mask: Array,
    discount: Array | float,
    gae_lambda: Array | float,
) -> Array:
    """GAE(γ, λ) (Schulman et al. 2016, eq. 16) with value 0 after an episode's last step, (T, B).

    The horizon is part of what is maximised here (the return within it), so nothing is bootstrapped
    past it.

    Args:
        reward: r_t of the step taken at t, (T, B).
        value: V(s_t), (T, B).
        mask: 1 where a step was taken, (T, B) float.
        discount: γ.
        gae_lambda: λ; 1 is the Monte Carlo advantage, 0 the one-step error.
    """
    value = value * mask
    next_value = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    error = reward * mask + discount * next_value - value
    return _discounted_sums(error, discount * gae_lambda) * mask


def normalise(advantage: Array, mask: Array, epsilon: float = 1e-8) -> Array:
    """Zero mean and unit standard deviation over the steps taken; all 0 where all were equal."""
    count = jnp.maximum(jnp.sum(mask), 1.0)
    centred = (advantage - jnp.sum(advantage * mask) / count) * mask
    return centred / (jnp.sqrt(jnp.sum(centred**2) / count) + epsilon)
