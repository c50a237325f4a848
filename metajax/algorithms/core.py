"""What algorithms share: everything but the meta-gradient of one task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ..checks import require_key
from ..compiling import standalone
from ..fused import once_differentiated
from ..groups import UNIFORM, Measured, Weighting
from ..inner import Inner, Record, adaptation, check_parts, descend, run
from ..mapping import Mapping, check_layout, map_tasks, mean_over_tasks
from ..types import MetaLearner, MetaState, Params, Problem, Trace

__all__ = [
    "by_ratio",
    "from_records",
    "from_task_gradient",
    "initialiser",
    "task_keys",
    "trace_metrics",
]

Array = jax.Array
TaskGradient = Callable[[Params, Any, Array, Array], tuple[Params, dict[str, Array]]]
RatioLoss = Callable[[Params, Any, float | None], tuple[Array, dict[str, Array]]]
Improve = Callable[[Params, Any, Record], tuple[Params, Any, dict[str, Array]]]


def trace_metrics(trace: Trace) -> dict[str, Array]:
    """The metrics that every learner reports for one task's adaptation."""
    return {
        "score_before": trace.score[0],
        "score_after": trace.score[-1],
        "env_steps": trace.samples,
    }


def from_task_gradient(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    mapping: Mapping,
    task_gradient: TaskGradient,
    weighting: Weighting = UNIFORM,
) -> MetaLearner:
    """The learner whose update applies `outer` to the weighted mean of N tasks' `task_gradient`.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser.
        outer: the outer optimiser, any optax transformation.
        tasks: N, tasks per update.
        mapping: how tasks are laid out on hardware.
        task_gradient: params, task, key, step -> meta-gradient and metrics of ONE task; step is
            the number of updates done, () int32. The metrics are scalars and must include
            "score_after", see `trace_metrics`; floats are averaged over tasks, integers summed.
        weighting: how much each group of tasks counts.

    Raises:
        ValueError: an invalid size; during tracing, metrics without "score_after".
    """
    check_parts(problem, inner, outer)
    inner.check(problem)
    check_layout(mapping, tasks)

    def one_task(shared: tuple[Params, Array, Array], key: Array) -> tuple[Array, Any, Measured]:
        params, step, weights = shared
        key_task, key_adapt = jax.random.split(key)
        with jax.named_scope("sample_task"):
            task = problem.sample_task(key_task)
        with jax.named_scope("outer_gradient"):  # all of it that has no scope of its own
            grads, metrics = task_gradient(params, task, key_adapt, step)
        if "score_after" not in metrics:
            got = ", ".join(metrics) or "none"
            raise ValueError(f"metrics: expected score_after among them, got {got}")
        member = weighting.membership(task)
        measured = weighting.measure(task, metrics["score_after"], grads)
        # One flat vector, so that each operation on it is one kernel, not one per leaf.
        vector, _ = ravel_pytree(grads)
        vector *= (member @ weights).astype(vector.dtype)
        of_group = jnp.where(member[None] > 0, measured[:, None], 0.0)
        return vector, metrics, Measured(member, of_group)

    mean_gradient = mean_over_tasks(one_task, mapping)

    def update(state: MetaState) -> tuple[MetaState, dict[str, Array]]:
        keys = task_keys(state, tasks)
        weights = weighting.weights(state.weighting)
        vector, metrics, (share, summed) = mean_gradient((state.params, state.step, weights), keys)
        total = share @ weights
        vector /= jnp.where(total > 0, total, 1.0).astype(vector.dtype)  # 0: no task is in a group
        measured = Measured(share, summed / jnp.where(share > 0, share, 1.0)[None])
        with jax.named_scope("outer_update"):
            grads = ravel_pytree(state.params)[1](vector)
            params, opt_state = descend(outer, grads, state.opt_state, state.params)
        metrics["gradient_norm"] = jnp.linalg.norm(vector)
        after = weighting.update(state.weighting, measured)
        return MetaState(params, opt_state, state.step + 1, state.key, after), metrics

    init = initialiser(problem, outer.init, weighting)
    return MetaLearner(init, standalone(update), adaptation(problem, inner, mapping=mapping))


def from_records(
    problem: Problem,
    inner: Inner,
    tasks: int,
    mapping: Mapping,
    begin: Callable[[Params], Any],
    improve: Improve,
) -> MetaLearner:
    """The learner that adapts to N tasks and takes outer steps on the records of doing so.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser.
        tasks: N, tasks per update.
        mapping: how tasks are laid out on hardware; the records of all tasks are alive at once.
        begin: params -> the initial state that outer steps carry.
        improve: params, that state, records with leading axis N -> new params, new state, and
            metrics of the update. The records are of adaptations from these `params`.

    Raises:
        ValueError: an invalid size.
    """
    check_parts(problem, inner)
    inner.check(problem)
    check_layout(mapping, tasks)

    def collect(params: Params, key: Array) -> tuple[Record, dict[str, Array]]:
        key_task, key_adapt = jax.random.split(key)
        with jax.named_scope("sample_task"):
            task = problem.sample_task(key_task)
        _, record, trace = run(problem, inner, params, task, key_adapt, mapping.tile, ends=True)
        return record, trace_metrics(trace)

    def update(state: MetaState) -> tuple[MetaState, dict[str, Array]]:
        keys = task_keys(state, tasks)
        records, traces = map_tasks(collect, mapping)(state.params, keys)
        params, opt_state, metrics = improve(state.params, state.opt_state, records)
        metrics |= mean_over_tasks(lambda _, trace: trace, mapping)(None, traces)
        return MetaState(params, opt_state, state.step + 1, state.key), metrics

    init = initialiser(problem, begin)
    return MetaLearner(init, standalone(update), adaptation(problem, inner, mapping=mapping))


def by_ratio(problem: Problem, algorithm: str) -> tuple[Problem, RatioLoss, Callable[..., Any]]:
    """`problem` adapting by the probability ratio to who sampled, its ratio loss and divergence.

    Both losses are those of the batches collected earlier, as parameters leave those of then.

    Raises:
        ValueError: a problem without them; names `algorithm`.
    """
    ratio_loss, divergence = problem.ratio_loss, problem.divergence
    if ratio_loss is None or divergence is None:
        raise ValueError(
            f"problem: {algorithm} needs a policy gradient whose inner loss is not learned, of a "
            "surrogate other than dice, expected a `ratio_loss`, got None"
        )
    ratio_loss = once_differentiated()(ratio_loss)
    adapting = problem._replace(inner_loss=lambda params, batch: ratio_loss(params, batch, None))
    return adapting, ratio_loss, divergence


def initialiser(
    problem: Problem, begin: Callable[[Params], Any], weighting: Weighting = UNIFORM
) -> Callable[[Array], MetaState]:
    """`MetaLearner.init`, where `begin` makes the outer state of the first parameters."""

    def init(key: Array) -> MetaState:
        require_key(key)
        key_params, key_updates = jax.random.split(key)
        params = problem.init(key_params)
        return MetaState(params, begin(params), jnp.int32(0), key_updates, weighting.init())

    return standalone(init)


def task_keys(state: MetaState, tasks: int) -> Array:
    """The keys of the update that comes next, one for each task, (N,)."""
    if not isinstance(state, MetaState):
        got = type(state).__name__
        raise ValueError(f"state: expected a MetaState, as the learner's `init` makes, got {got}")
    return jax.random.split(jax.random.fold_in(state.key, state.step), tasks)
