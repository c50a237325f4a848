"""Optimal values of a tabular Markov decision process."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

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
      horizon: steps to go, at least 1; may be traced, so that one program serves all horizons. None
        is an infinite horizon, which requires a discount below 1.
      discount: γ in [0, 1].
      tolerance: error of the values for an infinite horizon, relative to max |R| / (1 - γ).

    Raises:
      ValueError: a discount out of range.
    """
    require("discount", discount, 0 <= discount <= 1, "a number from 0 to 1")
    if horizon is None:
        require("discount", discount, discount < 1, "less than 1 where there is no horizon")
        # Each backup shrinks the error by the discount. The number of backups is fixed on the host:
        # waiting until values stop changing could ask for more than float32 precision.
        horizon = math.ceil(math.log(tolerance) / math.log(max(discount, 0.5)))

    def backup(_: Array, values: Array) -> Array:
        best = jnp.max(values, axis=-1)
        return reward + discount * jnp.sum(transition * best[None, None], axis=-1)

    return jax.lax.fori_loop(0, horizon, backup, jnp.zeros_like(reward))
