"""How long from typing `metajax train` to the first finished update, with a cold compilation cache?

    python benchmarks/startup.py point maze --repeats 3 --json figures.json

Starts the command line in a fresh process and waits for the first line of `metrics.jsonl`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Options:
    """Times process start to first finished update."""

    presets: tyro.conf.Positional[tuple[str, ...]] = ("point", "maze", "gridworld", "sinusoid-10")
    """Presets to start."""
    repeats: int = 3
    """Fresh processes of each."""
    json: Path | None = None
    """Writes the figures there as well."""


def first_update_seconds(preset: str) -> float:
    """Process start to the first finished update of one fresh process, in seconds."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        command = [sys.executable, "-m", "metajax", "train", preset, "--run", str(run)]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--log-every", "1"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            metrics = run / "metrics.jsonl"
            while not (metrics.exists() and metrics.read_text().endswith("\n")):
                if process.poll() is not None:
                    raise RuntimeError(f"metajax train {preset} ended with {process.returncode}")
                time.sleep(0.01)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    table = Table("preset", "median s", "worst s", title="Process start to first finished update")
    record = {
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
        "seconds": {},
    }
    for preset in options.presets:
        seconds = [first_update_seconds(preset) for _ in range(options.repeats)]
        record["seconds"][preset] = seconds
        table.add_row(preset, f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
