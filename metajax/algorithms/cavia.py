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
    """`outer`, except that the context is not updated: it stays 0, where every task starts."""

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
    """MAML whose inner steps update only the context of a `networks.Conditioned` network.

    Every task starts from a context of 0, which the outer optimiser leaves unchanged; the network
    is slow (algorithms 1 and 2).

    ```python
    network = mj.networks.Conditioned(mj.networks.mlp_policy(env.action_space), size=5)
    problem = mj.policy_gradient(env, network, episodes=20)
    learner = mj.cavia(problem, mj.sgd(1.0, steps=1), optax.adam(1e-3), tasks=40)
    ```

    Args:
        problem: a problem whose network is a `networks.Conditioned`.
        inner: the inner optimiser, for the context.
        outer: the outer optimiser, for the network.
        tasks: N, tasks per update.
        **options: options of `maml`.

    Returns:
        The learner, as from `maml`.

    Raises:
        ValueError: an invalid size, or a problem whose network has no context.
    """
    check_parts(problem, inner, outer)
    inner = inner.among(Conditioned.is_context)
    return maml(problem, inner, fixed_context(outer), tasks, **options)
