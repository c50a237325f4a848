"""Surrogate objectives whose first derivative is the policy gradient.

They differ in their second derivative, which is what a meta-gradient through them sees. Each takes
log π_θ(a_t|s_t) (T, B), advantages A_t (T, B) and the mask of the steps taken (T, B), and returns a
scalar to be MAXIMISED: the sum over the steps taken. With g_t = ∇log π(a_t|s_t), the Hessian is

    log_prob      Σ_t A_t ∇²log π_t
    lvc           Σ_t A_t (∇²log π_t + g_t g_tᵀ)
    loaded_dice   Σ_t A_t (∇²log π_t + g_t g_tᵀ + g_t v_tᵀ + v_t g_tᵀ),  v_t = Σ_{j<t} λ^{t-j} g_j
    dice          the last with λ = 1, and returns to go in place of advantages

Where E[A_t | s_t, a_t] is an advantage, all have the expected gradient ∇J; the expected Hessian is
∇²J for λ = 1, and what the others leave out is their bias. `tests/metajax/test_estimators.py`
computes these expectations exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = [
    "SURROGATES",
    "Surrogate",
    "dice_surrogate",
    "loaded_dice_surrogate",
    "log_prob_surrogate",
    "lvc_surrogate",
    "masked_mean",
    "ratio_surrogate",
]

Array = jax.Array
Surrogate = Callable[[Array, Array, Array], Array]
"""log π (T, B), advantages (T, B), mask (T, B) -> (), to be maximised."""


def masked_mean(values: Array, mask: Array) -> Array:
    """The mean of `values` where `mask` is 1; 0 where nothing is."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def _one(log_weight: Array) -> Array:
    """1, whose derivative is that of `log_weight`: DiCE's magic box."""
    return jnp.exp(log_weight - jax.lax.stop_gradient(log_weight))


def log_prob_surrogate(log_prob: Array, advantage: Array, mask: Array) -> Array:
    """Σ log π · A, the surrogate of the original MAML (Finn et al. 2017).

    Its Hessian lacks g gᵀ: no credit for the sampling before adaptation.
    """
    return jnp.sum(log_prob * advantage * mask)


def lvc_surrogate(log_prob: Array, advantage: Array, mask: Array) -> Array:
    """Σ π_θ / sg(π_θ) · A: low variance curvature (Rothfuss et al. 2019, eq. 7).

    Its Hessian has g gᵀ, but no terms between different times.
    """
    return jnp.sum(_one(log_prob) * advantage * mask)


def loaded_dice_surrogate(
    log_prob: Array, advantage: Array, mask: Array, dice_lambda: float = 1.0
) -> Array:
    """Σ (f(w_t) − f(v_t)) A_t, w_t = λ w_{t-1} + log π_t, v_t = λ w_{t-1}, f(x) = exp(x − sg x).

    Loaded DiCE (Farquhar et al. 2019, arXiv 1909.10549, algorithm 1): λ = 0 is LVC, λ = 1 is DiCE
    with advantages, unbiased; in between, the past is discounted. Its value is 0.
    """

    def step(past: Array, now: Array) -> tuple[Array, Array]:
        return dice_lambda * (past + now), past

    # An episode's steps come first in its column, so what follows its end reaches none of them.
    past = jax.lax.scan(step, jnp.zeros_like(log_prob[0]), log_prob)[1]
    return jnp.sum((_one(past + log_prob) - _one(past)) * advantage * mask)


def dice_surrogate(log_prob: Array, reward: Array, mask: Array) -> Array:
    """Σ_t f(Σ_{j≤t} log π_j) r_t: DiCE (Foerster et al. 2018, eq. 7), of rewards, not advantages.

    Every derivative is unbiased and, without a baseline, of high variance. For a discounted
    objective, pass γ^t r_t as rewards; the value is the objective itself.
    """
    return jnp.sum(_one(jnp.cumsum(log_prob, axis=0)) * reward * mask)


def ratio_surrogate(
    log_prob: Array, behaviour: Array, advantage: Array, mask: Array, clip: float | None = None
) -> Array:
    """Σ r_t A_t, r = π_θ / π_b, for actions that another policy π_b drew.

    At π_θ = π_b it equals LVC, in value and in both derivatives; unlike LVC it stays right as θ
    moves on. With `clip` ε it is Σ min(r A, clip(r, 1 − ε, 1 + ε) A), which gains nothing from
    moving a ratio beyond these bounds (PPO; Rothfuss et al. 2019, eq. 9).

    Args:
        log_prob: log π_θ of the actions, (T, B).
        behaviour: log π_b of the actions, (T, B).
        advantage: A, (T, B).
        mask: 1 where a step was taken, (T, B) float.
        clip: ε; None: no clipping.
    """
    ratio = jnp.exp(log_prob - behaviour)
    gain = ratio * advantage
    if clip is not None:
        gain = jnp.minimum(gain, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
    return jnp.sum(gain * mask)


SURROGATES: dict[str, Surrogate] = {
    "lvc": lvc_surrogate,
    "log_prob": log_prob_surrogate,
    "loaded_dice": loaded_dice_surrogate,
    "dice": dice_surrogate,
}
