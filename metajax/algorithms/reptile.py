"""Reptile (Nichol et al. 2018): move the parameters toward where each task's adaptation ends."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..inner import Inner, run
from ..mapping import Mapping
from ..types import MetaLearner, Params, Problem
from .core import from_task_gradient, trace_metrics

__all__ = ["reptile"]

Array = jax.Array


def reptile(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """The outer optimiser descends on mean over tasks of θ − θ_K (algorithm 2, batched).

    `optax.sgd(ε)` outside is the paper's θ ← θ + ε mean(θ_K − θ); Adam outside is its section 6.1
    variant. The arguments are those of `maml`; one inner step is joint training.

    Raises:
        ValueError: a size that cannot be, or no inner step, which would never move.
    """
    if inner.steps < 1:
        raise ValueError(f"inner steps: Reptile needs at least 1, got {inner.steps}")

    def task_gradient(
        params: Params, task: Any, key: Array, step: Array
    ) -> tuple[Params, dict[str, Array]]:
        del step
        adapted, record, trace = run(problem, inner, params, task, key, mapping.tile)
        loss, aux = problem.outer_loss(adapted, record.judged)
        grads = jax.tree.map(jnp.subtract, params, adapted)
        return grads, {**trace_metrics(trace), "outer_loss": loss, **aux}

    return from_task_gradient(problem, inner, outer, tasks, mapping, task_gradient)
