"""The inner process: what a task does to the parameters, and how to differentiate through it.

Adaptation runs once, forward, and records its batches and gradients. Its derivative is taken
afterwards from that record: step k contributes v ← v − (∂update/∂gradient) H_k v, and H_k v is a
forward-mode derivative of the recorded gradient's function (forward over reverse, arXiv
2505.00793). Nothing that the forward pass computed is kept but K parameter-sized records and the
batches, so memory does not grow with the network's activations over K, and no rollout lies inside
a differentiated function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .mapping import tiled
from .types import Batch, Params, Problem, Trace, pytree_dataclass

__all__ = ["Inner", "Record", "adam", "descend", "replay", "replay_path", "run", "sgd"]

Array = jax.Array


class Inner(NamedTuple):
    """An inner optimiser: any optax transformation, taken `steps` times."""

    optimizer: optax.GradientTransformation
    steps: int  # K

    def check(self) -> None:
        """Raises ValueError for a negative number of steps."""
        if self.steps < 0:
            raise ValueError(f"inner steps: expected at least 0, got {self.steps}")


def _schedule(learning_rate: float | Sequence[float]) -> float | Callable[[Any], Array]:
    rates = [learning_rate] if isinstance(learning_rate, (int, float)) else list(learning_rate)
    if not rates or min(rates) <= 0:
        raise ValueError(f"inner learning rate: expected above 0, got {learning_rate}")
    if len(rates) == 1:
        return float(rates[0])
    table = jnp.asarray(rates, jnp.float32)
    return lambda count: table[jnp.minimum(count, len(rates) - 1)]


def sgd(learning_rate: float | Sequence[float], steps: int = 1) -> Inner:
    """Gradient descent with a rate α, or one rate a step whose last goes on for ever.

    Raises:
        ValueError: a rate is not above 0.
    """
    return Inner(optax.sgd(_schedule(learning_rate)), steps)


def adam(learning_rate: float | Sequence[float], steps: int = 1) -> Inner:
    """Adam whose meta-gradient is finite where a gradient is exactly 0 (hence `eps_root`)."""
    return Inner(optax.adam(_schedule(learning_rate), eps_root=1e-8), steps)


def descend(
    optimizer: optax.GradientTransformation, grads: Params, opt_state: Any, params: Params
) -> tuple[Params, Any]:
    """One step of an optax transformation: the new parameters and its new state."""
    # optax promotes dtypes implicitly, which a user's strict setting would refuse.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def _gradient(loss: Callable[..., Any], params: Params, batch: Batch) -> Params:
    return jax.grad(loss, has_aux=True)(params, batch)[0]


@pytree_dataclass
class Record:
    """One task's adaptation: enough to differentiate it without running it again."""

    batches: Batch  # K batches with a leading axis K, or the support batch that all steps share
    gradients: Params  # leading axis K
    judged: Batch  # what the adapted parameters are judged by


def run(
    problem: Problem, inner: Inner, params: Params, task: Any, key: Array, tile: int | None = None
) -> tuple[Params, Record, Trace]:
    """Adapts `params` to one task in K steps. Returns θ_K, the record and the trace."""
    key_steps, key_judged = jax.random.split(key)
    gradient = tiled(
        lambda theta, batch: jax.grad(problem.inner_loss, has_aux=True)(theta, batch)[0], tile
    )
    if problem.on_policy:
        support = None
        collect = problem.collect
    else:
        support = problem.collect(params, task, key_steps)
        assert problem.query is not None
        collect = problem.query

    def step(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], Any]:
        theta, opt_state = carry
        batch = collect(theta, task, key)
        grads = gradient(theta, batch if support is None else support)
        kept = batch if support is None else None
        record = (kept, grads, problem.score(batch), problem.samples(batch))
        return descend(inner.optimizer, grads, opt_state, theta), record

    keys = jax.random.split(key_steps, inner.steps)
    if not problem.on_policy:  # one query set judges every step
        keys = jnp.broadcast_to(key_judged, (inner.steps,))
    carry, (batches, gradients, scores, samples) = jax.lax.scan(
        step, (params, inner.optimizer.init(params)), keys
    )
    adapted = carry[0]
    judged = collect(adapted, task, key_judged)
    if support is None:
        used = jnp.sum(samples, dtype=jnp.int32)
    else:
        batches, used = support, problem.samples(support) if inner.steps else jnp.int32(0)
    trace = Trace(
        score=jnp.concatenate([scores, problem.score(judged)[None]]),
        samples=used + problem.samples(judged),
    )
    return adapted, Record(batches, gradients, judged), trace


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recorded_gradient(
    loss: Callable[..., Any], params: Params, batch: Batch, gradient: Params
) -> Params:
    """∇loss(params, batch), known already to be `gradient`; differentiable in `params`, once."""
    del loss, params, batch
    return gradient


def _recorded_forward(
    loss: Callable[..., Any], params: Params, batch: Batch, gradient: Params
) -> tuple[Params, Any]:
    del loss
    return gradient, (params, batch)


def _recorded_backward(loss: Callable[..., Any], residual: Any, cotangent: Params) -> Any:
    params, batch = residual
    # The Hessian is symmetric, so its transpose is its forward-mode derivative.
    gradient = partial(_gradient, loss, batch=batch)
    return jax.jvp(gradient, (params,), (cotangent,))[1], None, None


_recorded_gradient.defvjp(_recorded_forward, _recorded_backward)


def replay(
    problem: Problem, inner: Inner, params: Params, record: Record, first_order: bool = False
) -> Params:
    """θ_K as a function of θ_0 over frozen batches: the values of `run`, and their derivative.

    With `first_order` the recorded gradients are constants (FOMAML). Reverse mode, once: a second
    derivative of the meta-objective is not available through it.
    """
    return _replay(problem, inner, params, record, first_order, keep=False)[0]


def replay_path(
    problem: Problem, inner: Inner, params: Params, record: Record, first_order: bool = False
) -> tuple[Params, Batch]:
    """As `replay`, but θ_1, ..., θ_K with a leading axis K, and the batch that judges each."""
    path = _replay(problem, inner, params, record, first_order, keep=True)[1]
    if problem.on_policy:
        judged = jax.tree.map(
            lambda all, last: jnp.concatenate([all[1:], last[None]]), record.batches, record.judged
        )
    else:  # one query set judges every step
        judged = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (inner.steps, *leaf.shape)), record.judged
        )
    return path, judged


def _replay(
    problem: Problem,
    inner: Inner,
    params: Params,
    record: Record,
    first_order: bool,
    keep: bool,
) -> tuple[Params, Params | None]:
    """θ_K, and where `keep` is set θ_1, ..., θ_K."""

    def step(carry: tuple[Params, Any], recorded: Any) -> tuple[tuple[Params, Any], Any]:
        theta, opt_state = carry
        batch, grads = recorded
        if not first_order:
            support = record.batches if batch is None else batch
            grads = _recorded_gradient(problem.inner_loss, theta, support, grads)
        carry = descend(inner.optimizer, grads, opt_state, theta)
        return carry, carry[0] if keep else None

    batches = record.batches if problem.on_policy else None
    carry = (params, inner.optimizer.init(params))
    (adapted, _), path = jax.lax.scan(step, carry, (batches, record.gradients))
    return adapted, path
