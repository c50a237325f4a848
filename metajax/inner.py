"""The inner process: one task's adaptation of the parameters, run forward once.

It records batches and gradients, from which `replays` computes its derivative afterwards.

A task adapts the fast meta-parameters, all of them where `Inner.fast` is None. The others are slow:
a loss may depend on them, and so may the inner optimiser, whose `update` receives all
meta-parameters as `meta` (optax's extra arguments). Learned rates, a learned update rule, a learned
loss and the network beside a context vector are slow, and need no other support from the engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .checks import (
    require_integer,
    require_key,
    require_metrics,
    require_number,
    require_returned,
)
from .compiling import standalone
from .fused import once_differentiated
from .mapping import Mapping, check_mapping, tiled
from .types import Adapt, Batch, Params, Problem, Trace, pytree_dataclass, require_params

__all__ = [
    "Inner",
    "Record",
    "adam",
    "adaptation",
    "check_outer",
    "check_parts",
    "descend",
    "judge_of",
    "loss_of_parts",
    "merge",
    "parameter_paths",
    "path_of",
    "run",
    "sgd",
]

Array = jax.Array


class Inner(NamedTuple):
    """An inner optimiser: any optax transformation, applied `steps` times to fast parameters.

    The meta-gradient is taken through its update. That of `optax.adam` is NaN where a gradient is
    0, which `adam` of this module avoids; one that uses only signs, such as `optax.lion`, has a
    derivative of 0, which leaves first-order MAML.

    Attributes:
        optimizer: the transformation.
        steps: K.
        fast: path of a leaf, such as "params/Dense_0/kernel" -> whether a task adapts it; None if
            it adapts all.
    """

    optimizer: optax.GradientTransformation
    steps: int
    fast: Callable[[str], bool] | None = None

    def check(self, problem: Problem) -> None:
        """Raises ValueError for a negative number of steps, or where no parameter is fast."""
        require_integer("inner steps", self.steps, 0)
        if not (self.fast is None or callable(self.fast)):
            raise ValueError(f"fast parameters: expected a function, got {self.fast!r}")
        if self.fast is not None and not any(map(self.fast, parameter_paths(problem))):
            paths = ", ".join(parameter_paths(problem))
            raise ValueError(f"fast parameters: expected some of {paths}, got none")

    def slow(self, problem: Problem) -> list[str]:
        """The paths of the problem's slow parameters.

        Raises:
            ValueError: see `check`.
        """
        self.check(problem)
        if self.fast is None:
            return []
        return _paths(self.split(_form_of_parameters(problem))[1])

    def among(self, chosen: Callable[[str], bool]) -> Inner:
        """The same, of those of its fast parameters whose path is `chosen`."""
        fast = self.fast
        if fast is None or not callable(chosen):  # `check` says what is wrong
            return self._replace(fast=chosen)
        return self._replace(fast=lambda path: chosen(path) and fast(path))

    def split(self, params: Params) -> tuple[Params, Params]:
        """The fast and the slow parameters, each with None in the place of the others."""
        adapts = self.fast or (lambda path: True)
        chosen = jax.tree_util.tree_map_with_path(lambda path, _: adapts(path_of(path)), params)
        fast = jax.tree.map(lambda c, leaf: leaf if c else None, chosen, params)
        slow = jax.tree.map(lambda c, leaf: None if c else leaf, chosen, params)
        return fast, slow


def check_parts(problem: Any, inner: Any, *outer: Any) -> None:
    """Raises ValueError unless given a Problem, an Inner and, if any, outer optax optimisers."""
    check_outer(problem, *outer)
    if not isinstance(inner, Inner):
        kind = type(inner).__name__
        raise ValueError(
            "inner: expected an Inner, as `sgd(0.1, steps=1)` makes, or "
            f"`Inner(optax.rmsprop(0.1), steps=1)`, got {kind}"
        )
    check_optimizers("inner", inner.optimizer)


def check_outer(problem: Any, *outer: Any) -> None:
    """Raises ValueError unless given a Problem and, if any, outer optax optimisers."""
    if not isinstance(problem, Problem):
        kind = type(problem).__name__
        raise ValueError(f"problem: expected a Problem, as `policy_gradient` makes, got {kind}")
    check_optimizers("outer", *outer)


def check_optimizers(name: str, *optimizers: Any) -> None:
    """Raises ValueError unless given optimisers of optax."""
    for optimizer in optimizers:
        if not all(callable(getattr(optimizer, part, None)) for part in ("init", "update")):
            raise ValueError(f"{name}: expected an optimiser of optax, got {optimizer!r}")


def parameter_paths(problem: Problem) -> list[str]:
    """The paths of all parameters of a problem."""
    return _paths(_form_of_parameters(problem))


def _form_of_parameters(problem: Problem) -> Params:
    # Of the function itself, whose trace jax remembers: a learner of many parts asks many times.
    return jax.eval_shape(problem.init, jax.random.key(0))


def _paths(params: Params) -> list[str]:
    return [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def path_of(path: Any) -> str:
    """The name of a leaf, "params/Dense_0/kernel", from its path in a pytree."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def merge(fast: Params, slow: Params) -> Params:
    """The inverse of `Inner.split`."""
    return jax.tree.map(
        lambda one, other: other if one is None else one, fast, slow, is_leaf=lambda x: x is None
    )


Rate = float | Array | Sequence[float] | optax.Schedule


def _schedule(learning_rate: Rate) -> Any:
    if callable(learning_rate):
        return learning_rate
    several = isinstance(learning_rate, Sequence) or jnp.ndim(learning_rate) == 1
    rates: list[Any] = [*learning_rate] if several else [learning_rate]  # type: ignore[misc]
    if not rates:
        raise ValueError("inner learning rate: expected at least one, got none")
    for rate in rates:
        require_number("inner learning rate", rate, above=True)
    if len(rates) == 1:
        return rates[0]
    table = jnp.stack([jnp.asarray(rate, jnp.result_type(float)) for rate in rates])
    return lambda count: table[jnp.minimum(count, len(rates) - 1)]


def sgd(learning_rate: Rate, steps: int = 1) -> Inner:
    """`steps` steps of gradient descent.

    Args:
        learning_rate: α, which may be traced; or one rate per step, the last for all later steps
            too; or an optax schedule.
        steps: K.

    Raises:
        ValueError: a rate is not above 0, or none is given.
    """
    return Inner(optax.sgd(_schedule(learning_rate)), steps)


def adam(learning_rate: Rate, steps: int = 1) -> Inner:
    """Adam whose meta-gradient is finite where a gradient is exactly 0 (hence `eps_root`).

    Arguments and errors are those of `sgd`.
    """
    return Inner(optax.adam(_schedule(learning_rate), eps_root=1e-8), steps)


def descend(
    optimizer: optax.GradientTransformation,
    grads: Params,
    opt_state: Any,
    params: Params,
    **extra: Any,
) -> tuple[Params, Any]:
    """One step of an optax transformation.

    Args:
        optimizer: the transformation.
        grads: shaped as `params`.
        opt_state: of the transformation.
        params: pytree of arrays.
        **extra: passed to its `update` if that takes extra arguments.

    Returns:
        The new parameters and the new state.
    """
    # optax promotes dtypes implicitly, which a user's strict setting would refuse.
    with jax.numpy_dtype_promotion("standard"):
        update = optax.with_extra_args_support(optimizer).update
        updates, opt_state = update(grads, opt_state, params, **extra)
        return optax.apply_updates(params, updates), opt_state


def loss_of_parts(loss: Callable[..., Any]) -> Callable[[Params, Params, Batch], Array]:
    """`loss` without its aux, as a function of separate fast and slow parameters."""

    @once_differentiated()
    def of_parts(fast: Params, slow: Params, batch: Batch) -> Array:
        found = loss(merge(fast, slow), batch)
        require_returned("inner_loss", found, "loss", "aux")
        return found[0]

    return of_parts


def judge_of(problem: Problem) -> Callable[[Params, Batch], tuple[Array, dict[str, Array]]]:
    """`problem.outer_loss`, to be differentiated once, see `fused.once_differentiated`."""

    @once_differentiated()
    def judge(params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
        found = problem.outer_loss(params, batch)
        require_returned("outer_loss", found, "loss", "aux")
        require_metrics(found[1])
        return found

    return judge


@pytree_dataclass
class Record:
    """One task's adaptation: enough to differentiate it without running it again."""

    batches: Batch  # K batches with a leading axis K, or the support batch that all steps share
    gradients: Params  # of the fast parameters, leading axis K; None: a replay recomputes them
    judged: Batch  # the batch that the adapted parameters are judged on
    # The losses at the start of each step, (K,), and their gradients by all parameters, leading
    # axis K; they judge the preceding steps, see `losses_along`.
    judgements: tuple[Array, Params] | None = None
    last: Params = None  # the fast parameters that the last step started from
    # The fast parameters that each step started from, leading axis K, and those after the last,
    # where there are several steps; None: a replay finds them by the optimiser's updates.
    path: Params = None
    adapted: Params = None


def run(
    problem: Problem,
    inner: Inner,
    params: Params,
    task: Any,
    key: Array,
    tile: int | None = None,
    judgements: bool = False,
    ends: bool = False,
) -> tuple[Params, Record, Trace]:
    """Adapts `params` to one task in K inner steps.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser.
        params: θ_0, with the slow parameters.
        task: one task of the problem.
        key: typed key, (), that the batches are drawn with.
        tile: tasks whose gradient is taken at once, see `mapping.tiled`; None chooses.
        judgements: whether to record them; their gradients by slow parameters cost extra products.
        ends: whether the trace scores only the ends, before the first step and after the last:
            off-policy, every other score needs a batch of its own.

    Returns:
        θ_K, the record and the trace.
    """
    fast, slow = inner.split(params)
    loss = loss_of_parts(problem.inner_loss)

    def gradient_of_parts(fast: Params, slow: Params, batch: Batch) -> tuple[Params, Any]:
        if not judgements:
            return jax.grad(loss)(fast, slow, batch), None
        value, grads = jax.value_and_grad(loss, argnums=(0, 1))(fast, slow, batch)
        return grads[0], (value, merge(*grads))

    gradient = tiled(gradient_of_parts, tile)
    if problem.on_policy:
        support = None
        collect = problem.collect
        all_keys = jax.random.split(key, inner.steps + 1)
        keys, key_judged = all_keys[:-1], all_keys[-1]
    else:
        key_support, key_judged = jax.random.split(key)
        keys = jnp.broadcast_to(key_judged, (inner.steps,))  # one query set judges every step
        support = problem.collect(params, task, key_support)
        assert problem.query is not None
        collect = problem.query

    def step(carry: tuple[Params, Any, Params], key: Array) -> tuple[tuple[Params, ...], Any]:
        fast, opt_state, _ = carry
        kept = score = samples = None
        if support is None or not ends:
            batch = collect(merge(fast, slow), task, key)
            score = problem.score(batch)
            if support is None:
                kept, samples = batch, problem.samples(batch)
        with jax.named_scope("inner_gradient"):
            grads, judged = gradient(fast, slow, kept if support is None else support)
        record = (kept, grads, judged, score, samples, fast)
        after = descend(inner.optimizer, grads, opt_state, fast, meta=params)
        return (*after, fast), record

    carry, (batches, gradients, judged_steps, scores, samples, path) = _over_steps(
        step, (fast, inner.optimizer.init(fast), fast), keys
    )
    adapted = merge(carry[0], slow)
    judged = collect(adapted, task, key_judged)
    if support is None:
        used = jnp.sum(samples, dtype=jnp.int32)
    else:
        batches, used = support, problem.samples(support) if inner.steps else jnp.int32(0)
    if scores is None:
        scores = problem.score(collect(params, task, key_judged))[None]
    if ends:
        scores = scores[: min(inner.steps, 1)]
    trace = Trace(
        score=jnp.concatenate([scores, problem.score(judged)[None]]),
        samples=used + problem.samples(judged),
    )
    record = Record(batches, gradients, judged, judged_steps, carry[2])
    if inner.steps > 1:  # the start of a single one is θ_0, which all tasks share
        record = dataclasses.replace(record, path=path, adapted=carry[0])
    return adapted, record, trace


def adaptation(problem: Problem, inner: Inner, *, mapping: Mapping = Mapping()) -> Adapt:
    """Adapting to a task by inner steps, as learners made of these parts do it.

    Such learners are MAML, Reptile and others that learn an initialisation alone. What has rates, a
    rule or a context beside it, or steps of its own, adapts as its own factory makes it: for
    another number of steps, give that factory another `inner`.

    ```python
    result = mj.evaluate(mj.adaptation(problem, mj.sgd(0.1, steps=10)), state.params, problem)
    ```

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser.
        mapping: its tile is the number of tasks whose gradient is taken at once.

    Returns:
        params, task, key -> the adapted params and the trace of K + 1 scores.

    Raises:
        ValueError: an invalid number of steps, no fast parameters, or an invalid mapping; when
            called, a MetaState in the place of its parameters, or a key that is not typed.
    """
    check_parts(problem, inner)
    inner.check(problem)
    check_mapping(mapping)

    def adapt(params: Params, task: Any, key: Array) -> tuple[Params, Trace]:
        require_key(key)
        require_params(params)
        adapted, _, trace = run(problem, inner, params, task, key, mapping.tile)
        return adapted, trace

    return standalone(adapt)


def _over_steps(step: Callable[..., Any], carry: Any, keys: Array) -> tuple[Any, Any]:
    """`lax.scan`, except that a single step is not put in a loop.

    Its parameters are then those that all tasks share; a loop would carry a copy for each task.
    """
    if len(keys) != 1:
        return jax.lax.scan(step, carry, keys)
    carry, out = step(carry, keys[0])
    return carry, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], out)
