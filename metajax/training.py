"""Training: many updates per dispatch, one program, and runs that survive being stopped.

`train` runs a learner's `update` inside a loop on the device, a chunk of updates at a time. The
number of updates of a chunk is data, so the last, shorter chunk needs no second program. While a
chunk runs, the host logs the metrics of the one before and saves its checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import checkpoints, processes, seals
from .checks import require_integer, require_jit
from .loggers import MetricsLog, Reporter
from .programs import NOWHERE, Shelf
from .streams import check_seed
from .types import MetaLearner, MetaState
from .updates import Programs, TooLargeError, Totals, abstract_state, start, trace

__all__ = ["Interrupted", "TooLargeError", "restore", "trace", "train"]

Array = jax.Array
logger = logging.getLogger("metajax")

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
_POLL_SECONDS = 0.002


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, has saved its state and has left.

    A KeyboardInterrupt, so that a script that does not expect it stops too.
    """

    def __init__(self, run: Path, update: int, signum: int) -> None:
        done = f"and saved at update {update}" if update else "before the first update"
        super().__init__(f"stopped {done}")
        self.run = run
        self.update = update
        self.signum = signum


def train(
    learner: MetaLearner,
    *,
    updates: int,
    seed: int | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    state: MetaState | None = None,
    config: Mapping[str, Any] | None = None,
    log_every: int | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
    progress: bool | None = None,
    title: str = "training",
    on_log: Callable[[dict[str, Any]], None] | None = None,
    peak: float | None = None,
    shelf: Shelf = NOWHERE,
) -> MetaState:
    """Meta-trains `learner` and returns its final state.

    ```python
    state = mj.train(learner, updates=500)                   # in a notebook
    state = mj.train(learner, updates=800, state=state)      # 300 more
    state = mj.train(learner, updates=500, run="runs/mine")  # kept; resume=True goes on
    ```

    With a `run` folder, each log adds a line to `metrics.jsonl` (`update`, then `env_steps` and
    `seconds` since the beginning, then the metrics, averaged over the updates since the previous
    line; nan and infinity become null), and checkpoints are saved beside it. Apart from clock
    times, results are the same for the same learner and seed on the same machine, whether or not
    the run was stopped, even by kill -9, and resumed. Ctrl-C and SIGTERM finish the chunk, save and
    raise `Interrupted`; a second one exits at once.

    With several processes (see `processes`), all call this with one folder that all can see. A
    signal to any stops all after the same update; only the first writes, shows progress and calls
    `on_log`.

    Args:
        learner: what to train.
        updates: updates done at the end, those before a resume included; a state that has come as
            far is returned as it is.
        seed: see `streams.key_stream`; the first state is that of
            `learner.init(metajax.streams.key_stream(seed, "training"))`. None is 0, or that of
            the run that goes on.
        run: folder for metrics and checkpoints; None keeps nothing, and then `config`,
            `checkpoint_every` and `keep` are of no use.
        resume: go on from the newest whole checkpoint of `run`; from the beginning if it has none.
        state: go on from this one, without a `run`; it stays as it is. It has its own random key,
            in place of `seed`, and `env_steps` and `seconds` begin at 0 again.
        config: JSON-able description of the run, such as its rates and sizes; checkpoints of
            another one are refused. Without it only the structure of the state tells runs apart,
            and another learner may go on.
        log_every: updates per chunk; None for a hundredth of `updates`.
        checkpoint_every: updates between checkpoints, rounded up to whole chunks; None for a tenth
            of `updates`. The final state is always saved.
        keep: how many checkpoints to keep.
        progress: False hides it; True and None show it on stderr, as a bar where one can move.
        title: names the run in the progress.
        on_log: called with every line's content. What it raises ends the run, which goes on from
            its newest checkpoint.
        peak: what the devices can do, from `roofline.matrix_rate`; with it, a line has `roofline`,
            the share of this rate that the updates' matrix products reached.
        shelf: where the run's programs are loaded from and stored, see `programs`. Its description
            must cover all that determines `learner`.

    Raises:
        ValueError: an argument is out of range, a metric is not a scalar, `state` is of another
            learner, or in the way of a `run`, there is no `run` to resume, or `jax_disable_jit`.
        FileExistsError: `run` holds a run and `resume` is false.
        CheckpointError: there are checkpoints and none can be used, or another process trains here.
        MetricsError: `metrics.jsonl` is damaged anywhere but at its end.
        Interrupted: see above.
        TooLargeError: an array would be larger than XLA takes.
    """
    require_jit("train")
    require_integer("updates", updates, 1)
    if resume and run is None:
        raise ValueError("resume: expected a run, the folder to go on in")
    log_every = max(updates // 100, 1) if log_every is None else log_every
    checkpoint_every = max(updates // 10, 1) if checkpoint_every is None else checkpoint_every
    sizes = {"log_every": log_every, "checkpoint_every": checkpoint_every, "keep": keep}
    for name, value in sizes.items():
        require_integer(name, value, 1)
    if seed is not None:
        check_seed(seed)
        seed = operator.index(seed)
    # Numpy's integers are no JSON.
    updates, keep = operator.index(updates), operator.index(keep)
    plan = _Plan(updates, operator.index(log_every), operator.index(checkpoint_every))
    with contextlib.ExitStack() as stack:
        speaks = processes.first()
        reporter = Reporter(updates, title, progress if speaks else False)
        stack.enter_context(contextlib.closing(reporter))
        recorder = _Recorder(reporter, on_log if speaks else None, peak, seed or 0)
        programs = Programs(learner, shelf, counted=peak is not None)
        if run is None:
            return _run_chunks(programs, plan, recorder, given=state)
        if state is not None:
            raise ValueError(f"state: a run goes on from its checkpoints, got one beside {run}")

        run = Path(run)
        with processes.together():
            held = _holds_run(run)
            if speaks and held and not resume:
                raise FileExistsError(f"{run} holds a run; pass resume=True to go on with it")
            fingerprint = checkpoints.fingerprint(config)
            keeper = checkpoints.Keeper(run / CHECKPOINTS, config=fingerprint, keep=keep)
            recorder.keeper = stack.enter_context(keeper)
            found = _newest(run, programs.state, fingerprint)
        with processes.together():
            begun = found.progress.get("seed", recorder.seed) if found else recorder.seed
            if seed not in (None, begun):
                raise ValueError(f"seed: {run} was begun with {begun}, got {seed}")
            recorder.seed = begun
        update = found.update if found else 0
        newest = processes.greatest(update)
        with processes.together():
            if update != newest:
                raise checkpoints.CheckpointError(
                    f"{run}: update {newest} is not here; all processes need the same folder"
                )
            if speaks:
                if held and not found:
                    logger.warning("%s has no checkpoint to go on from: it begins anew", run)
                log = MetricsLog(run / METRICS, keep_until=update)
                recorder.go_on(stack.enter_context(contextlib.closing(log)), found)
                keeper.set_aside(update)
        stop = stack.enter_context(processes.Stop(recorder.reporter.note))
        state = _run_chunks(programs, plan, recorder, found, stop)
        with processes.together():
            keeper.wait()
        if stop.agreed():
            raise Interrupted(run, recorder.update, stop.signum)
        return state


def _holds_run(run: Path) -> bool:
    """Whether there is something of a run to lose; one that failed to begin leaves nothing."""
    log, saved = run / METRICS, run / CHECKPOINTS
    return (log.exists() and log.stat().st_size > 0) or any(saved.glob("*/"))


def restore(learner: MetaLearner, run: str | os.PathLike[str], config: Any = None) -> tuple:
    """Reads the newest whole checkpoint of a run.

    Returns:
        The MetaState, and what was found (`checkpoints.Found`).

    Raises:
        CheckpointError: there is none that can be used.
    """
    like = abstract_state(learner)
    found = _newest(Path(run), like, checkpoints.fingerprint(config))
    if found is None:
        raise checkpoints.NoCheckpointError(f"{run} has no whole checkpoint yet")
    return checkpoints.load(found.path, like), found


def _newest(run: Path, like: MetaState, fingerprint: str) -> checkpoints.Found | None:
    found = checkpoints.newest(run / CHECKPOINTS, like, fingerprint)
    for name, reason in (found.refused if found else {}).items():
        logger.warning("checkpoint %s of %s is refused: %s", name, run, reason)
    return found


# The loop ------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    updates: int
    log_every: int
    checkpoint_every: int


def _run_chunks(
    programs: Programs,
    plan: _Plan,
    recorder: _Recorder,
    found: checkpoints.Found | None = None,
    stop: processes.Stop | None = None,
    given: MetaState | None = None,
) -> MetaState:
    like = programs.state
    update = saved = found.update if found else 0 if given is None else _done(given, like)
    if found and update >= plan.updates:
        return checkpoints.load(found.path, like)
    if given is not None and update >= plan.updates:
        return given
    recorder.start(update)
    # Processes need a state that they share.
    alone = not found and given is None and jax.process_count() == 1
    begin = programs.start() if alone else None
    program, recorder.flops = programs.updates(recorder.get_ready)
    # Where the program expects its state, perhaps across devices: placed once, it stays there.
    shardings = jax.tree.map(
        _named, like, program.input_shardings[0][0], program.output_shardings[0]
    )
    if found:
        state = checkpoints.load(found.path, jax.tree.map(_placed, like, shardings))
    elif given is not None:  # which the program, that reuses its state's memory, must not take
        state = jax.tree.map(lambda leaf, to: _moved(jnp.copy(leaf), to), given, shardings)
    elif begin:
        state = jax.tree.map(_moved, begin.result()(np.uint32(recorder.seed)), shardings)
    else:
        state = start(programs.learner, shardings)(np.uint32(recorder.seed))
    copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))

    pending = None
    recorder.compiled()
    # Some backends block in a call until its result is ready, and cannot be interrupted. Called
    # from a thread, any backend leaves the host free.
    with _Thread() as device:
        while update < plan.updates and not (stop and stop.agreed()):
            count = min(plan.log_every - update % plan.log_every, plan.updates - update)
            call = device.submit(program, state, np.int32(count))
            if pending:
                recorder.report(*pending)  # while the device is busy
            state, totals = _wait(call)
            state = jax.tree.map(_moved, state, shardings)
            update += count
            pending = (update, count, totals, None)
            if recorder.keeper and saved + plan.checkpoint_every <= update < plan.updates:
                # The next chunk reuses this state's memory, so a checkpoint needs a copy. Its save
                # begins before that chunk: several processes must do both in the same order.
                recorder.report(update, count, totals, copy(state))
                saved, pending = update, None
        if pending:
            recorder.report(*pending)
    if recorder.keeper and saved < update:
        recorder.save(update, state)
    return state


def _done(state: MetaState, like: MetaState) -> int:
    """The updates that a state has had."""
    differs = seals.difference(seals.specs(state), seals.specs(like))
    if differs or jax.tree.structure(state) != jax.tree.structure(like):
        raise ValueError(f"state: expected one of this learner, got {differs or 'another tree'}")
    return int(state.step)


class _Thread(ThreadPoolExecutor):
    """A thread that runs calls in order; leaving the block does not wait for it."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="metajax")

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=False, cancel_futures=True)


def _wait(call: Future[Any]) -> Any:
    while not call.done():
        time.sleep(_POLL_SECONDS)  # unlike blocking, lets Ctrl-C through
    return call.result()


def _named(leaf: jax.ShapeDtypeStruct, taken: Any, given: Any) -> Any:
    """A program's input sharding, or its output sharding where they are equivalent.

    An input's sharding is of a compiler's kind that cannot be saved; an output's has a mesh.
    """
    return given if given.is_equivalent_to(taken, leaf.ndim) else taken


def _moved(leaf: Array, sharding: Any) -> Array:
    return leaf if leaf.sharding == sharding else jax.device_put(leaf, sharding)


def _placed(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


class _Recorder:
    """Records what a chunk did: in the log, for the caller, on screen and in checkpoints."""

    def __init__(
        self,
        reporter: Reporter,
        on_log: Callable[[dict[str, Any]], None] | None,
        peak: float | None,
        seed: int,
    ) -> None:
        self.reporter = reporter
        self.seed = seed
        self.peak = peak
        self.flops = 0.0  # of an update
        self.keeper: checkpoints.Keeper | None = None
        self.update = 0
        self._on_log = on_log
        self._log: MetricsLog | None = None
        self._diverged = False  # and a warning said so
        self._env_steps = 0
        self._seconds = 0.0  # of the process that was stopped, if this one resumes

    def go_on(self, log: MetricsLog, found: checkpoints.Found | None) -> None:
        self._log = log
        if found:
            self._env_steps = found.progress["env_steps"]
            self._seconds = found.progress["seconds"]

    def start(self, update: int) -> None:
        self.update = self._first = update
        self._started = time.perf_counter()
        self.reporter.start(update)

    def get_ready(self) -> None:
        """Prepares for the first save."""
        if self.keeper:
            self.keeper.get_ready()

    def compiled(self) -> None:
        self._compiled = self._last = time.perf_counter()

    def report(self, update: int, count: int, totals: Totals, snapshot: MetaState | None) -> None:
        """Waits for a chunk of `count` updates to end, then records it."""
        while not all(leaf.is_ready() for leaf in jax.tree.leaves(totals)):
            time.sleep(_POLL_SECONDS)
        now = time.perf_counter()
        low, high = map(int, totals.env_steps)
        steps = (high << 32) + low
        self.update = update
        self._env_steps += steps
        row: dict[str, Any] = {
            "update": update,
            "env_steps": self._env_steps,
            "seconds": round(self._seconds + now - self._started, 3),
        }
        if self.peak:
            row["roofline"] = float(f"{self.flops * count / (now - self._last) / self.peak:.3g}")
        for name, total in totals.sums.items():
            row[name] = float(str(np.float32(total) / np.float32(count)))
        infinite = [name for name in totals.sums if not math.isfinite(row[name])]
        if infinite and not self._diverged and processes.first():
            self._diverged = True
            # Scores are of the data alone; whatever else is not finite may follow from them.
            first, cause = infinite[0], ""
            if "score_before" in infinite:
                first, cause = "score_before", "rewards or targets are not, or "
            logger.warning(
                "%s at update %d: %s; smaller rates, or clipped gradients, may help",
                f"{first} is not finite",
                update,
                f"{cause}training diverged",
            )
        if self._log:
            self._log.write(row)
        pace = (now - self._compiled) / (update - self._first)
        self.reporter.report(row, steps / (now - self._last), pace)
        self._last = now
        if snapshot is not None:
            self.save(update, snapshot)
        if self._on_log:  # at last: it may end the run
            self._on_log(row)

    def save(self, update: int, state: MetaState) -> None:
        if self.keeper:
            seconds = self._seconds + time.perf_counter() - self._started
            progress = {"env_steps": self._env_steps, "seconds": seconds, "seed": self.seed}
            self.keeper.save(update, state, progress)
