"""Does the layout of tasks on hardware affect what is learned?"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import metajax as mj

__all__ = ["apart", "one_update"]


def _after(learner: mj.MetaLearner, state: mj.MetaState, updates: int) -> jax.Array:
    """All parameters after some updates, as one vector."""
    update = one_update(learner)
    state = jax.tree.map(jnp.copy, state)
    for _ in range(updates):
        state, _ = update(state)
    return _vector(state)


def one_update(learner: mj.MetaLearner) -> jax.stages.Wrapped:
    """One update, compiled as in training; it donates its argument's memory."""
    return jax.jit(learner.update, donate_argnums=0, compiler_options=mj.compiler_options())


def _vector(state: mj.MetaState) -> jax.Array:
    return ravel_pytree(jax.device_get(state.params))[0]


def apart(
    learner: mj.MetaLearner,
    plain: mj.MetaLearner,
    state: mj.MetaState,
    updates: int,
    precision: str | None = None,
) -> float:
    """How far two learners that differ only in layout have diverged after some updates.

    The distance between their parameters, relative to how far those of `plain` have moved.

    Args:
        learner: the learner to judge.
        plain: the reference.
        state: where both start.
        updates: how many updates they take.
        precision: of the matrix products of `plain`; jax's default if None.
    """
    ours = _after(learner, state, updates)
    with jax.default_matmul_precision(precision):
        theirs = _after(plain, state, updates)
    return float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs - _vector(state)))
