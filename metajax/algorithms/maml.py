"""MAML (Finn et al. 2017): parameters from which K gradient steps adapt to a task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..groups import UNIFORM, Weighting
from ..inner import Inner, Record, check_parts, judge_of, run
from ..mapping import Mapping, tiled
from ..replays import Order, losses_along, replay, replay_path
from ..types import MetaLearner, Params, Problem
from .core import from_task_gradient, trace_metrics

__all__ = ["MAMLOptions", "maml"]

Array = jax.Array


class MAMLOptions(TypedDict, total=False):
    """The keyword arguments of `maml`, which its variants pass on to it."""

    first_order: bool | Callable[[Array], Array]
    step_weights: Sequence[float]
    weighting: Weighting
    mapping: Mapping


def maml(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    first_order: bool | Callable[[Array], Array] = False,
    step_weights: Sequence[float] = (),
    weighting: Weighting = UNIFORM,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """Minimises E_T[L_T(θ')], θ' = θ after K inner steps on task T (algorithms 1 and 3).

    With `step_weights` it minimises Σ_k w_k E_T[L_T(θ_k)], the losses after each inner step: the
    multi-step loss of MAML++ (Antoniou et al. 2019, arXiv 1810.09502, equation 4) with constant
    weights.
    On-policy, step k is judged on the batch that step k+1 adapts on.

    The meta-gradient goes through the inner steps. In reinforcement learning it is that of the
    problem's surrogate; see `estimators` for what each surrogate's Hessian leaves out.

    ```python
    learner = mj.maml(problem, mj.sgd(0.1, steps=1), optax.adam(1e-3), tasks=40)
    state = learner.init(jax.random.key(0))
    state, metrics = jax.jit(learner.update)(state)
    adapted, trace = jax.jit(learner.adapt)(state.params, task, key)
    ```

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser, such as `sgd(0.1, steps=1)`.
        outer: the outer optimiser, any optax transformation.
        tasks: N, tasks per update.
        first_order: whether to take dθ'/dθ as the identity (FOMAML): a bool, or a schedule, such
            as `lambda step: step < 500`, MAML++'s annealing of the derivative's order.
        step_weights: w_1, ..., w_K, at least 0 and not all 0; () counts the last step alone.
        weighting: how much each group of tasks counts, see `groups`.
        mapping: how tasks are laid out on hardware.

    Returns:
        The learner. The metrics of an update are means over its tasks of "score_before" and
        "score_after" adaptation, "outer_loss" and what the outer loss reports; "gradient_norm", of
        the meta-gradient; and "env_steps", the sum of environment steps, or of examples.

    Raises:
        ValueError: an invalid size, invalid step weights, or a `first_order` that is neither a bool
            nor a function.
    """
    check_parts(problem, inner, outer)
    if not (isinstance(first_order, (bool, np.bool)) or callable(first_order)):
        raise ValueError(f"first_order: expected a bool or a function, got {first_order!r}")
    if not callable(first_order):
        first_order = bool(first_order)
    step_weights = [float(weight) for weight in step_weights]
    finite = all(math.isfinite(weight) and weight >= 0 for weight in step_weights)
    if step_weights and not (len(step_weights) == inner.steps and finite and any(step_weights)):
        raise ValueError(
            f"step weights: expected {inner.steps} of at least 0, not all 0, got {step_weights}"
        )

    judge = judge_of(problem)
    one_loss = problem.inner_loss is problem.outer_loss
    is_known = len(step_weights) > 1 and problem.on_policy and one_loss  # by the inner steps

    def multi_step_loss(params: Params, record: Record, order: Order) -> tuple[Array, Any]:
        path, judged = replay_path(problem, inner, params, record, order)
        losses, aux = losses_along(problem, path, judged, record)
        return jnp.sum(jnp.asarray(step_weights, losses.dtype) * losses), aux

    def task_gradient(
        params: Params, task: Any, key: Array, step: Array
    ) -> tuple[Params, dict[str, Array]]:
        _, record, trace = run(
            problem, inner, params, task, key, mapping.tile, judgements=is_known, ends=True
        )

        def meta_gradient(params: Params, record: Record, step: Array) -> tuple[Any, Params]:
            order = first_order(step) if callable(first_order) else first_order

            def objective(params: Params) -> tuple[Array, Any]:
                if step_weights:
                    return multi_step_loss(params, record, order)
                adapted = replay(problem, inner, params, record, order)
                return judge(adapted, record.judged)

            return jax.value_and_grad(objective, has_aux=True)(params)

        (loss, aux), grads = tiled(meta_gradient, mapping.tile)(params, record, step)
        return grads, {**trace_metrics(trace), "outer_loss": loss, **aux}

    return from_task_gradient(problem, inner, outer, tasks, mapping, task_gradient, weighting)
