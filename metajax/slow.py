"""Slow parameters beside those of a problem: rates, hyper-parameters, a learned optimiser."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import jax
import optax

from .inner import Inner
from .types import Params, Problem

__all__ = ["beside", "of_params"]

Array = jax.Array


def of_params(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of parameters (and of `target`, if given) as one of meta-parameters."""

    def of_meta(meta: Params, *args: Any, **named: Any) -> Any:
        if "target" in named:
            named["target"] = named["target"]["params"]
        return function(meta["params"], *args, **named)

    return of_meta


def beside(
    problem: Problem,
    inner: Inner,
    name: str,
    init: Callable[[Array, Params], Any],
    optimizer: optax.GradientTransformation,
) -> tuple[Problem, Inner]:
    """`problem` with meta-parameters {"params": its own, `name`: more}; the latter are slow.

    Args:
        problem: the meta-learning problem.
        inner: decides which of its own parameters are fast, and how many steps they take.
        name: of the additional parameters.
        init: key, params -> the additional parameters.
        optimizer: replaces `inner.optimizer`. Its `update` may take `meta`, the problem's own
            meta-parameters, and `slow`, the additional ones.

    Returns:
        The problem and the inner optimiser with these meta-parameters.
    """
    chained = optax.with_extra_args_support(optimizer)

    def init_all(key: Array) -> Params:
        params = problem.init(key)  # as the problem alone would have them
        # Folded in by name, as in flax: no group of another name has the same key.
        key_beside = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return {"params": params, name: init(key_beside, params)}

    def init_state(params: Any) -> Any:
        return chained.init(params["params"])

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        if jax.tree.leaves({**updates, "params": None}):
            raise ValueError(f"fast parameters: expected none of {name!r}, which are slow")
        meta = extra["meta"]
        parts = {"meta": meta["params"], "slow": meta[name]}
        own = None if params is None else params["params"]
        changes, state = chained.update(updates["params"], state, own, **parts)
        return {**updates, "params": changes}, state

    def fast(path: str) -> bool:
        where, _, rest = path.partition("/")
        return where == "params" and (inner.fast is None or inner.fast(rest))

    inner_loss = of_params(problem.inner_loss)
    one_loss = problem.outer_loss is problem.inner_loss  # which learners make use of
    return (
        problem._replace(
            init=init_all,
            collect=of_params(problem.collect),
            inner_loss=inner_loss,
            outer_loss=inner_loss if one_loss else of_params(problem.outer_loss),
            query=problem.query and of_params(problem.query),
            log_prob=problem.log_prob and of_params(problem.log_prob),
            ratio_loss=problem.ratio_loss and of_params(problem.ratio_loss),
            divergence=problem.divergence
            and problem.divergence._replace(outputs=of_params(problem.divergence.outputs)),
        ),
        inner._replace(
            optimizer=optax.GradientTransformationExtraArgs(init_state, update),
            fast=fast,
        ),
    )
