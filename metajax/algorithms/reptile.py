"""Reptile (Nichol et al. 2018): move the parameters toward where each task's adaptation ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..checks import require_integer
from ..compiling import standalone
from ..inner import Inner, check_parts, judge_of, run
from ..mapping import Mapping, check_layout
from ..types import MetaLearner, MetaState, Params, Problem
from .core import from_task_gradient, trace_metrics

__all__ = ["reptile"]

Array = jax.Array


def reptile(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    serial: bool = False,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """The outer optimiser descends along the mean over tasks of θ − θ_K (algorithm 2, batched).

    With `optax.sgd(ε)` outside it is the paper's θ ← θ + ε mean(θ_K − θ), with Adam its section 6.1
    variant. With one inner step it is joint training. With `serial` the tasks of an update follow
    one another, each from where the last one moved the parameters (algorithm 1): N steps of the
    outer optimiser, and of its schedule.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser, of at least one step.
        outer: the outer optimiser.
        tasks: N, tasks per update.
        serial: whether the tasks of an update follow one another.
        mapping: how tasks are laid out on hardware.

    Returns:
        The learner, as from `maml`.

    Raises:
        ValueError: an invalid size, no inner steps, parameters that no task adapts, which would
            never move, or `serial` on more than one device.
    """
    check_parts(problem, inner, outer)
    require_integer("inner steps", inner.steps, 1)
    if slow := inner.slow(problem):
        raise ValueError(f"fast parameters: Reptile moves no others, expected all, not {slow[0]}")
    judge = judge_of(problem)

    def task_gradient(
        params: Params, task: Any, key: Array, step: Array
    ) -> tuple[Params, dict[str, Array]]:
        del step
        adapted, record, trace = run(problem, inner, params, task, key, mapping.tile, ends=True)
        loss, aux = judge(adapted, record.judged)
        grads = jax.tree.map(jnp.subtract, params, adapted)
        return grads, {**trace_metrics(trace), "outer_loss": loss, **aux}

    if not serial:
        return from_task_gradient(problem, inner, outer, tasks, mapping, task_gradient)
    check_layout(mapping, tasks)
    if mapping.devices > 1:
        raise ValueError(f"serial: expected one device, got {mapping.devices}")
    one = from_task_gradient(problem, inner, outer, 1, mapping, task_gradient)

    def update(state: MetaState) -> tuple[MetaState, dict[str, Array]]:
        # Keys derive from the step, so each task of a run needs a step of its own.
        begin = dataclasses.replace(state, step=state.step * tasks)
        end, metrics = jax.lax.scan(lambda state, _: one.update(state), begin, length=tasks)

        def over_tasks(leaf: Array) -> Array:
            is_count = jnp.issubdtype(leaf.dtype, jnp.integer)
            return jnp.sum(leaf, dtype=leaf.dtype) if is_count else jnp.mean(leaf)

        return dataclasses.replace(end, step=state.step + 1), jax.tree.map(over_tasks, metrics)

    return one._replace(update=standalone(update))
