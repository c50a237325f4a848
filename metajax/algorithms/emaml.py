"""E-MAML (Stadie et al. 2018): credit to the sampling before adaptation for what it led to."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..inner import Inner, Record, replay_path, run, starts
from ..mapping import Mapping, tiled
from ..types import MetaLearner, Params, Problem
from .core import from_task_gradient, trace_metrics

__all__ = ["emaml", "exploring_loss"]

Array = jax.Array


def exploring_loss(
    problem: Problem, inner: Inner, params: Params, record: Record, exploration: float
) -> tuple[Array, Any]:
    """The outer loss and −w R Σ_k log π(batch k | θ_k), R the score after adaptation.

    log π is a mean over the steps taken, as the losses are. For one episode a batch and the
    surrogate "log_prob" inside, w = 1 makes the gradient an unbiased one of E[R], sampling
    included, up to a factor of the episodes' length; B episodes take w = B.
    """
    log_prob = problem.log_prob
    assert log_prob is not None
    path, _ = replay_path(problem, inner, params, record)
    steps = (starts(params, path), record.batches)
    log_probs = jax.lax.map(lambda step: log_prob(*step), steps)
    loss, aux = problem.outer_loss(jax.tree.map(lambda leaf: leaf[-1], path), record.judged)
    reached = jax.lax.stop_gradient(problem.score(record.judged))
    return loss - exploration * reached * jnp.sum(log_probs), aux


def emaml(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    exploration: float = 1.0,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """MAML whose batches before adaptation are also judged by the return after it.

    Args:
        problem: an on-policy one that knows how likely its batches were, such as policy gradient.
        inner: the inner optimiser, of at least one step.
        outer: the outer optimiser.
        tasks: N, tasks of one update.
        exploration: w, weight of that term, see `exploring_loss`.
        mapping: how tasks are laid on hardware.

    Raises:
        ValueError: a size that cannot be, or a problem that draws nothing from its parameters.
    """
    if problem.log_prob is None or not problem.on_policy:
        raise ValueError("problem: E-MAML needs one that samples, expected a `log_prob`, got None")
    if inner.steps < 1:
        raise ValueError(f"inner steps: E-MAML needs at least 1, got {inner.steps}")

    def meta_gradient(params: Params, record: Record) -> tuple[Any, Params]:
        def objective(params: Params) -> tuple[Array, Any]:
            return exploring_loss(problem, inner, params, record, exploration)

        return jax.value_and_grad(objective, has_aux=True)(params)

    def task_gradient(
        params: Params, task: Any, key: Array, step: Array
    ) -> tuple[Params, dict[str, Array]]:
        del step
        _, record, trace = run(problem, inner, params, task, key, mapping.tile)
        (loss, aux), grads = tiled(meta_gradient, mapping.tile)(params, record)
        return grads, {**trace_metrics(trace), "outer_loss": loss, **aux}

    return from_task_gradient(problem, inner, outer, tasks, mapping, task_gradient)
