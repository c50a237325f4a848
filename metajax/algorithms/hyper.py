"""Meta-learned hyper-parameters: inner-loop settings that the meta-gradient improves."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from ..checks import require_number
from ..inner import Inner, check_parts
from ..slow import beside
from ..types import Batch, Hyperparameter, Params, Problem

__all__ = ["meta_learned"]

Array = jax.Array

_RATE = Hyperparameter("learning_rate", 1.0)


def _value(of: Hyperparameter, logit: Array, speed: float) -> Array:
    """The value for `logit`: between 0 and `of.high`, and `of.value` where `logit` is 0."""
    if math.isinf(of.high):
        return of.value * jnp.exp(speed * logit)
    log = jnp.log if isinstance(of.value, Tracer) else math.log
    begin = log(of.value / (of.high - of.value))
    value = of.high * jax.nn.sigmoid(begin + speed * logit)
    # Rounding could otherwise reach the bounds themselves.
    return jnp.clip(
        value, jnp.finfo(value.dtype).tiny, jnp.nextafter(value.dtype.type(of.high), 0.0)
    )


def meta_learned(
    problem: Problem, inner: Inner, names: str | Sequence[str], *, speed: float = 10.0
) -> tuple[Problem, Inner]:
    """`problem` with some hyper-parameters as meta-parameters, and `inner` to match.

    The meta-parameters are {"params": those of `problem`, "hyper": one number, 0 at first, for each
    of `names`}. A hyper-parameter starts at its given value and stays in its range: the learned
    number shifts its logarithm, or its log-odds where it has an upper bound. It acts in the inner
    steps, and one of sampling in each `collect`; the outer loss keeps the given values, or it would
    choose its own objective.
    (Meta-gradient reinforcement learning, Xu et al. 2018, through all inner steps.)

    Any algorithm that differentiates the inner steps, such as `maml`, can learn them. The rate is
    all that the first-order gradient can learn, and all that `promp` and `maml_trpo` accept, whose
    inner steps use a loss of their own. A hyper-parameter of the sampling, such as exploration's ε,
    has no derivative in the inner loss: only `emaml` learns it, from the log-probability of the
    actions that it influenced. Metrics named "learned_" and the name report the current values, but
    in those two.

    Args:
        problem: the meta-learning problem; `problem.hyper` lists what can be learned.
        inner: the inner optimiser.
        names: which of these to learn, one or several, or "learning_rate", a factor on the rates of
            `inner`, 1 at first.
        speed: how fast they are learned: a factor on the learned numbers. Under Adam with rate β, a
            hyper-parameter changes by β · `speed` of itself per update.

    Returns:
        The problem and the inner optimiser with these meta-parameters.

    Raises:
        ValueError: a name that the problem does not have, a value on the edge of its range, which
            it could never leave, or a speed that is not above 0.
    """
    check_parts(problem, inner)
    require_number("speed", speed, above=True)
    names = [names] if isinstance(names, str) else list(names)
    known = {of.name: of for of in (_RATE, *problem.hyper)}
    for name in names:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, cutoff=0.4) or known)
            raise ValueError(f"learn: unknown {name!r}; nearest: {near}")
        value, high = known[name].value, known[name].high
        if not isinstance(value, Tracer) and not 0 < value < high:
            span = f"above 0 and below {high}".removesuffix(" and below inf")
            raise ValueError(f"{name}: expected {span} to be learned, got {value}")

    sampling = {name: of_actions for name in names if (of_actions := known[name].log_prob)}
    in_loss = [name for name in names if name != _RATE.name and name not in sampling]

    def values(hyper: dict[str, Array], chosen: Iterable[str] = names) -> dict[str, Array]:
        return {name: _value(known[name], hyper[name], speed) for name in chosen}

    def scale(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params
        rate = values(extra["slow"]).get(_RATE.name, 1.0)
        return jax.tree.map(lambda update: rate * update, updates), state

    scaled = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale)
    learning, adapting = beside(
        problem,
        inner,
        "hyper",
        lambda key, params: {name: jnp.zeros(()) for name in names},
        optax.chain(inner.optimizer, scaled),
    )

    def collect(meta: Params, task: Any, key: Array, **learned: Array) -> Batch:
        return learning.collect(meta, task, key, **values(meta["hyper"], sampling), **learned)

    def log_prob(meta: Params, batch: Batch) -> Array:
        own = learning.log_prob(meta, batch) if learning.log_prob else jnp.zeros(())
        now = values(meta["hyper"], sampling)
        return sum((of_actions(batch, now[name]) for name, of_actions in sampling.items()), own)

    def inner_loss(meta: Params, batch: Batch, **learned: Array) -> tuple[Array, Any]:
        return learning.inner_loss(meta, batch, **values(meta["hyper"], in_loss), **learned)

    def outer_loss(meta: Params, batch: Batch) -> tuple[Array, Any]:
        loss, aux = learning.outer_loss(meta, batch)
        return loss, aux | {f"learned_{name}": v for name, v in values(meta["hyper"]).items()}

    rest = tuple(of for of in problem.hyper if of.name not in names)
    # Inner steps by the probability ratio would ignore these.
    acts = in_loss or sampling
    whole = learning._replace(
        ratio_loss=None if acts else learning.ratio_loss,
        collect=collect,
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        log_prob=log_prob if sampling else learning.log_prob,
        hyper=rest,
    )
    return whole, adapting
