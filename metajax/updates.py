"""The two programs of a run: the first state from a seed, and any number of updates.

The number of updates is data, so a shorter chunk of them needs no second program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import jaxprs
from .compiling import compiler_options
from .programs import NOWHERE, Shelf, remembered
from .streams import traced_key_stream
from .types import MetaLearner, MetaState

__all__ = ["UPDATES", "Programs", "TooLargeError", "Totals", "abstract_state", "start", "trace"]

Array = jax.Array

UPDATES = "updates"  # a shelf's label for the program of `trace`; its note: operations per update
_TAKEN = ("update", "seconds", "roofline")  # fields that every line of the log has
_LONGEST = 2**31  # of an axis; XLA's compiler aborts the process at some such lengths
_SEED = jax.ShapeDtypeStruct((), np.uint32)
_COUNT = jax.ShapeDtypeStruct((), np.int32)


class TooLargeError(ValueError):
    """An array of an update has an axis that is longer than XLA takes; the message is one line."""


def start(learner: MetaLearner, shardings: Any = None) -> jax.stages.Wrapped:
    """The program: seed, uint32 () -> the first state, laid out by `shardings`."""

    def start(seed: Array) -> MetaState:
        state = learner.init(traced_key_stream(seed, "training"))
        # A weakly typed leaf would change its type in the first update, and with it the program.
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

    options = compiler_options(once=True)
    return jax.jit(start, out_shardings=shardings, keep_unused=True, compiler_options=options)


def _abstract(start: jax.stages.Wrapped) -> MetaState:
    return jax.eval_shape(start, _SEED)


def abstract_state(learner: MetaLearner) -> MetaState:
    """The shapes and dtypes of a state."""
    return _abstract(start(learner))


class Totals(NamedTuple):
    """The metrics of a chunk, summed over its updates."""

    sums: dict[str, Array]  # () float32 each
    env_steps: tuple[Array, Array]  # () uint32: low and high words, as one may overflow


def _zero_totals(metrics: Mapping[str, jax.ShapeDtypeStruct]) -> Totals:
    for name, metric in metrics.items():
        if name in _TAKEN:
            raise ValueError(f"metric {name!r}: expected none of {', '.join(_TAKEN)}")
        if metric.shape:
            raise ValueError(f"metric {name!r}: expected a scalar, got shape {metric.shape}")
    names = [name for name in metrics if name != "env_steps"]
    zero = jnp.zeros((), jnp.uint32)
    return Totals({name: jnp.zeros((), jnp.float32) for name in names}, (zero, zero))


def _add(totals: Totals, metrics: Mapping[str, Array]) -> Totals:
    low, high = totals.env_steps
    new_low = low + metrics.get("env_steps", jnp.uint32(0)).astype(jnp.uint32)
    sums = {name: total + metrics[name].astype(jnp.float32) for name, total in totals.sums.items()}
    return Totals(sums, (new_low, high + (new_low < low).astype(jnp.uint32)))


def trace(learner: MetaLearner, like: MetaState | None = None) -> jax.stages.Traced:
    """`state, count -> state, totals`, where `count` updates is data and `state` is donated.

    Raises:
        ValueError: a metric is not a scalar, or has the name of another field of the log.
        TooLargeError: see there.
    """
    state = like or abstract_state(learner)
    update = jax.jit(learner.update)  # traced once: for its metrics' names, and for the loop
    zeros = _zero_totals(jax.eval_shape(update, state)[1])

    def updates(state: MetaState, count: Array) -> tuple[MetaState, Totals]:
        def body(_: Array, carry: tuple[MetaState, Totals]) -> tuple[MetaState, Totals]:
            state, totals = carry
            state, metrics = update(state)
            return state, _add(totals, metrics)

        return jax.lax.fori_loop(0, count, body, (state, zeros))

    options = compiler_options()
    program = jax.jit(updates, donate_argnums=0, keep_unused=True, compiler_options=options)
    traced = program.trace(state, _COUNT)
    longest = jaxprs.longest_axis(traced.jaxpr.jaxpr)
    if longest >= _LONGEST:
        raise TooLargeError(
            f"sizes: an update has an array with an axis of {longest}, beyond what XLA takes"
        )
    return traced


class Programs:
    """The two programs of a run, loaded from a shelf if it has them.

    Without one they are those of an earlier run of this learner in this process, if it had one.
    """

    def __init__(self, learner: MetaLearner, shelf: Shelf, counted: bool) -> None:
        if not isinstance(learner, MetaLearner):
            got = type(learner).__name__
            raise ValueError(f"learner: expected a MetaLearner, as `maml` makes, got {got}")
        self.learner = learner
        self._shelf = shelf
        self._counted = counted or shelf != NOWHERE  # whether to count operations
        self._start = start(learner)
        self.state = _abstract(self._start)

    def start(self) -> Future[jax.stages.Compiled]:
        """Seed -> the first state; compiled in another thread while this one traces."""
        if self._shelf == NOWHERE:
            begun = remembered(self.learner.init, "start", (), self._compile_start)
            failed = begun.done() and begun.exception() is not None
            return self._compile_start() if failed else begun
        kept = self._shelf.take("start", _SEED)
        if not kept:
            return self._compile_start()
        ready: Future[jax.stages.Compiled] = Future()
        ready.set_result(kept[0])
        return ready

    def _compile_start(self) -> Future[jax.stages.Compiled]:
        thread = ThreadPoolExecutor(1, "metajax")
        lowered = self._start.lower(_SEED)
        return thread.submit(self._shelf.compile, "start", lowered, once=True)

    def updates(self, meanwhile: Callable[[], None]) -> tuple[jax.stages.Compiled, float]:
        """The program of `trace`, and the operations of an update in matrix products, if counted.

        Args:
            meanwhile: called once Python has nothing left to do but wait for the compiler, if it
                has to.
        """
        if self._shelf == NOWHERE:
            what = ["updates", str(self.state), self._counted]
            make = functools.partial(self._compile_updates, meanwhile)
            return remembered(self.learner.update, what, (), make)
        kept = self._shelf.take(UPDATES, self.state, _COUNT)
        if kept:
            meanwhile()
            return kept
        return self._compile_updates(meanwhile)

    def _compile_updates(self, meanwhile: Callable[[], None]) -> tuple[jax.stages.Compiled, float]:
        traced = trace(self.learner, self.state)
        lowered = traced.lower()
        meanwhile()
        # The loop's body is an update.
        flops = jaxprs.cost(traced.jaxpr.jaxpr).flops if self._counted else 0.0
        return self._shelf.compile(UPDATES, lowered, flops), flops
