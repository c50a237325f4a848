"""How long does `metajax train` take to its first finished update, cold and warm?

    python benchmarks/startup.py point maze --repeats 3 --json figures.json
    python benchmarks/startup.py --algorithms all                # every algorithm, every preset

Starts the command line in a fresh process and waits for the first line of `metrics.jsonl`: first
with an empty compilation cache, then with the cache that the first start left.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from metajax.catalogue import ALGORITHMS
from metajax.presets import PRESETS
from support import records, screen


@dataclasses.dataclass(frozen=True)
class Options:
    """Times from process start to the first finished update."""

    presets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Presets to start; all by default."""
    algorithms: tuple[str, ...] = ("maml",)
    """Algorithms to start them with, or `all`."""
    repeats: int = 1
    """Pairs of a cold and a warm start for each."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


class Refused(Exception):
    """The command line refuses and says why, usually an algorithm that does not fit the preset."""


def first_update_seconds(preset: str, algorithm: str, programs: Path) -> float:
    """Seconds from the start of a fresh process to its first finished update."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"  # as the command line does
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile("w+") as said:
        run = Path(scratch) / "run"
        command = [sys.executable, "-m", "metajax", "train", preset, "--run", str(run)]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--algorithm", algorithm, "--log-every", "1"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            metrics = run / "metrics.jsonl"
            while not (metrics.exists() and metrics.read_text().endswith("\n")):
                if process.poll() is not None:
                    said.seek(0)
                    why = said.read().strip() or f"ended with {process.returncode}"
                    raise Refused(why) if process.returncode == 2 else RuntimeError(why)
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            process.terminate()  # as a user would: what it compiled is cached before it exits
            process.wait()


def starts(preset: str, algorithm: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each cold and each warm start."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as programs:
            for of_kind in seconds.values():
                of_kind.append(first_update_seconds(preset, algorithm, Path(programs)))
    return seconds


def main() -> int:
    """Prints the table."""
    options = tyro.cli(Options)
    algorithms = tuple(ALGORITHMS) if options.algorithms == ("all",) else options.algorithms
    records.check_names("presets", options.presets, PRESETS)
    records.check_names("algorithms", algorithms, ALGORITHMS)
    records.check_sizes(options)
    records.share_gpu()  # with the process that is timed
    table = Table("preset", "algorithm", "cold s", "worst", "warm s", "worst",
                  title="Process start to first finished update")  # fmt: skip
    rows: list[dict[str, Any]] = []
    for preset in options.presets or tuple(PRESETS):
        for algorithm in algorithms:
            try:
                seconds = starts(preset, algorithm, options.repeats)
            except Refused as refused:
                print(f"{preset}, {algorithm}: {refused}", file=sys.stderr)
                continue
            rows.append({"preset": preset, "algorithm": algorithm} | seconds)
            if options.json:  # so far: all presets with all algorithms take most of an hour
                records.write(options.json, {"rows": rows})
            figures = [f(seconds[kind]) for kind in seconds for f in (statistics.median, max)]
            table.add_row(preset, algorithm, *(f"{figure:.1f}" for figure in figures))
    screen.show(table)
    return 0 if rows else 2


if __name__ == "__main__":
    sys.exit(main())
