"""The derivative of an adaptation, from its record.

Step k contributes v ← v − (∂update/∂gradient) H_k v, and H_k v is a forward-mode derivative of the
recorded gradient's function (forward over reverse, arXiv 2505.00793). Of the forward pass only the
batches and, of the parameters' size, where each step started are kept, so memory does not grow with
the network's activations over K, and no rollout lies inside a differentiated function. The
meta-gradient of slow parameters is the mixed derivative, from the same product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from . import jaxprs
from .fused import once_differentiated
from .inner import Inner, Record, descend, judge_of, loss_of_parts, merge
from .types import Batch, Params, Problem

__all__ = [
    "Order",
    "hessian_product",
    "losses_along",
    "pushforward",
    "replay",
    "replay_path",
    "starts",
]

Array = jax.Array
Order = bool | Array  # whether to take first-order derivatives


def hessian_product(
    problem: Problem, fast: Params, slow: Params, batch: Batch, vector: Params
) -> tuple[Params, Params]:
    """(∂g/∂fast)ᵀ · vector and (∂g/∂slow)ᵀ · vector, g the inner gradient by the fast parameters.

    With constant targets ∂g/∂fast is a Hessian, hence symmetric, and the products are the
    forward-mode derivative of the whole gradient as the fast parameters move. Where a loss
    bootstraps, its targets move too, which adds an asymmetric term, taken in reverse mode.

    Args:
        problem: the meta-learning problem.
        fast: fast parameters, as `Inner.split` gives them.
        slow: slow parameters, likewise.
        batch: what the inner loss is of.
        vector: shaped as `fast`.

    Returns:
        Two pytrees, shaped as `fast` and as `slow`.
    """
    loss = problem.inner_loss
    gradient = jax.grad(loss_of_parts(loss), argnums=(0, 1))
    products = jax.jvp(lambda fast: gradient(fast, slow, batch), (fast,), (vector,))[1]
    if not problem.bootstraps:
        return products

    def by_targets(fast_target: Params, slow_target: Params) -> Params:
        target = merge(fast_target, slow_target)
        return jax.grad(lambda fast: loss(merge(fast, slow), batch, target=target)[0])(fast)

    moved = jax.vjp(by_targets, fast, slow)[1](vector)
    return jax.tree.map(jnp.add, products, moved)


class _Closed(NamedTuple):
    """An argument, with values that a function of it closed over."""

    given: Any
    over: Any


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recorded_gradient(
    product: Callable[..., tuple[Params, Params]],
    fast: Params,
    slow: Params,
    batch: Batch,
    gradient: Params,
    first_order: Array | None,
) -> Params:
    """∂loss/∂fast, already known as `gradient`; differentiable once in the parameters."""
    del product, fast, slow, batch, first_order
    return gradient


def _recorded_forward(
    product: Callable[..., tuple[Params, Params]],
    fast: Params,
    slow: Params,
    batch: Batch,
    gradient: Params,
    first_order: Array | None,
) -> tuple[Params, Any]:
    del product
    return gradient, (fast, slow, batch, first_order)


def _recorded_backward(product: Callable[..., Any], residual: Any, cotangent: Params) -> Any:
    fast, slow, batch, first_order = residual

    def second_order() -> tuple[Params, Params]:
        return product(fast, slow, batch, cotangent)

    def nothing() -> tuple[Params, Params]:
        return jax.tree.map(jnp.zeros_like, (fast, slow))

    if first_order is None:
        return *second_order(), None, None, None
    return *jax.lax.cond(first_order, nothing, second_order), None, None, None


_recorded_gradient.defvjp(_recorded_forward, _recorded_backward)


@jax.custom_vjp
def _valued(value: Params, found: Params) -> Params:
    """`value`, with the derivative of `found`, which is equal to it.

    What computes `found` is then dead code but for its derivative. Plain descent's needs no
    gradient, so of K steps only where they started is kept.
    """
    del found
    return value


_valued.defvjp(lambda value, found: (value, None), lambda _, cotangent: (None, cotangent))


def replay(
    problem: Problem, inner: Inner, params: Params, record: Record, first_order: Order = False
) -> Params:
    """θ_K as a function of θ_0 over frozen batches: the values of `run`, and their derivative.

    It can be differentiated once, in reverse mode: the meta-objective has no second derivative
    through it.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser.
        params: θ_0; those that collected the record or, if it has no gradients, any.
        record: one task's adaptation.
        first_order: whether the recorded gradients are constants (FOMAML); with an array () the
            program has both orders and takes one.
    """
    gradient = _once_differentiable(problem, first_order)
    return _replay(problem, inner, params, record, gradient, keep=False)[0]


def replay_path(
    problem: Problem, inner: Inner, params: Params, record: Record, first_order: Order = False
) -> tuple[Params, Batch]:
    """As `replay`, but θ_1, ..., θ_K and the batches that judge them, with a leading axis K each.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser.
        params: θ_0.
        record: one task's adaptation.
        first_order: as in `replay`.
    """
    gradient = _once_differentiable(problem, first_order)
    path = _replay(problem, inner, params, record, gradient, keep=True)[1]
    if problem.on_policy:
        judged = jax.tree.map(
            lambda all, last: jnp.concatenate([all[1:], last[None]]), record.batches, record.judged
        )
    else:  # one query set judges every step
        judged = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (inner.steps, *leaf.shape)), record.judged
        )
    return path, judged


def losses_along(
    problem: Problem, path: Params, judged: Batch, record: Record
) -> tuple[Array, dict[str, Array]]:
    """The outer losses after each inner step, (K,), and the metrics of the last.

    On-policy, the batch that judges step k is the one that step k+1 descended on. If that was by
    the same loss, its value and gradient are in the record's `judgements` and are not computed
    again: the loss is then linear in θ_k, without a second derivative.

    Args:
        problem: the meta-learning problem.
        path: θ_1, ..., θ_K, from `replay_path`.
        judged: the batch that judges each, from `replay_path`.
        record: of the steps.
    """
    judge = judge_of(problem)
    if record.judgements is None:
        losses, aux = jax.lax.map(lambda step: judge(*step), (path, judged))
        return losses, jax.tree.map(lambda leaf: leaf[-1], aux)
    losses, grads = jax.tree.map(lambda leaf: leaf[1:], record.judgements)

    def change(at: Array, grad: Array) -> Array:
        moved = at[:-1] - jax.lax.stop_gradient(at[:-1])
        return jnp.sum(moved * grad, axis=tuple(range(1, grad.ndim)))

    changes = jax.tree.leaves(jax.tree.map(change, path, grads))
    loss, aux = judge(jax.tree.map(lambda leaf: leaf[-1], path), record.judged)
    return jnp.concatenate([losses + sum(changes), loss[None]]), aux


def starts(params: Params, path: Params) -> Params:
    """θ_0, ..., θ_{K-1}, where the steps that led along `path` to θ_1, ..., θ_K began."""
    return jax.tree.map(
        lambda first, later: jnp.concatenate([first[None], later[:-1]]), params, path
    )


def pushforward(
    problem: Problem, inner: Inner, params: Params, record: Record, tangent: Params
) -> Params:
    """∂θ_K/∂θ_0 · `tangent` over frozen batches, in forward mode; `replay` has the transpose.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser.
        params: θ_0.
        record: one task's adaptation.
        tangent: shaped as `params`.
    """
    record = dataclasses.replace(record, path=None)  # whose use has a reverse mode alone

    def gradient(fast: Params, slow: Params, batch: Batch, recorded: Params) -> Params:
        del recorded
        return jax.grad(loss_of_parts(problem.inner_loss))(fast, slow, batch)

    def adapted(params: Params) -> Params:
        return _replay(problem, inner, params, record, gradient, keep=False)[0]

    return jax.jvp(adapted, (params,), (tangent,))[1]


def _once_differentiable(problem: Problem, first_order: Order) -> Callable[..., Params]:
    """The gradient of an inner step, taken from the record if it is there, with its derivative."""
    order = None if first_order is False else first_order
    loss = problem.inner_loss

    def gradient(fast: Params, slow: Params, batch: Batch, recorded: Params) -> Params:
        if recorded is None:
            here = jax.lax.stop_gradient((fast, slow))
            recorded = jax.grad(loss_of_parts(loss))(*here, batch)
        if first_order is True:
            return recorded
        explicit, constants = _explicit(problem, merge(fast, slow), batch)
        product = partial(hessian_product, explicit)
        if constants is None:
            return _recorded_gradient(product, fast, slow, batch, recorded, order)
        floats, others = constants
        parts = _Closed(fast, None), _Closed(slow, floats), _Closed(batch, others)
        known: Any = _recorded_gradient(product, *parts, _Closed(recorded, None), order)
        return known.given

    return gradient


def _explicit(problem: Problem, params: Params, batch: Batch) -> tuple[Problem, Any]:
    """`problem` whose inner loss is given what it closes over, and those values, if any is traced.

    A custom derivative may close over no traced value: a discount that `vmap` sweeps, say. Those
    that are floats are slow parameters then, with a derivative of their own.
    """

    def loss(params: Params, batch: Batch, target: Params) -> tuple[Array, Any]:
        named = {"target": target} if problem.bootstraps else {}
        return problem.inner_loss(params, batch, **named)

    with once_differentiated():
        trace = jaxprs.traced(loss, params, batch, params)
    if not any(isinstance(constant, Tracer) for constant in trace.constants):
        return problem, None
    is_float = [jnp.issubdtype(jnp.result_type(each), jnp.floating) for each in trace.constants]

    def given(params: _Closed, batch: _Closed, target: _Closed | None = None) -> Any:
        target = jax.lax.stop_gradient(params) if target is None else target
        floats, others = iter(params.over), iter(batch.over)
        constants = [next(floats if chosen else others) for chosen in is_float]
        return trace.function(constants, params.given, batch.given, target.given)

    chosen = list(zip(trace.constants, is_float, strict=True))
    constants = [[each for each, of_kind in chosen if of_kind is kind] for kind in (True, False)]
    return problem._replace(inner_loss=given), constants


def _replay(
    problem: Problem,
    inner: Inner,
    params: Params,
    record: Record,
    gradient: Callable[..., Params],
    keep: bool,
) -> tuple[Params, Params | None]:
    """θ_K, and where `keep` is set θ_1, ..., θ_K."""
    fast, slow = inner.split(params)

    def step(carry: tuple[Params, Any], recorded: Any) -> tuple[tuple[Params, Any], Any]:
        fast, opt_state = carry
        batch, grads, at = recorded
        fast = fast if at is None else _valued(at, fast)
        grads = gradient(fast, slow, record.batches if batch is None else batch, grads)
        carry = descend(inner.optimizer, grads, opt_state, fast, meta=params)
        return carry, merge(carry[0], slow) if keep else None

    batches = record.batches if problem.on_policy else None
    carry = (fast, inner.optimizer.init(fast))
    is_known = record.gradients is not None and record.path is not None
    steps = (batches, record.gradients, record.path if is_known else None)
    (adapted, _), path = jax.lax.scan(step, carry, steps, length=inner.steps)
    return merge(_valued(record.adapted, adapted) if is_known else adapted, slow), path
