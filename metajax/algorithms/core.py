"""What the gradient-based algorithms share: everything but the meta-gradient of one task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..inner import Inner, descend, run
from ..mapping import Mapping, mean_over_tasks
from ..types import MetaLearner, MetaState, Params, Problem, Trace

__all__ = ["from_task_gradient", "trace_metrics"]

Array = jax.Array
TaskGradient = Callable[[Params, Any, Array, Array], tuple[Params, dict[str, Array]]]


def trace_metrics(trace: Trace) -> dict[str, Array]:
    """What every learner reports of one task's adaptation."""
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
) -> MetaLearner:
    """The learner whose update is `outer` on the mean over N tasks of `task_gradient`.

    Args:
        problem: what is learned over.
        inner: the inner optimiser.
        outer: the outer optimiser, any optax transformation.
        tasks: N, tasks of one update.
        mapping: how they are laid on hardware.
        task_gradient: params, task, key, step -> meta-gradient and metrics of ONE task; step is
            the number of updates done, () int32.

    Raises:
        ValueError: a size that cannot be.
    """
    inner.check(problem)
    mapping.check(tasks)

    def one_task(shared: tuple[Params, Array], key: Array) -> tuple[Params, dict[str, Array]]:
        params, step = shared
        key_task, key_adapt = jax.random.split(key)
        return task_gradient(params, problem.sample_task(key_task), key_adapt, step)

    mean_gradient = mean_over_tasks(one_task, mapping)

    def init(key: Array) -> MetaState:
        key_params, key_updates = jax.random.split(key)
        params = problem.init(key_params)
        return MetaState(params, outer.init(params), jnp.int32(0), key_updates)

    def update(state: MetaState) -> tuple[MetaState, dict[str, Array]]:
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), tasks)
        grads, metrics = mean_gradient((state.params, state.step), keys)
        params, opt_state = descend(outer, grads, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        return MetaState(params, opt_state, state.step + 1, state.key), metrics

    def adapt(params: Params, task: Any, key: Array) -> tuple[Params, Trace]:
        adapted, _, trace = run(problem, inner, params, task, key, mapping.tile)
        return adapted, trace

    return MetaLearner(init, update, adapt)
