"""How long does each algorithm's program take to trace and to compile?

    python benchmarks/compile_time.py                          # every algorithm on `point`
    python benchmarks/compile_time.py gridworld --algorithms maml promp --repeats 3 --json f.json

The program is what `metajax train` compiles, a chunk of updates; it is neither run nor kept.
`startup.py` times a whole first start. Processor seconds are summed over all threads: on a machine
that does other work too, they are more reliable than wall-clock time.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

from metajax import experiments, presets, training
from metajax.catalogue import ALGORITHMS
from support import records


@dataclasses.dataclass(frozen=True)
class Options:
    """Times tracing, lowering and compilation of each algorithm's program."""

    preset: tyro.conf.Positional[str] = "point"
    """The preset."""
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """Algorithms; all by default."""
    repeats: int = 1
    """Compilations of each algorithm, with caches cleared in between."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


COLUMNS = ("trace", "lower", "compile", "all", "processor")


def seconds(preset: str, algorithm: str) -> dict[str, float]:
    """The seconds of each of `COLUMNS`, measured once.

    Raises:
        ValueError: an algorithm that does not fit the preset.
    """
    learner = experiments.build(presets.preset(preset, algorithm)).learner
    jax.clear_caches()
    processor, began = time.process_time(), time.perf_counter()
    traced = training.trace(learner)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lower = time.perf_counter()
    lowered.compile()
    ended = time.perf_counter()
    return {
        "trace": after_trace - began,
        "lower": after_lower - after_trace,
        "compile": ended - after_lower,
        "all": ended - began,
        "processor": time.process_time() - processor,
    }


def main() -> int:
    """Prints the table."""
    options = tyro.cli(Options)
    records.check_names("preset", [options.preset], presets.PRESETS)
    records.check_names("algorithms", options.algorithms, ALGORITHMS)
    records.check_sizes(options)
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_num_cpu_devices", records.cores())
    console = Console()
    table = Table("algorithm", *(f"{column} s" for column in COLUMNS), "worst of all s",
                  title=f"From an algorithm to its program: {options.preset}")  # fmt: skip
    rows: list[dict[str, Any]] = []
    for algorithm in options.algorithms:
        try:
            with console.status(f"{options.preset}: {algorithm}"):
                each = [seconds(options.preset, algorithm) for _ in range(options.repeats)]
        except ValueError as error:
            print(f"{options.preset}: {error}", file=sys.stderr)
            continue
        of_columns = {column: [one[column] for one in each] for column in COLUMNS}
        rows.append({"preset": options.preset, "algorithm": algorithm, **of_columns})
        medians = [statistics.median(values) for values in of_columns.values()]
        worst = max(of_columns["all"])
        table.add_row(algorithm, *(f"{value:.1f}" for value in (*medians, worst)))
        if options.json:  # after each, as all of them take long
            records.write(options.json, {"rows": rows}, "flax", "optax")
    console.print(table)
    return 0 if rows else 2


if __name__ == "__main__":
    sys.exit(main())
