"""Optimal values of a tabular Markov decision process."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .core import require

__all__ = ["value_iteration"]

Array = jax.Array


def value_iteration(
    transition: Array,
    reward: Array,
    *,
    horizon: int | Array | None = None,
    discount: float = 1.0,
    tolerance: float = 1e-6,
) -> Array:
    """Q*, float32 [S, A]: the greatest expected return after each action in each state.

    Its maximum over actions is the value of a state, its argmax an optimal action.

        Q_1 = R,    Q_{h+1}(s, a) = R(s, a) + γ Σ_s' P(s' | s, a) max_a' Q_h(s', a')

    Args:
      transition: float32 [S, A, S], P(s' | s, a).
      reward: float32 [S, A], the expected reward R(s, a).
      horizon: steps to go, () integer, at least 1; may be traced, so that one program serves all
        horizons. None is an infinite horizon, which requires a discount below 1.
      discount: γ in [0, 1].
      tolerance: error of the values for an infinite horizon, relative to max |R| / (1 - γ), between
        0 and 1.

    Raises:
      ValueError: a discount, a tolerance or a horizon out of range (a traced one is not compared),
        or arrays of other shapes, or not of floats.
    """
    moves, pays = jnp.shape(transition), jnp.shape(reward)
    fits = len(pays) == 2 and moves == (*pays, pays[0])
    kinds = [jnp.result_type(array) for array in (transition, reward)]
    fits &= all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)
    came = f"{kinds[0]} {moves} and {kinds[1]} {pays}"
    require("transition, reward", came, fits, "floats [S, A, S] and floats [S, A]")
    require("discount", discount, 0 <= discount <= 1, "a number from 0 to 1")
    if horizon is None:
        require("discount", discount, discount < 1, "less than 1 where there is no horizon")
        # Each backup shrinks the error by the discount. The number of backups is fixed on the host:
        # waiting until values stop changing could ask for more than float32 precision.
        require("tolerance", tolerance, 0 < tolerance < 1, "a number between 0 and 1")
        horizon = math.ceil(math.log(tolerance) / math.log(max(discount, 0.5)))
    else:
        whole = jnp.issubdtype(jnp.result_type(horizon), jnp.integer) and jnp.ndim(horizon) == 0
        least = whole and (isinstance(horizon, Tracer) or horizon >= 1)
        require("horizon", horizon, bool(least), "an integer of at least 1")

    def backup(_: Array, values: Array) -> Array:
        best = jnp.max(values, axis=-1)
        return reward + discount * jnp.sum(transition * best[None, None], axis=-1)

    return jax.lax.fori_loop(0, horizon, backup, jnp.zeros_like(reward))
