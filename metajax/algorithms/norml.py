"""NoRML (Yang et al. 2019, arXiv 1903.01063): the advantage function is meta-learned too."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ..checks import require_widths
from ..inner import Inner, check_parts
from ..networks import MLP
from ..slow import beside
from ..types import Batch, MetaLearner, Params, Problem
from .maml import MAMLOptions, maml

__all__ = ["learned_advantage", "norml"]

Array = jax.Array

_BOUND = 2.0  # of a learned advantage: with large inner rates, larger ones lead anywhere


def learned_advantage(
    problem: Problem, inner: Inner, *, hidden: Sequence[int] = (64,)
) -> tuple[Problem, Inner]:
    """`problem` with a meta-learned advantage, and `inner` with a meta-learned offset at its start.

    The meta-parameters are {"params": those of `problem`, "norml": {"critic": a network,
    "offset": as "params", 0 at first}}. The inner loss uses advantages A + A_ψ, where A_ψ is
    the critic's output for `problem.transitions`, 0 at first and within ±2. The first inner step
    adds the offset, so that the exploring policy need not be the one that adaptation starts from
    (the paper's equation 5, which has A_ψ alone). A_ψ teaches even where no episode was rewarded:
    what a wall is, and what was not seen yet.

    Args:
        problem: a policy-gradient problem, preferably with normalised advantages: the bound is in
            their units.
        inner: the inner optimiser.
        hidden: widths of the critic's hidden layers, or that of one.

    Returns:
        The problem and the inner optimiser with these meta-parameters.

    Raises:
        ValueError: a problem without advantages, or a width below 1.
    """
    check_parts(problem, inner)
    if problem.transitions is None:
        raise ValueError("problem: a learned advantage is for policy gradients of advantages")
    transitions = problem.transitions
    critic = MLP((*require_widths(hidden), 1), last_kernel_init=nn.initializers.zeros)

    @functools.cache
    def width() -> int:
        """Number of features; cached, as finding it means tracing a rollout."""

        def features(key: Array) -> Array:
            played = problem.collect(problem.init(key), problem.sample_task(key), key)
            return transitions(played)[0]

        return jax.eval_shape(features, jax.random.key(0)).shape[-1]

    def init(key: Array, params: Params) -> Params:
        offset = jax.tree.map(jnp.zeros_like, params)
        return {"critic": critic.init(key, jnp.zeros((1, width()))), "offset": offset}

    def begin(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params

        def moved(update: Array | None, offset: Array) -> Array | None:
            return None if update is None else update + jnp.where(state == 0, offset, 0.0)

        offset = extra["slow"]["offset"]
        changes = jax.tree.map(moved, updates, offset, is_leaf=lambda leaf: leaf is None)
        return changes, state + 1

    elsewhere = optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), begin)
    optimizer = optax.chain(inner.optimizer, elsewhere)
    learning, adapting = beside(problem, inner, "norml", init, optimizer)

    def inner_loss(meta: Params, batch: Batch, **learned: Array) -> tuple[Array, Any]:
        features, known = transitions(batch)
        flat = features.reshape(-1, features.shape[-1])
        worth: Any = critic.apply(meta["norml"]["critic"], flat)
        bonus = _BOUND * jnp.tanh(worth).reshape(known.shape) * known
        return learning.inner_loss(meta, batch, bonus=bonus, **learned)

    # Inner steps by the probability ratio (`promp`) would ignore the learned advantage.
    return learning._replace(inner_loss=inner_loss, ratio_loss=None), adapting


def norml(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    hidden: Sequence[int] = (64,),
    **options: Unpack[MAMLOptions],
) -> MetaLearner:
    """MAML whose inner loss has a learned advantage, see `learned_advantage`.

    Args:
        problem: a policy-gradient problem, preferably with normalised advantages.
        inner: the inner optimiser.
        outer: the outer optimiser, for the policy, the critic and the offset.
        tasks: N, tasks per update.
        hidden: widths of the critic's hidden layers.
        **options: options of `maml`.

    Returns:
        The learner, as from `maml`; its parameters are those of `learned_advantage`.

    Raises:
        ValueError: an invalid size, or a problem without advantages.
    """
    learned = learned_advantage(problem, inner, hidden=hidden)
    return maml(*learned, outer, tasks, **options)
