"""Baselines fitted to one task's episodes: value estimates (T, B) without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    "BASELINES",
    "Baseline",
    "linear_features",
    "linear_features_of_rows",
    "mean_return",
    "zero",
]

Array = jax.Array
Baseline = Callable[[Array, Array, Array], Array]
"""observation (T, B, ...), returns to go (T, B), mask (T, B) -> value (T, B)."""


def zero(observation: Array, returns: Array, mask: Array) -> Array:
    """No baseline."""
    del observation, mask
    return jnp.zeros_like(returns)


def mean_return(observation: Array, returns: Array, mask: Array) -> Array:
    """At each time, the mean return to go over the episodes that are still running.

    Itself included: of n episodes the advantage is (n - 1) / n of what it is beside the others, and
    0 where a single one is left.
    """
    del observation
    count = jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1.0)
    return jnp.sum(returns * mask, axis=1, keepdims=True) / count * mask


def _solve_positive_definite(matrix: Array, target: Array) -> Array:
    """x with `matrix` x = `target`, (d, d) and (d,), by elimination without pivoting.

    Not LAPACK's Cholesky: on CPU, jaxlib's batched kernel waits inside XLA's thread pool for work
    that it queued on that same pool, so two devices that fit their baselines at once can deadlock.
    Elimination is as stable here, and it is plain vector code on every backend.
    """
    size = target.shape[0]

    def eliminate(pivot: Array, rows: Array) -> Array:
        row = rows[pivot] / rows[pivot, pivot]
        others = rows[:, pivot].at[pivot].set(0.0)
        return (rows - jnp.outer(others, row)).at[pivot].set(row)

    rows = jnp.concatenate([matrix, target[:, None]], axis=1)
    return jax.lax.fori_loop(0, size, eliminate, rows)[:, -1]


def _time_features(mask: Array) -> Array:
    """[t, t², t³, 1], t in hundreds, of every step taken, (4, T, B)."""
    time = jnp.arange(len(mask), dtype=mask.dtype)[:, None] / 100.0
    return jnp.stack([time, time**2, time**3, jnp.ones_like(time)]) * mask[None]


def _exact() -> Any:
    """Products in full precision: an accelerator's default is too little for these."""
    return jax.default_matmul_precision("highest")


def _least_squares(gram: Array, moments: Array, ridge: float) -> Array:
    """Solves with columns of unit norm, for accuracy in float32; `ridge` is relative to them."""
    scale = _unit_norm(jnp.diagonal(gram))
    scaled = gram * jnp.outer(scale, scale) + ridge * jnp.eye(len(scale), dtype=gram.dtype)
    return _solve_positive_definite(scaled, moments * scale) * scale


def _unit_norm(diagonal: Array) -> Array:
    """Factors that scale columns to unit norm, from their squared norms."""
    return jax.lax.rsqrt(jnp.maximum(diagonal, 1e-12))


def linear_features(observation: Array, returns: Array, mask: Array, ridge: float = 1e-5) -> Array:
    """Least squares on [o, o², t, t², t³, 1] (Duan et al. 2016), o clipped to ±10, t in hundreds.

    `ridge` is relative to columns of unit norm. A boolean o is its own square.
    """
    values = observation.astype(mask.dtype).reshape(mask.size, -1).T
    clipped = jnp.clip(values, -10.0, 10.0) * mask.reshape(1, -1)
    squares = [] if observation.dtype == bool else [clipped**2]
    # A row per feature: columns would be strided in memory, which is slow on accelerators.
    features = jnp.concatenate([clipped, *squares, _time_features(mask).reshape(4, -1)])
    with _exact():
        moments = features @ (returns * mask).reshape(-1)
        weights = _least_squares(features @ features.T, moments, ridge)
        return (weights @ features).reshape(mask.shape)


def linear_features_of_rows(
    row: Array, rows: int, returns: Array, mask: Array, ridge: float = 1e-5
) -> Array:
    """`linear_features` of boolean one-hot observations, which are never built.

    The columns of o share no step, so each is eliminated by itself: what is left are equations in
    the four time features, of their variation within each row (a Schur complement). Written as sums
    of squares they have no differences of large numbers, though the rows add up to the column of
    ones.

    Args:
        row: which element of o is 1, (T, B) int32 in 0..`rows`-1.
        rows: O.
        returns: returns to go, (T, B).
        mask: 1 where a step was taken, (T, B) float.
        ridge: relative to columns of unit norm.

    Returns:
        The values, (T, B).
    """
    at = row.reshape(-1)
    data = jnp.concatenate([_time_features(mask), (returns * mask)[None]]).reshape(5, -1)
    sums = jnp.zeros((rows, 5), data.dtype).at[at].add(data.T)
    count = sums[:, 3]
    means = (sums / jnp.maximum(count, 1.0)[:, None]).T  # (5, rows)
    within = (data - means[:, at]) * mask.reshape(1, -1)
    with _exact():
        # The ridge shrinks all columns of unit norm alike, which leaves a share of the means.
        between = (means * count[None]) @ means.T
        gram = within @ within.T + ridge / (1.0 + ridge) * between
        scale = _unit_norm(jnp.sum(data[:4] ** 2, axis=1))
        scaled = gram[:4, :4] * jnp.outer(scale, scale) + ridge * jnp.eye(4, dtype=gram.dtype)
        of_time = _solve_positive_definite(scaled, gram[:4, 4] * scale) * scale
        of_rows = (means[4] - of_time @ means[:4]) / (1.0 + ridge)
        return (of_rows[row] + (of_time @ data[:4]).reshape(mask.shape)) * mask


BASELINES: dict[str, Baseline] = {"linear": linear_features, "mean": mean_return, "none": zero}
