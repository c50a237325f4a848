"""Baselines fitted to one task's episodes: value estimates (T, B) that no parameter depends on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["BASELINES", "Baseline", "linear_features", "mean_return", "zero"]

Array = jax.Array
Baseline = Callable[[Array, Array, Array], Array]
"""observation (T, B, ...), returns to go (T, B), mask (T, B) -> value (T, B)."""


def zero(observation: Array, returns: Array, mask: Array) -> Array:
    """No baseline."""
    del observation, mask
    return jnp.zeros_like(returns)


def mean_return(observation: Array, returns: Array, mask: Array) -> Array:
    """At each time, the mean return to go over the episodes that are still running."""
    del observation
    count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1.0)
    return jnp.sum(returns * mask, axis=1, keepdims=True) / count * mask


def linear_features(observation: Array, returns: Array, mask: Array, ridge: float = 1e-5) -> Array:
    """Least squares on [o, o², t, t², t³, 1] (Duan et al. 2016), o clipped to ±10, t in hundreds.

    Solved by Cholesky on the normal equations of columns scaled to unit root mean square, which is
    what keeps a float32 solve accurate; `ridge` is relative to that scale.
    """
    horizon, episodes = mask.shape
    clipped = jnp.clip(observation.astype(jnp.float32), -10.0, 10.0).reshape(horizon, episodes, -1)
    time = jnp.broadcast_to(
        jnp.arange(horizon, dtype=jnp.float32)[:, None, None] / 100.0, (horizon, episodes, 1)
    )
    columns = [clipped, clipped**2, time, time**2, time**3, jnp.ones_like(time)]
    features = (jnp.concatenate(columns, axis=-1) * mask[..., None]).reshape(mask.size, -1)
    gram = features.T @ features
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(gram), 1e-12))
    scaled = gram * jnp.outer(scale, scale)
    target = (features.T @ (returns * mask).reshape(-1)) * scale
    factor = jax.scipy.linalg.cho_factor(scaled + ridge * jnp.eye(len(scale)))
    weights = jax.scipy.linalg.cho_solve(factor, target) * scale
    return (features @ weights).reshape(mask.shape)


BASELINES: dict[str, Baseline] = {"linear": linear_features, "mean": mean_return, "none": zero}
