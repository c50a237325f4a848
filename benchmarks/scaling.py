"""How do the time and the memory of an update grow with tasks, inner steps and width?

    python benchmarks/scaling.py --json figures.json --plot figures.svg
    python benchmarks/scaling.py --quick                 # the small sizes: does all of it run?

For every size, the program that training runs is compiled anew; memory is as reported by the
compiler, time that of single updates. The sizes of a sweep are timed in turn, so that a busy minute
affects all of them. Sweeps that are in `--json` already are not measured again, so a stopped script
can be resumed, on the same machine and of the same sources.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from metajax import experiments, roofline, training
from metajax.configs import TrainConfig
from metajax.presets import PRESETS
from support import records
from support.timing import in_turn, timed

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """Times updates of many sizes."""

    preset: str = "gridworld"
    """The preset to train; its episodes and tasks are set here."""
    episodes: int = 4
    """Episodes of an inner step; few, so that 65 536 tasks take seconds."""
    chunk: int = 256
    """Tasks per device computed at once, except where inner steps vary."""
    only: tuple[str, ...] = ()
    """Sweeps: tasks, steps, width; all by default."""
    repeats: int = 5
    """Timed updates of each size."""
    quick: bool = False
    """The first three sizes of each sweep, twice each."""
    json: Path | None = None
    """Writes the figures to this JSON file, and resumes from what it has."""
    plot: Path | None = None
    """Plots time and memory to this file, with the fitted exponents."""


class Sweep(NamedTuple):
    """One thing that varies."""

    sizes: tuple[int, ...]
    change: Callable[[int], Mapping[str, Any]]  # size -> fields of the configuration


SWEEPS = {
    "tasks": Sweep((16, 64, 256, 1024, 4096, 16384, 65536), lambda n: {"tasks": n}),
    # Here the chunk is chosen automatically for each size.
    "steps": Sweep((1, 2, 4, 8, 16, 32), lambda n: {"inner_steps": n, "chunk": None}),
    "width": Sweep((16, 32, 64, 128, 256, 512), lambda n: {"hidden": (n, n)}),
}

# Sweep, figure, numerator, denominator, and the most that their ratio should be.
BARS = (
    ("tasks", "memory", 16384, 1024, 1.15),
    ("tasks", "time of a task", 16384, 256, 1.05),
    ("steps", "memory", 16, 1, 2.0),
    ("steps", "time of a batch", 16, 1, 1.4),
)


class Side(NamedTuple):
    """One size, compiled."""

    program: Callable[..., Any]
    state: Any
    compile_s: float
    first_s: float
    memory: int  # bytes per device


def build(config: TrainConfig) -> Side:
    learner = experiments.build(config).learner
    began = time.perf_counter()
    program = training.trace(learner).lower().compile()
    compile_s = time.perf_counter() - began
    state = jax.jit(learner.init, out_shardings=program.input_shardings[0][0])(jax.random.key(0))
    (state, _), first_s = timed(program, state, np.int32(1))
    return Side(program, state, compile_s, first_s, roofline.peak_bytes(program))


def measure(sides: Mapping[int, Side], repeats: int) -> dict[int, Figures]:
    """Times single updates of all sizes in turn, `repeats` times, each until it is done.

    One that is not timed goes before: after a size that takes a hundred times the memory, an update
    finds neither its caches nor its pages.
    """
    states = {size: side.state for size, side in sides.items()}

    def update(size: int) -> Any:
        states[size], metrics = sides[size].program(states[size], np.int32(1))
        return states[size], metrics

    calls = {size: functools.partial(update, size) for size in sides}
    times = in_turn(calls, repeats, before=1)
    return {
        size: {
            "seconds": statistics.median(times[size]),
            "worst": max(times[size]),
            "first": side.first_s,
            "compile": side.compile_s,
            "bytes": side.memory,
        }
        for size, side in sides.items()
    }


def exponent(points: Mapping[int, Figures], figure: str) -> float:
    """The slope of a straight line fitted to the logarithms."""
    sizes = sorted(points)
    logs = np.log([points[size][figure] for size in sizes])
    return float(np.polyfit(np.log(sizes), logs, 1)[0]) if len(sizes) > 1 else float("nan")


def ratio(points: Mapping[int, Figures], figure: str, over: int, under: int) -> float | None:
    if over not in points or under not in points:
        return None
    top, bottom = points[over], points[under]
    if figure == "memory":
        return top["bytes"] / bottom["bytes"]
    shared = {"time of a task": lambda n: n, "time of a batch": lambda n: n + 1}
    each = shared.get(figure, lambda n: 1)
    return top["seconds"] / each(over) / (bottom["seconds"] / each(under))


def draw(path: Path, sweeps: Mapping[str, Mapping[int, Figures]]) -> None:
    figure = Figure(figsize=(4 * len(sweeps), 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(sweeps), squeeze=False)
    rows = (("seconds", "seconds an update"), ("bytes", "bytes of a device"))
    for column, (name, points) in enumerate(sweeps.items()):
        sizes = sorted(points)
        for row, (key, label) in enumerate(rows):
            axis = axes[row][column]
            axis.loglog(sizes, [points[n][key] for n in sizes], "o-", base=2)
            axis.set_title(f"{name}: exponent {exponent(points, key):.2f}")
            axis.set_ylabel(label if column == 0 else "")
    figure.savefig(path)


def main() -> int:
    """Measures what is missing, and prints everything."""
    options = tyro.cli(Options)
    records.check_names("preset", [options.preset], PRESETS)
    records.check_names("only", options.only, SWEEPS)
    records.check_sizes(options)
    jax.config.update("jax_num_cpu_devices", records.cores())
    base = dataclasses.replace(PRESETS[options.preset], chunk=options.chunk)
    if hasattr(base, "episodes"):
        base = dataclasses.replace(base, episodes=options.episodes)
    settings = {
        "preset": options.preset,
        "episodes": options.episodes,
        "chunk": options.chunk,
        "repeats": 2 if options.quick else options.repeats,
    }
    record: dict[str, Any] = {"settings": settings, "sweeps": {}}
    if options.json and options.json.exists():
        kept = records.read(options.json)
        if kept.get("settings") != settings:
            records.refuse(f"{options.json}: holds other settings, {kept.get('settings')}")
        if records.same_sources(kept.get("commit")) and kept["hardware"] == records.hardware():
            record |= {key: kept[key] for key in record}
        else:
            print(f"{options.json}: is of other sources or hardware, measured anew")
    sweeps: dict[str, dict[int, Figures]] = {
        name: {int(size): point for size, point in points.items()}
        for name, points in record["sweeps"].items()
    }
    record["sweeps"] = sweeps
    console = Console()
    for name in options.only or SWEEPS:
        sweep = SWEEPS[name]
        points = sweeps.setdefault(name, {})
        missing = [n for n in sweep.sizes[: 3 if options.quick else None] if n not in points]
        for size in missing:
            console.print(f"{name} {size}: compiling", highlight=False)
        sides = {n: build(dataclasses.replace(base, **sweep.change(n))) for n in missing}
        points |= measure(sides, settings["repeats"])
        if options.json:
            records.write(options.json, record, "jaxlib")
    met = report(console, record)
    if options.plot:
        draw(options.plot, sweeps)
    return 0 if met else records.MISSED


def report(console: Console, record: Mapping[str, Any]) -> bool:
    """Prints the figures; whether every bar that they reach to is met."""
    met = True
    sweeps = record["sweeps"]
    table = Table("sweep", "size", "ms an update", "worst", "compile s", "MiB a device")
    for name, points in sweeps.items():
        for size in sorted(points):
            p = points[size]
            times = [f"{1e3 * p[key]:.1f}" for key in ("seconds", "worst")]
            compiled, memory = f"{p['compile']:.1f}", f"{p['bytes'] / 2**20:.2f}"
            table.add_row(name, str(size), *times, compiled, memory)
    console.print(table)
    for name, points in sweeps.items():
        slopes = [f"{key} {exponent(points, key):.2f}" for key in ("seconds", "bytes")]
        console.print(f"{name}, exponents: {', '.join(slopes)}", highlight=False)
    for name, figure, over, under, bar in BARS:
        found = ratio(sweeps.get(name, {}), figure, over, under)
        if found is not None:
            line = f"{figure}, {name} {over} against {under}: {found:.2f}x"
            console.print(line + f" (wanted: at most {bar})", highlight=False)
            met &= found <= bar
    return met


if __name__ == "__main__":
    sys.exit(main())
