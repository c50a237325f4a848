"""A trust region: the longest step along the natural gradient that a divergence allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from .types import Params

__all__ = ["TrustRegion", "conjugate_gradients", "longest_step", "search"]

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """The step of TRPO (Schulman et al. 2015, arXiv 1502.05477, appendix C).

    Raises:
        ValueError: a number out of range.
    """

    bound: float = 0.01  # greatest mean divergence of a step
    solver_steps: int = 10  # of conjugate gradients
    damping: float = 1e-5  # added to the eigenvalues of the divergence's Hessian
    shrink: float = 0.8  # what a step that was refused is multiplied by
    attempts: int = 15  # steps that are tried, the longest first

    def __post_init__(self) -> None:
        for name in ("solver_steps", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.bound <= 0:
            raise ValueError(f"bound: expected above 0, got {self.bound}")
        if self.damping < 0:
            raise ValueError(f"damping: expected at least 0, got {self.damping}")
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink: expected above 0 and below 1, got {self.shrink}")


def _along(params: Params, scale: Array | float, direction: Params) -> Params:
    return jax.tree.map(lambda p, d: p + jnp.asarray(scale, p.dtype) * d, params, direction)


def _dot(one: Params, other: Params) -> Array:
    return jnp.asarray(optax.tree.vdot(one, other))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """0 where the denominator is not above 0: nothing is left to solve, or nothing can be."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def conjugate_gradients(
    product: Callable[[Params], Params], target: Params, steps: int
) -> tuple[Params, Params]:
    """x with A x ≈ `target`, A positive definite and given by its `product`; and the residual."""

    def step(_: Array, carry: tuple[Params, Params, Params, Array]) -> tuple[Params, ...]:
        solution, residual, direction, squared = carry
        image = product(direction)
        length = _ratio(squared, _dot(direction, image))
        solution = _along(solution, length, direction)
        residual = _along(residual, -length, image)
        left = _dot(residual, residual)
        return solution, residual, _along(residual, _ratio(left, squared), direction), left

    zeros = jax.tree.map(jnp.zeros_like, target)
    start = (zeros, target, target, _dot(target, target))
    solution, residual, *_ = jax.lax.fori_loop(0, steps, step, start)
    return solution, residual


def longest_step(
    region: TrustRegion, gradient: Params, product: Callable[[Params], Params]
) -> Params:
    """−s H⁻¹ g with ½ s² gᵀ H⁻¹ g the bound; H is the divergence's Hessian, with the damping."""
    solution, residual = conjugate_gradients(
        lambda vector: _along(product(vector), region.damping, vector),
        gradient,
        region.solver_steps,
    )
    # H x is the gradient less what is left of it.
    curvature = _dot(solution, optax.tree.sub(gradient, residual))
    length = -jnp.sqrt(_ratio(jnp.full_like(curvature, 2 * region.bound), curvature))
    return jax.tree.map(lambda leaf: length.astype(leaf.dtype) * leaf, solution)


def search(
    region: TrustRegion,
    params: Params,
    step: Params,
    judge: Callable[[Params], tuple[Array, Array]],
    loss: Array,
) -> tuple[Params, dict[str, Array]]:
    """The first of ever shorter steps after which the loss is lower and the divergence in bound.

    Args:
        region: how many are tried, and how much shorter each is.
        params: where the step begins; they stay where none will do.
        step: the longest one.
        judge: params -> the loss and the divergence there, () each.
        loss: of `params`, ().

    Returns:
        The new params; and "step_length", as a share of the longest one, 0 where none was taken,
        and "divergence" of the last step tried.
    """

    def length(tries: Array) -> Array:
        return jnp.float32(region.shrink) ** tries.astype(jnp.float32)

    def attempt(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tries, _, _ = carry
        reached, divergence = judge(_along(params, length(tries), step))
        return tries + 1, (reached < loss) & (divergence <= region.bound), divergence

    tries, accepted, divergence = jax.lax.while_loop(
        lambda carry: ~carry[1] & (carry[0] < region.attempts),
        attempt,
        (jnp.int32(0), jnp.array(False), jnp.zeros_like(loss)),
    )
    share = jnp.where(accepted, length(tries - 1), 0.0)
    # Chosen, not multiplied by 0: a step may not be finite.
    moved = _along(params, share, step)
    params = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved, params)
    return params, {"step_length": share, "divergence": divergence}
