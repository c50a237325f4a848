"""Which layout of tasks is fastest on this machine: timed once per program, and remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from . import experiments, plan, programs, roofline, runs, training
from .catalogue import BY_MEMORY
from .configs import TrainConfig
from .mapping import largest_divisor

__all__ = ["Tuned", "memory", "tune"]

logger = logging.getLogger(__name__)

_ROUNDS = 5  # of timed updates
_WORTH = 0.97  # share of the planned size's time that another one has to beat


class Tuned(NamedTuple):
    """Seconds per update, the least of a few, by the size of a tile or of a chunk."""

    field: str  # of the configuration: "tile" on a CPU, "chunk" elsewhere
    planned: int
    seconds: dict[int, float]
    remembered: bool  # timed on this machine before

    @property
    def best(self) -> int:
        """The fastest size; the planned one, unless another is faster by more than noise."""
        size = min(self.seconds, key=self.seconds.__getitem__)
        worth = self.seconds[size] < _WORTH * self.seconds[self.planned]
        return size if worth else self.planned

    def __str__(self) -> str:
        others = sorted(self.seconds.keys() - {self.planned})
        each = [
            f"{plan.duration(self.seconds[size])} with --{self.field} {size}" for size in others
        ]
        first = f"{plan.duration(self.seconds[self.planned])} an update as planned"
        return ", ".join([first, *each]) + (" (remembered)" if self.remembered else "")


def memory() -> Path | None:
    """Where times are stored: beside compiled programs; None where those are not stored."""
    return programs.folder("tuned")


def tune(config: TrainConfig, memory: Path | None = None, free: int | None = None) -> Tuned:
    """Times updates with the planned size and with smaller and larger ones, in turn.

    A tile changes the last digits of a run, which must depend on its configuration alone: so the
    caller puts the fastest size there.

    Args:
        config: of the run; a tile or chunk in it is the one that others are compared with.
        memory: folder that remembers times, by program, device and versions; None: not remembered.
        free: bytes of a device; None for what this one has free.

    Raises:
        ValueError: a value out of range, in one line.
    """
    experiment = experiments.build(config)
    traced = training.trace(experiment.learner)
    chunk, tile = plan.layout(traced.jaxpr.jaxpr, config, experiment.mapping)
    share = config.tasks // experiment.mapping.devices
    if config.algorithm in BY_MEMORY:
        field, planned, most = "tile", tile, share // config.minibatches
    elif jax.default_backend() == "cpu":
        field, planned, most = "tile", tile, chunk
    else:  # a tile is all of a chunk
        field, planned, most = "chunk", chunk, share
    sizes = {largest_divisor(most, round(planned * by)) for by in (0.25, 0.5, 2, 4)} | {planned}
    lowered = traced.lower()
    file = None if memory is None else memory / f"{_identity(lowered, sizes)}.json"
    found = _read(file)
    if planned in found:
        return Tuned(field, planned, found, remembered=True)
    free = plan.free_bytes(experiment.mapping.devices) if free is None else free
    seconds = _time(config, field, planned, sorted(sizes), free)
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            runs.write_json(file, {"field": field, "seconds": seconds})
        except OSError as error:  # a run can do without
            logger.warning("times are not remembered: %s", error)
    return Tuned(field, planned, seconds, remembered=False)


def _identity(lowered: jax.stages.Lowered, sizes: Iterable[int]) -> str:
    """Digest of what times depend on: program, machine, versions, and the sizes tried."""
    machine = [platform.node(), os.cpu_count(), runs.device()]
    what = [machine, runs.versions(), sorted(sizes), lowered.as_text()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _read(file: Path | None) -> dict[int, float]:
    """The times of a file; none where there is no such file, or one that cannot be used."""
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file else {}
        return {int(size): float(value) for size, value in content.get("seconds", {}).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _time(
    config: TrainConfig, field: str, planned: int, sizes: list[int], free: int | None
) -> dict[int, float]:
    """Seconds per update by size, the least of a few, without sizes that do not fit in memory.

    For the planned size the configuration stays as it is: its program is the run's.
    """
    timed: dict[int, tuple[Any, Any, list[float]]] = {}
    for size in sizes:
        asked = config if size == planned else dataclasses.replace(config, **{field: size})
        learner = experiments.build(asked).learner
        program = training.trace(learner).lower().compile()
        if size != planned and free is not None and roofline.peak_bytes(program) > free:
            continue
        init = jax.jit(learner.init, out_shardings=program.input_shardings[0][0])
        timed[size] = (program, init(jax.random.key(config.seed)), [])
    for _ in range(_ROUNDS):
        for size, (program, state, seconds) in [*timed.items()]:
            began = time.perf_counter()
            try:
                state, _ = jax.block_until_ready(program(state, np.int32(1)))
            except jax.errors.JaxRuntimeError as error:  # memory is fragmented
                if size == planned or "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                del timed[size]
                continue
            seconds.append(time.perf_counter() - began)
            timed[size] = (program, state, seconds)
    return {size: min(seconds) for size, (*_, seconds) in timed.items()}
