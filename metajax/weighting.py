"""Weighting rules: by a group's uncertainty, or by how far its training lags behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .checks import require_integer, require_number
from .groups import Measured, Weighting
from .types import Params, pytree_dataclass

__all__ = ["Running", "gradnorm", "uncertainty_weighting"]

Array = jax.Array

_RANGE = 100.0  # largest ratio of two groups, in one factor of a weight


@pytree_dataclass
class Running:
    """Measurements of each group."""

    first: Array  # (M, G) float32, of the first update that drew it
    mean: Array  # (M, G) float32, running mean
    seen: Array  # (G,) bool, whether it has been drawn yet


def _running(
    groups: int,
    group_of: Callable[[Any], Array],
    measure: Callable[[Any, Array, Params], tuple[Array, ...]],
    measures: int,
    rate: float,
    weights: Callable[[Running], Array],
) -> Weighting:
    require_integer("groups", groups, 2)
    require_number("rate", rate, 0, 1, above=True)

    def init() -> Running:
        first, mean = (jnp.zeros((measures, groups), jnp.float32) for _ in range(2))
        return Running(first, mean, jnp.zeros(groups, bool))  # no array twice: a state is donated

    def update(state: Running, measured: Measured) -> Running:
        drawn = (measured.share > 0) & jnp.all(jnp.isfinite(measured.mean), axis=0)
        first = jnp.where(state.seen[None], state.first, measured.mean)
        mean = jnp.where(state.seen[None], state.mean, measured.mean)
        mean = jnp.where(drawn[None], mean + jnp.float32(rate) * (measured.mean - mean), mean)
        return Running(first, mean, state.seen | drawn)

    def stacked(task: Any, score: Array, gradient: Params) -> Array:
        return jnp.stack([leaf.astype(jnp.float32) for leaf in measure(task, score, gradient)])

    return Weighting(groups, group_of, stacked, init, weights, update)


def _relative(value: Array, seen: Array) -> Array:
    """(G,): `value` relative to the largest, from 1 / _RANGE to 1; 1 where unknown."""
    largest = jnp.max(jnp.where(seen, value, 0.0))
    known = seen & (largest > 0)
    share = jnp.where(known, value / jnp.where(largest > 0, largest, 1.0), 1.0)
    return jnp.clip(share, 1.0 / _RANGE, 1.0)


def uncertainty_weighting(
    groups: int,
    group_of: Callable[[Any], Array],
    *,
    best: Callable[[Any], Array | float],
    rate: float = 0.05,
) -> Weighting:
    """Weights 1/σ_g², where σ_g² minimises L_g / σ_g² + log σ_g²: the running mean of L_g.

    Homoscedastic uncertainty (Kendall et al. 2018, arXiv 1705.07115, equation 7), with
    variances at their optimum instead of descending toward it. L is a task's shortfall from its
    best score: a squared error in regression, the regret in reinforcement learning. So groups count
    alike whatever the scale of their scores, and unsolvable ones do not drown the others; but what
    is merely hard, or learned late, counts little too.

    Args:
        groups: G, at least 2.
        group_of: task -> () int32 in 0..G-1.
        best: task -> () the best score possible, such as `env.optimal_return`; of regression, whose
            score is the negative error, `lambda task: 0.0`.
        rate: of the running means, in (0, 1].

    Raises:
        ValueError: a number out of range.
    """

    def measure(task: Any, score: Array, gradient: Params) -> tuple[Array, ...]:
        return (best(task) - score,)

    def weights(state: Running) -> Array:
        return 1.0 / _relative(state.mean[0], state.seen)

    return _running(groups, group_of, measure, 1, rate, weights)


def gradnorm(
    groups: int,
    group_of: Callable[[Any], Array],
    *,
    best: Callable[[Any], Array | float],
    asymmetry: float = 1.0,
    rate: float = 0.2,
) -> Weighting:
    """Weights that give each group's gradients a norm by how far its training lags behind.

    GradNorm (Chen et al. 2018, arXiv 1711.02257): w_g ‖∇L_g‖ is to be proportional to r_g^α, where
    r_g = L_g / L_g(0) is the remaining share of a group's loss (section 3.1). The weights solve
    that equation, over all parameters, instead of descending toward it. L is as in
    `uncertainty_weighting`; ‖∇L_g‖ is the mean of norms over a group's tasks, which does not depend
    on the group's size.

    Args:
        groups: G, at least 2.
        group_of: task -> () int32 in 0..G-1.
        best: task -> () the best score possible, such as `env.optimal_return`; of regression, whose
            score is the negative error, `lambda task: 0.0`.
        asymmetry: α, at least 0; 0 makes all norms equal.
        rate: of the running means, in (0, 1].

    Raises:
        ValueError: a number out of range.
    """
    require_number("asymmetry", asymmetry)

    def measure(task: Any, score: Array, gradient: Params) -> tuple[Array, ...]:
        return best(task) - score, optax.tree.norm(gradient)

    def weights(state: Running) -> Array:
        loss, norm = state.mean
        # A group that began with next to nothing to lose, or by chance with less, has no share.
        least = jnp.max(jnp.where(state.seen, state.first[0], 0.0)) / _RANGE
        left = loss / jnp.maximum(state.first[0], jnp.where(least > 0, least, 1.0))
        return _relative(left, state.seen) ** asymmetry / _relative(norm, state.seen)

    return _running(groups, group_of, measure, 2, rate, weights)
