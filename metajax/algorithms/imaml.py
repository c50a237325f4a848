"""iMAML (Rajeswaran et al. 2019, arXiv 1909.04630): the implicit meta-gradient of a minimum."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..checks import require_integer, require_number
from ..inner import Inner, check_parts, judge_of, merge, run
from ..mapping import Mapping, tiled
from ..replays import hessian_product
from ..trust_region import conjugate_gradients
from ..types import Batch, MetaLearner, Params, Problem
from .core import from_task_gradient, trace_metrics

__all__ = ["imaml", "proximal"]

Array = jax.Array


def proximal(inner: Inner, strength: float) -> Inner:
    """`inner` on L(φ) + λ/2 ‖φ − θ‖², where θ is the task's start and λ the `strength`.

    Raises:
        ValueError: a strength that is not above 0.
    """
    require_number("proximal strength", strength, above=True)

    def pull(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        start = inner.split(extra["meta"])[0]
        pulled = jax.tree.map(lambda g, p, s: g + strength * (p - s), updates, params, start)
        return pulled, state

    term = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), pull)
    return inner._replace(optimizer=optax.chain(term, inner.optimizer))


def imaml(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    strength: float = 1.0,
    damping: float = 0.0,
    solver_steps: int = 5,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """MAML with a proximal inner loss, differentiated by the implicit function theorem.

    φ minimises L(φ) + λ/2 ‖φ − θ‖², so dφ/dθ = (I + ∇²L(φ)/λ)⁻¹ (equation 6), applied by
    conjugate gradients (algorithm 2). No inner step is kept, so memory does not grow with K but for
    the batches of a policy; the gradient is accurate as far as the K steps reach the minimum, where
    L should have no curvature below −λ.
    If they stop short, φ depends on θ more than the minimum does: along curvatures below 1 / (K α),
    α the inner rate, as if it had not moved. `damping`, added to λ in equation 6 alone, accounts
    for this where λ + `damping` is about 1 / (K α).
    The loss of a policy has such curvatures, and its steps reach no minimum. The system is then
    positive definite only for λ + `damping` of a few times 1 / (K α), and the result close to the
    first terms of the derivative through the steps. The Hessian is that of the last inner batch,
    where that was collected: that of the judging batch is correlated with the judging gradient.
    A minimum does not depend on how it was reached, so a learned rate has a gradient of 0.

    Args:
        problem: the meta-learning problem; its inner loss must not bootstrap.
        inner: the inner optimiser, to which the proximal pull is added.
        outer: the outer optimiser.
        tasks: N, tasks per update.
        strength: λ, above 0. An inner step of rate α undoes the share αλ of the way from the start,
            so from αλ = 2 on the steps diverge.
        damping: added to λ in the linear system.
        solver_steps: conjugate-gradient steps.
        mapping: how tasks are laid out on hardware.

    Returns:
        The learner, as from `maml`.

    Raises:
        ValueError: an invalid size, a number out of range, or a problem that bootstraps.
    """
    check_parts(problem, inner, outer)
    if problem.bootstraps:  # its inner steps minimise no loss, so there is no Hessian to solve
        raise ValueError("problem: iMAML needs a loss that is minimised, got one that bootstraps")
    require_integer("inner steps", inner.steps, 1)
    require_integer("solver steps", solver_steps, 1)
    require_number("damping", damping)
    inner = proximal(inner, strength)
    judge = judge_of(problem)

    def meta_gradient(
        adapted: Params, last: Params, support: Batch, judged: Batch
    ) -> tuple[Any, Params]:
        value, grads = jax.value_and_grad(judge, has_aux=True)(adapted, judged)
        (fast, slow), (grads_fast, grads_slow) = inner.split(adapted), inner.split(grads)
        at = last if problem.on_policy else fast

        def scaled_product(vector: Params) -> tuple[Params, Params]:
            products = hessian_product(problem, at, slow, support, vector)
            return jax.tree.map(lambda leaf: leaf / (strength + damping), products)

        def system(vector: Params) -> Params:
            return jax.tree.map(jnp.add, vector, scaled_product(vector)[0])

        solved, _ = conjugate_gradients(system, grads_fast, solver_steps)
        grads_slow = jax.tree.map(jnp.subtract, grads_slow, scaled_product(solved)[1])
        return value, merge(solved, grads_slow)

    def task_gradient(
        params: Params, task: Any, key: Array, step: Array
    ) -> tuple[Params, dict[str, Array]]:
        del step
        adapted, record, trace = run(problem, inner, params, task, key, mapping.tile, ends=True)
        support = record.batches
        if problem.on_policy:
            support = jax.tree.map(lambda leaf: leaf[-1], support)
        gradient = tiled(meta_gradient, mapping.tile)
        (loss, aux), grads = gradient(adapted, record.last, support, record.judged)
        return grads, {**trace_metrics(trace), "outer_loss": loss, **aux}

    return from_task_gradient(problem, inner, outer, tasks, mapping, task_gradient)
