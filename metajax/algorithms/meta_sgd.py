"""Meta-SGD (Li et al. 2017): the inner rates are learned, one for each parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..inner import Inner
from ..mapping import Mapping
from ..types import MetaLearner, Params, Problem
from .maml import maml

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
    if per_step and inner.steps < 1:
        raise ValueError(f"inner steps: rates per step need at least 1, got {inner.steps}")

    def init(key: Array) -> Params:
        params = problem.init(key)

        def ones(leaf: Array) -> Array:
            return jnp.ones((inner.steps,) if per_step else leaf.shape, leaf.dtype)

        return {"params": params, "rates": jax.tree.map(ones, params)}

    def of_params(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda meta, *args: function(meta["params"], *args)

    def scale(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params
        rates = extra["meta"]["rates"]

        def scaled(update: Array | None, rate: Array) -> Array | None:
            if update is None:  # a slow parameter
                return None
            return update * (rate[jnp.minimum(state, len(rate) - 1)] if per_step else rate)

        changes = jax.tree.map(scaled, updates["params"], rates, is_leaf=lambda leaf: leaf is None)
        return {**updates, "params": changes}, state + 1

    def fast(path: str) -> bool:
        where, _, rest = path.partition("/")
        return where == "params" and (inner.fast is None or inner.fast(rest))

    factors = optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), scale)
    return (
        problem._replace(
            init=init,
            collect=of_params(problem.collect),
            inner_loss=of_params(problem.inner_loss),
            outer_loss=of_params(problem.outer_loss),
            query=problem.query and of_params(problem.query),
            log_prob=problem.log_prob and of_params(problem.log_prob),
        ),
        inner._replace(optimizer=optax.chain(inner.optimizer, factors), fast=fast),
    )


def meta_sgd(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    per_step: bool = False,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """MAML whose inner rates are learned with the initialisation, see `learned_rates`.

    One factor a parameter is Meta-SGD (equation 6); with `per_step`, one for each array of them and
    inner step is what MAML++ learns (Antoniou et al. 2019, section 4). The rest is as in `maml`.

    Raises:
        ValueError: a size that cannot be, or factors for no step.
    """
    return maml(*learned_rates(problem, inner, per_step), outer, tasks, mapping=mapping)
