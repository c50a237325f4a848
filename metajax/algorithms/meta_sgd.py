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
    """`problem` with rates among its meta-parameters, and `inner` with them as factors.

    The meta-parameters are {"params": those of `problem`, "rates": factors, 1 at first}. A factor
    multiplies what `inner` adds to its parameter, so a rate is learned in units of its own; it may
    become negative.

    Args:
        problem: what is learned over.
        inner: what adapts with it still does; the factors are slow.
        per_step: one factor (K,) for each array of parameters and inner step (MAML++), the last one
            for all later steps too, in place of one for each parameter.

    Raises:
        ValueError: factors for no step.
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

    One factor a parameter is Meta-SGD (equation 6); with `per_step`, one for each array of them and
    inner step is what MAML++ learns (Antoniou et al. 2019, section 4).

    Args:
        problem: what is learned over.
        inner: the inner optimiser, whose rates the learned factors multiply.
        outer: the outer optimiser, of parameters and factors.
        tasks: N, tasks of one update.
        per_step: whether there is a factor (K,) for each array of parameters, in place of one for
            each parameter.
        **options: of `maml`.

    Returns:
        The learner, as of `maml`; its parameters are those of `learned_rates`.

    Raises:
        ValueError: a size that cannot be, or factors for no step.
    """
    return maml(*learned_rates(problem, inner, per_step), outer, tasks, **options)
