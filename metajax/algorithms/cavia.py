"""CAVIA (Zintgraf et al. 2019): a task adapts a context vector, and nothing else."""

from __future__ import annotations

from typing import Unpack

import jax
import optax

from ..inner import Inner, check_parts, path_of
from ..networks import Conditioned
from ..types import MetaLearner, Params, Problem
from .maml import MAMLOptions, maml

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
    **options: Unpack[MAMLOptions],
) -> MetaLearner:
    """MAML whose inner steps change the context of a `networks.Conditioned` network alone.

    Every task starts at the context 0, which the outer optimiser leaves as it is; the network is
    slow (algorithms 1 and 2).

    ```python
    network = mj.networks.Conditioned(mj.mlp_policy(env.action_space), size=5)
    problem = mj.policy_gradient(env, network, episodes=20)
    learner = mj.cavia(problem, mj.sgd(1.0, steps=1), optax.adam(1e-3), tasks=40)
    ```

    Args:
        problem: one whose network is a `networks.Conditioned`.
        inner: the inner optimiser, of the context.
        outer: the outer optimiser, of the network.
        tasks: N, tasks of one update.
        **options: of `maml`.

    Returns:
        The learner, as of `maml`.

    Raises:
        ValueError: a size that cannot be, or a problem whose network has no context.
    """
    check_parts(problem, inner, outer)
    inner = inner._replace(fast=Conditioned.is_context)
    return maml(problem, inner, fixed_context(outer), tasks, **options)
