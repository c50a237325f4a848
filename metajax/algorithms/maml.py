"""MAML (Finn et al. 2017): parameters from which K gradient steps adapt to a task."""

from __future__ import annotations

from typing import Any

import jax
import optax

from ..inner import Inner, Record, replay, run
from ..mapping import Mapping, tiled
from ..types import MetaLearner, Params, Problem
from .core import from_task_gradient, trace_metrics

__all__ = ["maml"]

Array = jax.Array


def maml(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    first_order: bool = False,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """Minimises E_T[L_T(θ')], θ' = θ after K inner steps on task T (algorithms 1 and 3).

    The meta-gradient goes through the inner steps. For reinforcement learning it is that of the
    problem's surrogate; see `estimators` for what each surrogate's Hessian leaves out.

    Args:
        problem: what is learned over.
        inner: the inner optimiser, such as `sgd(0.1, steps=1)`.
        outer: the outer optimiser, any optax transformation.
        tasks: N, tasks of one update.
        first_order: takes dθ'/dθ for the identity (FOMAML).
        mapping: how tasks are laid on hardware.

    Raises:
        ValueError: a size that cannot be.
    """

    def task_gradient(params: Params, task: Any, key: Array) -> tuple[Params, dict[str, Array]]:
        _, record, trace = run(problem, inner, params, task, key, mapping.tile)

        def meta_gradient(params: Params, record: Record) -> tuple[Any, Params]:
            def objective(params: Params) -> tuple[Array, Any]:
                adapted = replay(problem, inner, params, record, first_order)
                return problem.outer_loss(adapted, record.judged)

            return jax.value_and_grad(objective, has_aux=True)(params)

        (loss, aux), grads = tiled(meta_gradient, mapping.tile)(params, record)
        return grads, {**trace_metrics(trace), "outer_loss": loss, **aux}

    return from_task_gradient(problem, inner, outer, tasks, mapping, task_gradient)
