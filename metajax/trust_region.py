"""A trust region: the longest step along the natural gradient that a divergence allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .checks import require_integer, require_number
from .types import Params

__all__ = ["TrustRegion", "conjugate_gradients", "longest_step", "search"]

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """The step of TRPO (Schulman et al. 2015, arXiv 1502.05477, appendix C).

    Attributes:
        bound: greatest mean divergence of a step.
        solver_steps: of conjugate gradients.
        damping: added to the eigenvalues of the divergence's Hessian.
        shrink: factor on a step that was refused, between 0 and 1.
        attempts: steps to try, the longest first.

    Raises:
        ValueError: a number out of range.
    """

    bound: float = 0.01
    solver_steps: int = 10
    damping: float = 1e-5
    shrink: float = 0.8
    attempts: int = 15

    def __post_init__(self) -> None:
        for name in ("solver_steps", "attempts"):
            require_integer(name, getattr(self, name), 1)
        require_number("bound", self.bound, above=True)
        require_number("damping", self.damping)
        require_number("shrink", self.shrink, 0, 1, above=True, below=True)


def _dot(one: Array, other: Array) -> Array:
    """In full precision, which is not an accelerator's default."""
    return jnp.vdot(one, other, precision="highest")


def _ratio(numerator: Array | float, denominator: Array) -> Array:
    """0 where the denominator is not above 0: nothing is left to solve, or it cannot be solved."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def conjugate_gradients(
    product: Callable[[Params], Params], target: Params, steps: int
) -> tuple[Params, Params]:
    """x with A x ≈ `target`, A positive definite and given as a `product`; and the residual.

    Along a direction of no positive curvature, which such an A does not have, it ends, as Steihaug
    (1983) does but without a step to an edge; where that is the first one, with `target` itself.
    """
    vector, restore = ravel_pytree(target)  # so that a step is a few kernels, not a few per leaf

    def step(number: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        solution, residual, direction, squared, going = carry
        image = ravel_pytree(product(restore(direction)))[0]
        curvature = _dot(direction, image)
        first, goes = number == 0, going & ~(curvature <= 0)
        length = jnp.where(goes, _ratio(squared, curvature), 0)
        length = jnp.where(first & ~goes, 1, length)  # whose direction is the target
        solution = solution + length * direction
        residual = residual - length * image
        left = _dot(residual, residual)
        return solution, residual, residual + _ratio(left, squared) * direction, left, goes

    going = jnp.array(True)
    start = (jnp.zeros_like(vector), vector, vector, _dot(vector, vector), going)
    solution, residual, *_ = jax.lax.fori_loop(0, steps, step, start)
    return restore(solution), restore(residual)


def longest_step(
    region: TrustRegion, gradient: Params, product: Callable[[Params], Params]
) -> Params:
    """−s H⁻¹ g with ½ s² gᵀ H⁻¹ g = `bound`; H is the divergence's Hessian plus the damping."""
    damping = region.damping

    def damped(vector: Params) -> Params:
        return jax.tree.map(lambda v, image: image + damping * v, vector, product(vector))

    solved, left = conjugate_gradients(damped, gradient, region.solver_steps)
    (solution, restore), (residual, _) = ravel_pytree(solved), ravel_pytree(left)
    # H x is the gradient minus the residual.
    curvature = _dot(solution, ravel_pytree(gradient)[0] - residual)
    return restore(-jnp.sqrt(_ratio(2 * region.bound, curvature)) * solution)


def search(
    region: TrustRegion,
    params: Params,
    step: Params,
    judge: Callable[[Params], tuple[Array, Array]],
    loss: Array,
) -> tuple[Params, dict[str, Array]]:
    """Backtracks to the first step that lowers the loss with the divergence within its bound.

    Args:
        region: how many steps to try, how much shorter each is, and the bound.
        params: where the step begins; kept if no step is accepted.
        step: the longest one, shaped as `params`.
        judge: params -> the loss and the divergence there, () each.
        loss: of `params`, ().

    Returns:
        The new params; and "step_length", relative to the longest one, 0 if none was taken,
        and "divergence" of the last step tried.
    """

    (start, restore), (along, _) = ravel_pytree(params), ravel_pytree(step)

    def length(tries: Array) -> Array:
        return jnp.float32(region.shrink) ** tries.astype(jnp.float32)

    def after(length: Array) -> Array:
        return start + length.astype(start.dtype) * along

    def attempt(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        tries, _, _ = carry
        reached, divergence = judge(restore(after(length(tries))))
        return tries + 1, (reached < loss) & (divergence <= region.bound), divergence

    tries, accepted, divergence = jax.lax.while_loop(
        lambda carry: ~carry[1] & (carry[0] < region.attempts),
        attempt,
        (jnp.int32(0), jnp.array(False), jnp.zeros_like(loss)),
    )
    share = jnp.where(accepted, length(tries - 1), 0.0)
    # Selected, not multiplied by 0: a step may not be finite.
    moved = jnp.where(accepted, after(share), start)
    return restore(moved), {"step_length": share, "divergence": divergence}
