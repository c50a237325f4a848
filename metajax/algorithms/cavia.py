"""CAVIA (Zintgraf et al. 2019): a task adapts a context vector, and nothing else."""

from __future__ import annotations

from typing import Unpack

import jax
import optax

from ..inner import Inner, check_parts, parameter_paths
from ..networks import Conditioned
from ..types import MetaLearner, Params, Problem
from .maml import MAMLOptions, maml

__all__ = ["cavia", "fixed_context"]


def fixed_context(
    inner: Inner, outer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`outer`, except that what `inner` adapts, the context, stays 0, where every task starts.

    Its gradient is kept from the optimiser, whose clipping it has no part in, and so is what the
    optimiser makes of none, such as noise, from the context.
    """

    def is_fast(params: Params) -> Params:
        fast, _ = inner.split(params)
        return jax.tree.map(lambda leaf: leaf is not None, fast, is_leaf=lambda leaf: leaf is None)

    none = optax.masked(optax.set_to_zero(), is_fast)
    return optax.chain(none, outer, none)


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
    paths = parameter_paths(problem)
    if not any(map(Conditioned.is_context, paths)):
        raise ValueError(
            "problem: expected one whose network is a `networks.Conditioned(network, size)`, got "
            f"parameters without a context: {', '.join(paths)}"
        )
    inner = inner.among(Conditioned.is_context)
    return maml(problem, inner, fixed_context(inner, outer), tasks, **options)
