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


def _solve_positive_definite(matrix: Array, target: Array) -> Array:
    """x of `matrix` x = `target`, (d, d) and (d,), by elimination without pivots.

    Not LAPACK's Cholesky: on CPU, jaxlib's batched kernel waits inside XLA's thread pool for work
    that it queued on that same pool, so two devices that fit their baselines at once can wait for
    ever. Elimination is as stable here, and it is plain vector code on every backend.
    """
    size = target.shape[0]

    def eliminate(pivot: Array, rows: Array) -> Array:
        row = rows[pivot] / rows[pivot, pivot]
        others = rows[:, pivot].at[pivot].set(0.0)
        return (rows - jnp.outer(others, row)).at[pivot].set(row)

    rows = jnp.concatenate([matrix, target[:, None]], axis=1)
    return jax.lax.fori_loop(0, size, eliminate, rows)[:, -1]


def linear_features(observation: Array, returns: Array, mask: Array, ridge: float = 1e-5) -> Array:
    """Least squares on [o, o², t, t², t³, 1] (Duan et al. 2016), o clipped to ±10, t in hundreds.

    Solved on the normal equations of columns scaled to unit norm, which is what keeps a float32
    solve accurate; `ridge` is relative to that scale. A boolean o is its own square.
    """
    horizon, episodes = mask.shape
    values = observation.astype(mask.dtype).reshape(horizon, episodes, -1)
    clipped = jnp.clip(values, -10.0, 10.0)
    squares = [] if observation.dtype == bool else [clipped**2]
    time = jnp.arange(horizon, dtype=mask.dtype)[:, None, None] / 100.0
    time = jnp.broadcast_to(time, (horizon, episodes, 1))
    columns = [clipped, *squares, time, time**2, time**3, jnp.ones_like(time)]
    features = (jnp.concatenate(columns, axis=-1) * mask[..., None]).reshape(mask.size, -1)
    gram = features.T @ features
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(gram), 1e-12))
    scaled = gram * jnp.outer(scale, scale) + ridge * jnp.eye(len(scale), dtype=mask.dtype)
    target = (features.T @ (returns * mask).reshape(-1)) * scale
    weights = _solve_positive_definite(scaled, target) * scale
    return (features @ weights).reshape(mask.shape)


BASELINES: dict[str, Baseline] = {"linear": linear_features, "mean": mean_return, "none": zero}
