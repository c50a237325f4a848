"""MAML with TRPO's outer step, as in the experiments of Finn et al. 2017, section 5.3."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from ..fused import once_differentiated
from ..inner import Inner, Record, check_parts
from ..mapping import Mapping, mean_over_tasks, tiled
from ..replays import pushforward, replay
from ..trust_region import TrustRegion, longest_step, search
from ..types import Divergence, MetaLearner, Params, Problem
from .core import from_records

__all__ = ["curvature_product", "maml_trpo"]

Array = jax.Array


def curvature_product(
    problem: Problem, inner: Inner, params: Params, record: Record, vector: Params
) -> Params:
    """∇²D(θ) · `vector`, D the divergence of the adapted policy, where θ = `params` collected.

    There D is 0, hence least, for every adapted policy; so that its Hessian by θ is Jᵀ F J, F that
    by the adapted parameters and J their derivative by θ. Only first derivatives of the adaptation
    are in it.
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

    The direction is that of the natural gradient of E_T[L_T(θ_K)], L by the probability ratio. Of
    ever shorter steps the first is taken that lowers this loss and keeps the new adapted policies'
    divergence from those that sampled in bound, the inner steps taken anew from the new θ.

    Args:
        problem: a policy-gradient problem.
        inner: the inner optimiser.
        outer: the trust region.
        tasks: N, tasks of one update.
        mapping: how tasks are laid on hardware; the batches of all tasks are alive at once.

    Raises:
        ValueError: a size that cannot be, a problem without a ratio of policies or whose divergence
            is no `Divergence`, or an optimiser in the place of the trust region.
    """
    check_parts(problem, inner)
    ratio_loss, divergence = problem.ratio_loss, problem.divergence
    if ratio_loss is None or divergence is None:
        raise ValueError("problem: TRPO needs policies, expected a `ratio_loss`, got None")
    if not isinstance(divergence, Divergence):
        kind = type(divergence).__name__
        raise ValueError(f"problem: TRPO expected a `divergence` in two parts, got a {kind}")
    if not isinstance(outer, TrustRegion):
        raise ValueError(f"outer: MAML-TRPO expected a TrustRegion, got {type(outer).__name__}")
    ratio_loss = once_differentiated()(ratio_loss)
    problem = problem._replace(inner_loss=lambda params, batch: ratio_loss(params, batch, None))

    def gradient(params: Params, record: Record) -> tuple[Any, Params]:
        def objective(params: Params) -> tuple[Array, dict[str, Array]]:
            return ratio_loss(replay(problem, inner, params, record), record.judged, None)

        return jax.value_and_grad(objective, has_aux=True)(params)

    def judge(params: Params, record: Record) -> tuple[Array, Array]:
        adapted = replay(problem, inner, params, record)
        return ratio_loss(adapted, record.judged, None)[0], divergence(adapted, record.judged)

    def product(params: Params, vector: Params, record: Record) -> Params:
        return curvature_product(problem, inner, params, record, vector)

    # A tile's worth of tasks at once, as everywhere that a gradient is taken.
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
