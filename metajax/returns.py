"""Returns and advantages of episodes that share a time axis, time-major (T, B).

Episodes start together; `mask` is 1 on the steps that were taken and 0 after an episode's end, so
no episode ever follows another in a column. A masked step has reward 0 and counts for nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "discounted_returns",
    "generalised_advantages",
    "n_step_returns",
    "normalise",
    "paid_alike",
]

Array = jax.Array


# The most steps whose discounted sums are one product; its cost grows with their square.
_LONGEST_PRODUCT = 512


def _discounted_sums(values: Array, discount: Array | float) -> Array:
    """Σ_{j≥t} discount^{j-t} values_j along the leading axis.

    On an accelerator a loop over time would be hundreds of tiny kernels; there it is a product with
    the triangular matrix of discounts, if the discount is a Python number and the steps are few.
    """
    horizon = len(values)
    if (
        isinstance(discount, (int, float))
        and horizon <= _LONGEST_PRODUCT
        and jax.default_backend() != "cpu"
    ):
        return _product_with_discounts(values, discount)

    # A learned discount may have a narrower type than what it discounts.
    rate = jnp.asarray(discount, values.dtype)

    def step(tail: Array, value: Array) -> tuple[Array, Array]:
        total = value + rate * tail
        return total, total

    return jax.lax.scan(step, jnp.zeros_like(values[0]), values, reverse=True)[1]


def _product_with_discounts(values: Array, discount: float) -> Array:
    time = np.arange(len(values))
    discounts = np.triu(float(discount) ** np.maximum(time[None] - time[:, None], 0))
    # In full precision, which is not an accelerator's default.
    exact = jax.lax.Precision.HIGHEST
    return jnp.tensordot(discounts.astype(values.dtype), values, axes=1, precision=exact)


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


def n_step_returns(
    reward: Array, terminated: Array, mask: Array, discount: Array | float, steps: int
) -> tuple[Array, Array, Array]:
    """Rewards of n steps, and what is needed to bootstrap what follows them.

        target_t = Σ_{j<m} γ^j r_{t+j} + discount_t V(s_{t+m}),   m = min(n, steps left)

    A truncated episode is bootstrapped from where it was cut; a terminated one is not. (Pardo et
    al. 2018, arXiv 1712.00378, section 3.)

    Args:
        reward: r_t of the step taken at t, (T, B).
        terminated: whether the task itself ended the episode, (B,) bool.
        mask: 1 where a step was taken, (T, B) float.
        discount: γ.
        steps: n, at least 1; T or more is the rest of the episode.

    Returns:
        The discounted rewards, (T, B); discount_t, γ^m or 0, (T, B); and the time t + m of the
        state to bootstrap from, (T, B) int32 in 0..T. They mean nothing where the mask is 0.
    """
    horizon = len(mask)
    steps = min(steps, horizon)
    discount = jnp.asarray(discount, reward.dtype)  # a learned one may be of a wider type

    def longer(_: int, total: Array) -> Array:
        later = jnp.concatenate([total[1:], jnp.zeros_like(total[:1])])
        return reward * mask + discount * later

    total = jax.lax.fori_loop(0, steps, longer, jnp.zeros_like(reward))
    time = jnp.arange(horizon, dtype=jnp.int32)[:, None]
    length = jnp.sum(mask, axis=0, keepdims=True).astype(jnp.int32)
    end = jnp.minimum(time + steps, length)
    over = (end == length) & terminated[None]
    power = discount ** jnp.maximum(end - time, 0).astype(reward.dtype)
    return total, jnp.where(over, 0.0, power), end


def paid_alike(reward: Array, mask: Array) -> Array:
    """Whether all episodes had the same rewards at every time, () bool.

    Then nothing tells one action from another, and an advantage is just the error of a baseline,
    which `normalise` would make as large as any. A single episode has none to compare with: it
    counts if it was never paid, or the same at every step of the whole horizon.
    """
    if mask.shape[1] == 1:
        same = jnp.all((reward == reward[:1]) | (mask == 0))
        return same & (jnp.all(mask == 1) | (reward[0, 0] == 0))
    return jnp.all((reward == reward[:, :1]) & (mask == mask[:, :1]))


def normalise(advantage: Array, mask: Array, epsilon: float = 1e-8) -> Array:
    """Zero mean and unit standard deviation over the steps taken; all 0 where all were equal.

    Equal means to rounding, which would otherwise become advantages as large as any.
    """
    count = jnp.maximum(jnp.sum(mask), 1.0)
    centred = (advantage - jnp.sum(advantage * mask) / count) * mask
    variance = jnp.sum(centred**2) / count
    rounding = 8 * jnp.finfo(advantage.dtype).eps * jnp.max(jnp.abs(advantage * mask))
    # A root has an infinite derivative at 0, which would turn that of a learned advantage into NaN.
    equal = variance <= jax.lax.stop_gradient(rounding) ** 2
    return jnp.where(equal, 0.0, centred / (jnp.sqrt(jnp.where(equal, 1.0, variance)) + epsilon))
