"""What a run takes, before it runs: operations, memory, time, and how its tasks are laid out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from . import experiments, jaxprs, roofline, training
from .configs import TrainConfig
from .mapping import CHUNK, TILE, Mapping, chunk_size
from .updates import UPDATES

__all__ = ["Plan", "duration", "free_bytes", "layout", "plan"]


class Plan(NamedTuple):
    """What a preset with its flags takes, on the devices here. Bytes of memory are per device."""

    config: TrainConfig
    devices: int
    chunk: int  # tasks alive at once on a device
    tile: int  # tasks of a chunk whose gradient is taken at once
    cost: jaxprs.Cost  # of an update, on all devices
    memory: int  # bytes that the program takes at its peak
    free: int | None  # bytes available, None if the device does not say
    fitting: int | None  # where it does not fit: a chunk that does, None if none does
    matrix_rate: float  # operations a second, of all devices
    copy_rate: float  # bytes a second, of all devices

    @property
    def fits(self) -> bool:
        return self.free is None or self.memory <= self.free

    @property
    def seconds(self) -> tuple[float, float]:
        """Per update: for matrix products alone, and with every value written and read too."""
        least = self.cost.flops / self.matrix_rate
        return least, least + self.cost.bytes / self.copy_rate

    def __str__(self) -> str:
        config, cost = self.config, self.cost
        least, most = self.seconds
        free = "" if self.free is None else f" of {_bytes(self.free)}"
        run = " to ".join(duration(seconds * config.updates) for seconds in self.seconds)
        lines = {
            "chunk": f"{self.chunk} tasks of a device alive at once: {self._why_chunk()}",
            "tile": f"{self.tile} of them differentiated at once: {self._why_tile()}",
            "memory": f"{_bytes(self.memory)}{free} a device, at its peak",
            "an update": f"{cost.flops / 1e9:.3g} GFLOP in matrix products, "
            f"{_bytes(cost.bytes)} if every value were written and read",
            "this device": f"{self.matrix_rate / 1e9:.3g} GFLOP/s in matrix products, "
            f"{_bytes(self.copy_rate)}/s copied",
            "time": f"{duration(least)} an update at least, {duration(most)} if nothing stayed in "
            f"cache; {config.updates} updates in {run}",
        }
        if not self.fits:
            lines["too much"] = self._would_fit()
        devices = f"{self.devices} device{'s' if self.devices > 1 else ''}"
        title = f"{config.preset}, {config.algorithm}: {config.tasks} tasks, {devices}"
        return "\n".join([title, *(f"  {name:<13}{line}" for name, line in lines.items())])

    def _why_chunk(self) -> str:
        if self.chunk * self.devices == self.config.tasks:
            return "all that it has"
        if self.config.chunk is not None:
            return "as asked, or the largest divisor below"
        if jax.default_backend() == "cpu":
            return "what they keep for the derivative is bounded"
        return "enough to fill it, in half of its memory"

    def _why_tile(self) -> str:
        if self.config.tile is not None:
            return "as asked, or the largest divisor below"
        if jax.default_backend() == "cpu":
            return "what they work on stays in a core's cache"
        return "memory is wide here"

    def _would_fit(self) -> str:
        if self.fitting is None:
            return "it will not fit, whatever the chunk; fewer samples of a task may"
        return f"it will not fit; --chunk {self.fitting} would"


def plan(config: TrainConfig, memory: float | None = None) -> Plan:
    """Compiles the program of a configuration, measures the devices, and runs nothing of it.

    Args:
        config: of the run.
        memory: GiB of a device; None for what this one has free.

    Raises:
        ValueError: a value out of range, in one line.
    """
    experiment = experiments.build(config)
    mapping = experiment.mapping
    traced = training.trace(experiment.learner)
    cost = jaxprs.cost(traced.jaxpr.jaxpr)  # its loop's body, counted once, is an update
    shelf = experiments.shelf(config)  # where training will look
    taken = roofline.peak_bytes(shelf.compile(UPDATES, traced.lower(), cost.flops))
    free = free_bytes(mapping.devices) if memory is None else round(memory * 2**30)
    jaxpr = traced.jaxpr.jaxpr
    chunk, tile = layout(jaxpr, config, mapping)
    fitting = None
    if free is not None and taken > free:
        fitting = _fitting_chunk(config, chunk, taken, free)
    return Plan(
        config=config,
        devices=mapping.devices,
        chunk=chunk,
        tile=tile,
        cost=cost,
        memory=taken,
        free=free,
        fitting=fitting,
        matrix_rate=roofline.matrix_rate(mapping.mesh),
        copy_rate=roofline.copy_rate(mapping.mesh),
    )


def layout(jaxpr: Any, config: TrainConfig, mapping: Mapping) -> tuple[int, int]:
    """The chunk and the tile of a configuration's program, from the names of its scopes."""
    every = chunk_size(config.tasks // mapping.devices, mapping)  # where no scope says
    chunk = max(jaxprs.scoped_sizes(CHUNK, jaxpr), default=every)
    return chunk, max(jaxprs.scoped_sizes(TILE, jaxpr), default=chunk)


def _fitting_chunk(config: TrainConfig, chunk: int, taken: int, free: int) -> int | None:
    """A chunk, a power of two near the largest, with which the program fits; None if none does."""
    while chunk > 1:
        # If all of the memory grows with the chunk, this one fits; if not, the next may.
        chunk = 1 << max(min(chunk * free // taken, chunk - 1), 1).bit_length() - 1
        learner = experiments.build(dataclasses.replace(config, chunk=chunk)).learner
        taken = roofline.peak_bytes(training.trace(learner).lower().compile())
        if taken <= free:
            return chunk
    return None


def free_bytes(sharing: int) -> int | None:
    """Free memory of a device, or a CPU device's share of the machine's; None if unknown."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines)}
    return int(fields["MemAvailable"]) * 1024 // sharing


def _bytes(number: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for size, unit in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
