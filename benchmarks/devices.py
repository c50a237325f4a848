"""How much faster is an update on more devices?

    python benchmarks/devices.py point --json figures.json
    python benchmarks/devices.py gridworld --tasks 1024 --pairs 9

Each number of devices runs in its own process, as a training run does: in a process with two CPU
devices, a program on one of them gets half of the threads. A single device has the threads of every
core, so a second one only gains what those leave idle; one device pinned to a single core is shown
for comparison. The processes are timed in turn, each while the others wait, in pairs that see the
same machine, and must agree on the parameters.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table

from metajax import experiments, training
from metajax.catalogue import ALGORITHMS
from metajax.presets import PRESETS, preset
from support import records
from support.timing import race

TOLERANCE = 1e-3  # ‖difference‖ / ‖reference‖ of the parameters' change over the first updates
AGREE = 3  # updates after which they are compared


@dataclasses.dataclass(frozen=True)
class Options:
    """Times updates on one, two, four, ... devices."""

    preset: tyro.conf.Positional[str] = "point"
    """The preset to train."""
    algorithm: str = "maml"
    """The algorithm to train it with."""
    tasks: int | None = None
    """Tasks of an update; the preset's by default."""
    pairs: int = 7
    """Runs of each number of devices, in turn."""
    updates: int = 5
    """Updates of a run, each timed until it is done."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


class Side(NamedTuple):
    """A waiting process with a given number of devices."""

    process: Any
    pipe: Any

    def step(self) -> None:
        """Runs one update and waits for it."""
        self.pipe.send(True)
        self.pipe.recv()


def work(pipe: Any, config: Any, core: int | None) -> None:
    """The process: compiles, sends the change of the first updates, then updates on demand."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    jax.config.update("jax_num_cpu_devices", config.devices)
    learner = experiments.build(config).learner
    program = training.trace(learner).lower().compile()
    shardings = program.input_shardings[0][0]
    state = jax.jit(learner.init, out_shardings=shardings)(jax.random.key(0))
    before = np.asarray(ravel_pytree(jax.device_get(state.params))[0])
    state, _ = program(state, np.int32(AGREE))
    pipe.send(np.asarray(ravel_pytree(jax.device_get(state.params))[0]) - before)
    while pipe.recv():
        state, _ = jax.block_until_ready(program(state, np.int32(1)))
        pipe.send(True)


def start(config: Any, core: int | None = None) -> tuple[Side, np.ndarray]:
    """A process that is ready, and how its first updates changed the parameters."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there, config, core), daemon=True)
    process.start()
    there.close()
    return Side(process, here), here.recv()


def sizes(config: Any) -> dict[str, tuple[int, int | None]]:
    """The numbers of devices to compare, each with the core it is pinned to, if any."""
    on_cpu = jax.default_backend() == "cpu"
    most = records.cores() if on_cpu else jax.device_count()
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= most and config.tasks % n == 0]
    pins = on_cpu and hasattr(os, "sched_getaffinity")
    held = {"1, on one core": (1, min(os.sched_getaffinity(0)))} if pins else {}
    return {**held, **{str(n): (n, None) for n in counts}}


def measure(options: Options, console: Console) -> dict[str, Any]:
    """Every figure.

    Raises:
        SystemExit: the numbers of devices do not compute the same.
        ValueError: an invalid size, or an algorithm that does not fit the preset.
    """
    config = preset(options.preset, options.algorithm)
    if options.tasks is not None:
        config = dataclasses.replace(config, tasks=options.tasks)
    experiments.build(dataclasses.replace(config, devices=1))  # raises here if anything is wrong
    sides: dict[str, Side] = {}
    ways: dict[str, np.ndarray] = {}
    for name, (devices, core) in sizes(config).items():
        with console.status(f"{name}: compiling"):
            sides[name], ways[name] = start(dataclasses.replace(config, devices=devices), core)
    reference = ways["1"]
    norm = np.linalg.norm(reference)
    apart = float(np.max([np.linalg.norm(way - reference) / norm for way in ways.values()]))
    if not apart < TOLERANCE:
        raise SystemExit(f"the numbers of devices disagree, nothing was timed: {apart:.1e}")
    steps: dict[str, Callable[[], Any]] = {name: side.step for name, side in sides.items()}
    seconds = race(steps, options.pairs, options.updates, console)
    for side in sides.values():
        side.pipe.send(False)
        side.process.join()
    runs = {name: [statistics.median(run) for run in timed] for name, timed in seconds.items()}
    return {
        "preset": config.preset,
        "algorithm": config.algorithm,
        "tasks": config.tasks,
        "pairs": options.pairs,
        "updates_per_run": options.updates,
        "parameters_apart": apart,
        "devices": {
            name: {
                "median_ms": 1e3 * statistics.median(run),
                "worst_ms": 1e3 * max(map(max, seconds[name])),
                "faster_than_one": [one / own for one, own in zip(runs["1"], run, strict=True)],
            }
            for name, run in runs.items()
        },
    }


def show(console: Console, report: dict[str, Any]) -> None:
    table = Table(
        "devices", "ms", "worst", "times one (range)",
        title=f"One update of {report['preset']}, {report['algorithm']}, {report['tasks']} tasks",
    )  # fmt: skip
    for name, row in report["devices"].items():
        ratios = row["faster_than_one"]
        times = (f"{row[key]:.1f}" for key in ("median_ms", "worst_ms"))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        table.add_row(name, *times, spread)
    console.print(table)
    console.print(
        f"Their parameters went the same way, to {report['parameters_apart']:.1e} of it. "
        f"{records.hardware()}.",
        highlight=False,
    )


def main() -> None:
    """Measures and prints."""
    options = tyro.cli(Options)
    records.check_names("preset", [options.preset], PRESETS)
    records.check_names("algorithm", [options.algorithm], ALGORITHMS)
    records.check_sizes(options)
    records.share_gpu()  # a process for each number of devices
    console = Console()
    try:
        report = measure(options, console)
    except ValueError as error:
        records.refuse(str(error))
    show(console, report)
    if options.json:
        records.write(options.json, report, "jaxlib")


if __name__ == "__main__":
    main()
