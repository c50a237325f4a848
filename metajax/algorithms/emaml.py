"""E-MAML (Stadie et al. 2018): sampling before adaptation is credited with the score after it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..checks import require_integer, require_number
from ..inner import Inner, Record, check_parts, descend, judge_of
from ..mapping import Mapping, check_layout, map_tasks, mean_over_tasks, tiled
from ..replays import replay_path, starts
from ..types import MetaLearner, Params, Problem
from .core import from_records

__all__ = ["emaml", "exploring_loss"]

Array = jax.Array


def exploring_loss(
    problem: Problem, inner: Inner, params: Params, record: Record, credit: Array
) -> tuple[Array, Any]:
    """The outer loss minus `credit` Σ_k log π(batch k | θ_k), over the batches adapted on.

    log π is a mean over the steps taken, as in the losses. With one episode per batch, the inner
    surrogate "log_prob" and the score after adaptation as the credit, the gradient is an unbiased
    estimate of that of the expected score, sampling included, up to a factor of the episodes'
    length, where that is fixed; B episodes need B times the credit.

    Args:
        problem: a problem with a `log_prob`.
        inner: the inner optimiser.
        params: θ_0.
        record: one task's adaptation from θ_0.
        credit: (), what the sampling is credited with.

    Returns:
        The loss, (), and metrics: "outer_loss" and those of `problem.outer_loss`.
    """
    log_prob = problem.log_prob
    assert log_prob is not None
    path, _ = replay_path(problem, inner, params, record)
    if problem.on_policy:
        steps = (starts(params, path), record.batches)
        sampled = jnp.sum(jax.lax.map(lambda step: log_prob(*step), steps))
    else:
        sampled = log_prob(params, record.batches)
    judge = judge_of(problem)
    loss, aux = judge(jax.tree.map(lambda leaf: leaf[-1], path), record.judged)
    return loss - credit * sampled, {"outer_loss": loss, **aux}


def emaml(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    exploration: float = 1.0,
    normalise: bool = False,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """MAML that also credits the sampling before adaptation with the score after it.

    A task's sampling is credited with w (R − b), where R is its score after adaptation and b the
    mean score of the update's other tasks, a baseline that leaves the expectation unchanged; b is 0
    for a single task. R is in the units of the rewards: where the losses have advantages of unit
    standard deviation, `normalise` gives it one too, so that w means the same for every problem;
    the expectation then changes a little, as the deviation is of the task's own R too.

    Args:
        problem: a problem with a `log_prob` of its batches, such as policy gradient, or Q-learning
            with a learned ε (`meta_learned`).
        inner: the inner optimiser, of at least one step.
        outer: the outer optimiser.
        tasks: N, tasks per update.
        exploration: w, weight of that credit, see `exploring_loss`.
        normalise: whether R − b is divided by the standard deviation of the tasks' R.
        mapping: how tasks are laid out on hardware; the batches of all tasks are alive at once.

    Returns:
        The learner, as from `maml`.

    Raises:
        ValueError: an invalid size, a weight below 0, a problem without a `log_prob`, or a single
            task whose score is to be normalised.
    """
    check_parts(problem, inner, outer)
    check_layout(mapping, tasks)
    if problem.log_prob is None:
        raise ValueError("problem: E-MAML needs one that samples, expected a `log_prob`, got None")
    require_integer("inner steps", inner.steps, 1)
    require_number("exploration", exploration)
    if normalise and tasks == 1:
        raise ValueError("normalise: is over the tasks of an update, which are 1")

    def gradient(params: Params, record: Record, credit: Array) -> tuple[Any, Params]:
        def objective(params: Params) -> tuple[Array, Any]:
            return exploring_loss(problem, inner, params, record, credit)

        (_, metrics), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return grads, metrics

    gradient_of_task = tiled(gradient, mapping.tile)
    mean_gradient = mean_over_tasks(lambda params, each: gradient_of_task(params, *each), mapping)
    score = map_tasks(lambda _, record: problem.score(record.judged), mapping)

    def improve(
        params: Params, opt_state: Any, records: Record
    ) -> tuple[Params, Any, dict[str, Array]]:
        reached = score(None, records)
        if tasks > 1:
            deviation, size = jnp.std(reached), jnp.max(jnp.abs(reached))
            reached = (reached - jnp.mean(reached)) * (tasks / (tasks - 1))
            if normalise:
                # Equal scores differ by rounding, which would become credit.
                differ = deviation > 1e-5 * size
                reached = jnp.where(differ, reached / jnp.where(differ, deviation, 1.0), 0.0)
        grads, metrics = mean_gradient(params, (records, exploration * reached))
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return *descend(outer, grads, opt_state, params), metrics

    return from_records(problem, inner, tasks, mapping, outer.init, improve)
