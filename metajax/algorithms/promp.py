"""ProMP (Rothfuss et al. 2019, arXiv 1810.06784): several outer steps on the same batches."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..checks import require_integer, require_number
from ..inner import Inner, Record, check_parts, descend
from ..mapping import Mapping, check_layout, mean_over_tasks, tiled
from ..replays import replay_path, starts
from ..types import MetaLearner, Params, Problem
from .core import by_ratio, from_records

__all__ = ["ProMPState", "promp"]

Array = jax.Array

_PENALTIES = (1e-9, 1e9)  # where halving and doubling end: from 0 or infinity none comes back


class ProMPState(NamedTuple):
    """The state that ProMP carries beside the parameters."""

    optimizer: Any  # of the outer optimiser
    penalty: Array  # (K,) float32, η_k


def promp(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    epochs: int = 5,
    clip: float = 0.3,
    penalty: float = 5e-4,
    target: float | None = None,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """Minimises E_T[L_clip(θ_K)] + mean over k of η_k KL(π_b ‖ π_{θ_k}) on data from θ_b.

    Each task's batches are collected once, at θ_b. The first term is PPO's clipped loss of the
    adapted policy; the second keeps the policies of steps k = 0, ..., K-1 close to those that
    sampled (equation 10). As θ leaves θ_b, the inner steps are repeated from it on the same
    batches, with the probability ratio to π_b: all derivatives are those of this objective, and the
    problem's own surrogate has no part in it.

    Args:
        problem: a policy-gradient problem.
        inner: the inner optimiser, of at least one step.
        outer: the outer optimiser, which takes `epochs` steps per update.
        tasks: N, tasks per update.
        epochs: outer steps on the same batches, at least 1.
        clip: ε, how far the adapted policy's probability ratio may move from 1.
        penalty: initial η_k.
        target: a KL divergence; after each update η_k is halved if step k's is below two thirds of
            it, and doubled if above one and a half times it. None keeps η_k.
        mapping: how tasks are laid out on hardware; the batches of all tasks are alive at once.

    Returns:
        The learner, as from `maml`; its metrics also have "penalty", the mean η_k, and
        "divergence", the mean KL divergence: with a target that after the last outer step, which
        adapts η_k; without, that before it, which with one epoch is 0.

    Raises:
        ValueError: an invalid size, a number out of range, or a problem without a `ratio_loss`.
    """
    check_parts(problem, inner, outer)
    check_layout(mapping, tasks)
    problem, ratio_loss, divergence = by_ratio(problem, "ProMP")
    for name, value in (("inner steps", inner.steps), ("epochs", epochs)):
        require_integer(name, value, 1)
    require_number("clip", clip, above=True)
    if target is not None:
        require_number("target", target, above=True)
    require_number("penalty", penalty)
    if target is not None and penalty == 0:
        raise ValueError("penalty: expected above 0 where a target adapts it, got 0")

    def judge(params: Params, record: Record) -> tuple[Array, Array, dict[str, Array]]:
        """The clipped loss after the last step, and the divergences of steps 0, ..., K-1, (K,)."""
        path, _ = replay_path(problem, inner, params, record)
        each = jax.lax.map(lambda step: divergence(*step), (starts(params, path), record.batches))
        adapted = jax.tree.map(lambda leaf: leaf[-1], path)
        loss, aux = ratio_loss(adapted, record.judged, clip)
        return loss, each, aux

    def gradient(params: Params, penalties: Array, record: Record) -> tuple[Any, Params]:
        def objective(params: Params) -> tuple[Array, dict[str, Array]]:
            loss, each, aux = judge(params, record)
            value = loss + jnp.mean(penalties.astype(each.dtype) * each)
            return value, {"outer_loss": loss, "divergence": jnp.mean(each), **aux}

        return jax.value_and_grad(objective, has_aux=True)(params)

    def of_task(shared: tuple[Params, Array], record: Record) -> tuple[Params, dict[str, Array]]:
        (_, metrics), grads = tiled(gradient, mapping.tile)(*shared, record)
        return grads, metrics

    mean_gradient = mean_over_tasks(of_task, mapping)
    mean_divergences = mean_over_tasks(lambda params, record: judge(params, record)[1], mapping)

    def improve(
        params: Params, state: ProMPState, records: Record
    ) -> tuple[Params, ProMPState, dict[str, Array]]:
        records = dataclasses.replace(records, gradients=None)

        def epoch(carry: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], Any]:
            params, opt_state = carry
            grads, metrics = mean_gradient((params, state.penalty), records)
            metrics["gradient_norm"] = optax.tree.norm(grads)
            return descend(outer, grads, opt_state, params), metrics

        carry = (params, state.optimizer)
        (params, opt_state), metrics = jax.lax.scan(epoch, carry, length=epochs)
        metrics = jax.tree.map(lambda leaf: leaf[-1], metrics)
        penalties = state.penalty
        if target is not None:
            reached = mean_divergences(params, records)  # (K,)
            factor = jnp.where(reached < target / 1.5, 0.5, jnp.where(reached > target * 1.5, 2, 1))
            penalties = jnp.clip(penalties * factor.astype(penalties.dtype), *_PENALTIES)
            metrics["divergence"] = jnp.mean(reached)
        metrics["penalty"] = jnp.mean(penalties)
        return params, ProMPState(opt_state, penalties), metrics

    def begin(params: Params) -> ProMPState:
        return ProMPState(outer.init(params), jnp.full((inner.steps,), penalty, jnp.float32))

    return from_records(problem, inner, tasks, mapping, begin, improve)
