"""Meta-SGD (Li et al. 2017): the inner rates are learned, one for each parameter."""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from ..inner import Inner, check_parts
from ..slow import beside
from ..types import MetaLearner, Params, Problem
from .maml import MAMLOptions, maml

__all__ = ["learned_rates", "meta_sgd"]

Array = jax.Array


def learned_rates(problem: Problem, inner: Inner, per_step: bool = False) -> tuple[Problem, Inner]:
    """`problem` with learned rates as meta-parameters, and `inner` with its changes scaled by them.

    The meta-parameters are {"params": those of `problem`, "rates": factors, 1 at first}. A factor
    multiplies the change that `inner` makes to its parameter, so it is relative to the given rate;
    it may become negative.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser; its fast parameters stay fast, and the factors are slow.
        per_step: whether to learn factors (K,) for each parameter array, one per inner step, the
            last for all later steps too (MAML++), instead of one for each parameter.

    Returns:
        The problem and the inner optimiser with these meta-parameters.

    Raises:
        ValueError: `per_step` without inner steps.
    """
    check_parts(problem, inner)
    if per_step and inner.steps < 1:
        raise ValueError(f"inner steps: rates per step need at least 1, got {inner.steps}")

    def init(key: Array, params: Params) -> Params:
        del key

        def ones(leaf: Array) -> Array:
            return jnp.ones((inner.steps,) if per_step else leaf.shape, leaf.dtype)

        return jax.tree.map(ones, params)

    def scale(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params

        def scaled(update: Array | None, rate: Array) -> Array | None:
            if update is None:  # a slow parameter
                return None
            return update * (rate[jnp.minimum(state, len(rate) - 1)] if per_step else rate)

        changes = jax.tree.map(scaled, updates, extra["slow"], is_leaf=lambda leaf: leaf is None)
        return changes, state + 1

    factors = optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), scale)
    return beside(problem, inner, "rates", init, optax.chain(inner.optimizer, factors))


def meta_sgd(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    per_step: bool = False,
    **options: Unpack[MAMLOptions],
) -> MetaLearner:
    """MAML whose inner rates are learned with the initialisation, see `learned_rates`.

    One factor per parameter is Meta-SGD (equation 6); with `per_step`, one per parameter array and
    inner step, it is what MAML++ learns (Antoniou et al. 2019, section 4).

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser, whose rates the learned factors multiply.
        outer: the outer optimiser, for parameters and factors.
        tasks: N, tasks per update.
        per_step: whether to learn factors (K,) for each parameter array instead of one for each
            parameter.
        **options: options of `maml`.

    Returns:
        The learner, as from `maml`; its parameters are those of `learned_rates`.

    Raises:
        ValueError: an invalid size, or `per_step` without inner steps.
    """
    return maml(*learned_rates(problem, inner, per_step), outer, tasks, **options)
