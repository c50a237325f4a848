"""Baselines fitted to one task's episodes: value estimates (T, B) that no parameter depends on."""

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


def _time_features(mask: Array) -> Array:
    """[t, t², t³, 1], t in hundreds, of every step taken, (4, T, B)."""
    time = jnp.arange(len(mask), dtype=mask.dtype)[:, None] / 100.0
    return jnp.stack([time, time**2, time**3, jnp.ones_like(time)]) * mask[None]


def _exact() -> Any:
    """Products in full precision: what an accelerator has by itself is too little for these."""
    return jax.default_matmul_precision("highest")


def _least_squares(gram: Array, moments: Array, ridge: float) -> Array:
    """Solved for columns of unit norm, which keeps a float32 solve accurate; `ridge` is of them."""
    scale = _unit_norm(jnp.diagonal(gram))
    scaled = gram * jnp.outer(scale, scale) + ridge * jnp.eye(len(scale), dtype=gram.dtype)
    return _solve_positive_definite(scaled, moments * scale) * scale


def _unit_norm(diagonal: Array) -> Array:
    """What makes the norms of columns 1, from their squares."""
    return jax.lax.rsqrt(jnp.maximum(diagonal, 1e-12))


def _least_squares_of_rows(
    count: Array, across: Array, gram: Array, row_moments: Array, moments: Array, ridge: float
) -> tuple[Array, Array]:
    """`_least_squares` of a matrix [[diag(`count`), `across`], [`across`ᵀ, `gram`]], (d, e) across.

    Eliminating the d columns that share nothing with each other leaves e by e (the Schur
    complement): elimination in the same order, without the zeros.
    """
    row_scale, scale = _unit_norm(count), _unit_norm(jnp.diagonal(gram))
    diagonal = count * row_scale**2 + ridge
    across = across * jnp.outer(row_scale, scale)
    row_moments, moments = row_moments * row_scale, moments * scale
    gram = gram * jnp.outer(scale, scale) + ridge * jnp.eye(len(scale), dtype=gram.dtype)
    eliminated = across / diagonal[:, None]
    schur = gram - across.T @ eliminated
    weights = _solve_positive_definite(schur, moments - eliminated.T @ row_moments)
    of_rows = (row_moments - across @ weights) / diagonal
    return of_rows * row_scale, weights * scale


def linear_features(observation: Array, returns: Array, mask: Array, ridge: float = 1e-5) -> Array:
    """Least squares on [o, o², t, t², t³, 1] (Duan et al. 2016), o clipped to ±10, t in hundreds.

    `ridge` is relative to columns of unit norm. A boolean o is its own square.
    """
    values = observation.astype(mask.dtype).reshape(mask.size, -1).T
    clipped = jnp.clip(values, -10.0, 10.0) * mask.reshape(1, -1)
    squares = [] if observation.dtype == bool else [clipped**2]
    # A row each: columns would be a few numbers apart in memory, which an accelerator reads badly.
    features = jnp.concatenate([clipped, *squares, _time_features(mask).reshape(4, -1)])
    with _exact():
        moments = features @ (returns * mask).reshape(-1)
        weights = _least_squares(features @ features.T, moments, ridge)
        return (weights @ features).reshape(mask.shape)


def linear_features_of_rows(
    row: Array, rows: int, returns: Array, mask: Array, ridge: float = 1e-5
) -> Array:
    """`linear_features` of boolean one-hot observations, which are never built.

    A product with a one-hot o is a sum over the steps of each row.

    Args:
        row: which element of o is 1, (T, B) int32 in 0..`rows`-1.
    """
    time = _time_features(mask)
    data = jnp.concatenate([time, (returns * mask)[None]]).reshape(5, -1)
    sums = jnp.zeros((rows, 5), data.dtype).at[row.reshape(-1)].add(data.T)
    across, count = sums[:, :-1], sums[:, -2]
    with _exact():
        gram = data @ data.T  # of the features of time, and of these with the returns
        of_rows, of_time = _least_squares_of_rows(
            count, across, gram[:-1, :-1], sums[:, -1], gram[:-1, -1], ridge
        )
        return (of_rows[row] + jnp.tensordot(of_time, time, axes=1)) * mask


BASELINES: dict[str, Baseline] = {"linear": linear_features, "mean": mean_return, "none": zero}
