"""CAVIA (Zintgraf et al. 2019): a task adapts a context vector, and nothing else."""

from __future__ import annotations

import jax
import optax

from ..inner import Inner, path_of
from ..mapping import Mapping
from ..networks import Conditioned
from ..types import MetaLearner, Params, Problem
from .core import check_optimizer
from .maml import maml

__all__ = ["cavia", "fixed_context"]


def fixed_context(outer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`outer` for all parameters but the context, which stays 0: what every task starts from."""

    def is_context(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: Conditioned.is_context(path_of(path)), params
        )

    return optax.chain(optax.masked(optax.set_to_zero(), is_context), outer)


def cavia(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """MAML whose inner steps change the context of a `networks.Conditioned` network alone.

    Every task starts at the context 0, which the outer optimiser leaves as it is; the network is
    slow (algorithms 1 and 2). The arguments are those of `maml`.

    Raises:
        ValueError: a size that cannot be, or a problem whose network has no context.
    """
    check_optimizer(outer)
    inner = inner._replace(fast=Conditioned.is_context)
    return maml(problem, inner, fixed_context(outer), tasks, mapping=mapping)
