"""Surrogate objectives whose first derivative is the policy gradient.

They differ in their second derivative, which is what a meta-gradient through them sees. Each takes
log π_θ(a_t|s_t) (T, B), advantages (T, B) and the mask of the steps taken (T, B), and returns a
scalar to be MAXIMISED: the mean over the steps taken.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["SURROGATES", "Surrogate", "log_prob_surrogate", "lvc_surrogate", "masked_mean"]

Array = jax.Array
Surrogate = Callable[[Array, Array, Array], Array]


def masked_mean(values: Array, mask: Array) -> Array:
    """The mean of `values` where `mask` is 1; 0 where nothing is."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def log_prob_surrogate(log_prob: Array, advantage: Array, mask: Array) -> Array:
    """mean(log π · A), the surrogate of the original MAML (Finn et al. 2017).

    Its Hessian misses ∇log π ∇log πᵀ: no credit for the sampling before adaptation.
    """
    return masked_mean(log_prob * advantage, mask)


def lvc_surrogate(log_prob: Array, advantage: Array, mask: Array) -> Array:
    """mean(π_θ / sg(π_θ) · A): low variance curvature (Rothfuss et al. 2019, eq. 7).

    Adds that term and drops those between different times.
    """
    ratio = jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))
    return masked_mean(ratio * advantage, mask)


SURROGATES: dict[str, Surrogate] = {"lvc": lvc_surrogate, "log_prob": log_prob_surrogate}
