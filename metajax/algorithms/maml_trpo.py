"""MAML with TRPO's outer step, as in the experiments of Finn et al. 2017, section 5.3."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from ..inner import Inner, Record, check_parts
from ..mapping import Mapping, check_layout, mean_over_tasks, tiled
from ..replays import pushforward, replay
from ..trust_region import TrustRegion, longest_step, search
from ..types import Divergence, MetaLearner, Params, Problem
from .core import by_ratio, from_records

__all__ = ["curvature_product", "maml_trpo"]

Array = jax.Array


def curvature_product(
    problem: Problem, inner: Inner, params: Params, record: Record, vector: Params
) -> Params:
    """∇²D(θ) · `vector`, D the adapted policy's divergence, at the θ that collected the record.

    D is 0 there, its minimum, so its Hessian in θ is Jᵀ F J, where F is the Hessian in the adapted
    parameters and J their Jacobian in θ. Only first derivatives of the adaptation enter it.

    Args:
        problem: a problem whose `divergence` is a `Divergence`.
        inner: the inner optimiser.
        params: θ.
        record: one task's adaptation from θ.
        vector: shaped as `params`.

    Returns:
        The product, shaped as `params`.
    """
    divergence = problem.divergence
    assert divergence is not None
    tangent = pushforward(problem, inner, params, record, vector)
    adapted, pull = jax.vjp(lambda params: replay(problem, inner, params, record), params)
    return pull(divergence.hessian_product(adapted, record.judged, tangent))[0]


def maml_trpo(
    problem: Problem,
    inner: Inner,
    outer: TrustRegion,
    tasks: int,
    *,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """MAML whose outer step is as long as the adapted policies' mean KL divergence allows.

    The direction is the natural gradient of E_T[L_T(θ_K)], L by the probability ratio. A
    backtracking search takes the first step that lowers this loss and keeps the new adapted
    policies' mean divergence from those that sampled within bounds; each try repeats the inner
    steps from its own θ.

    Args:
        problem: a policy-gradient problem.
        inner: the inner optimiser.
        outer: the trust region.
        tasks: N, tasks per update.
        mapping: how tasks are laid out on hardware; the batches of all tasks are alive at once.

    Returns:
        The learner, as from `maml`; its metrics also have "step_length" and "divergence", see
        `trust_region.search`.

    Raises:
        ValueError: an invalid size, a problem without a `ratio_loss` or whose `divergence` is not
            a `Divergence`, or an `outer` that is not a `TrustRegion`.
    """
    check_parts(problem, inner)
    check_layout(mapping, tasks)
    problem, ratio_loss, divergence = by_ratio(problem, "TRPO")
    if not isinstance(divergence, Divergence):
        kind = type(divergence).__name__
        raise ValueError(f"problem: TRPO expected a `divergence` in two parts, got a {kind}")
    if not isinstance(outer, TrustRegion):
        raise ValueError(f"outer: MAML-TRPO expected a TrustRegion, got {type(outer).__name__}")

    def gradient(params: Params, record: Record) -> tuple[Any, Params]:
        def objective(params: Params) -> tuple[Array, dict[str, Array]]:
            return ratio_loss(replay(problem, inner, params, record), record.judged, None)

        return jax.value_and_grad(objective, has_aux=True)(params)

    def judge(params: Params, record: Record) -> tuple[Array, Array]:
        adapted = replay(problem, inner, params, record)
        return ratio_loss(adapted, record.judged, None)[0], divergence(adapted, record.judged)

    def product(params: Params, vector: Params, record: Record) -> Params:
        return curvature_product(problem, inner, params, record, vector)

    # One tile of tasks at a time, as wherever a gradient is taken.
    gradient_of_task, judge_task, product_of_task = (
        tiled(function, mapping.tile) for function in (gradient, judge, product)
    )
    mean_gradient = mean_over_tasks(gradient_of_task, mapping)
    mean_judge = mean_over_tasks(judge_task, mapping)
    mean_product = mean_over_tasks(lambda at, record: product_of_task(*at, record), mapping)

    def improve(
        params: Params, state: tuple[()], records: Record
    ) -> tuple[Params, tuple[()], dict[str, Array]]:
        (loss, metrics), grads = mean_gradient(params, records)
        step = longest_step(outer, grads, lambda vector: mean_product((params, vector), records))
        elsewhere = dataclasses.replace(records, gradients=None)
        params, taken = search(
            outer, params, step, lambda params: mean_judge(params, elsewhere), loss
        )
        norm = optax.tree.norm(grads)
        return params, state, {"outer_loss": loss, "gradient_norm": norm, **metrics, **taken}

    return from_records(problem, inner, tasks, mapping, lambda params: (), improve)
