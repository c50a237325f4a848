"""What does a fixed set of a million mazes cost to make, save, load and sample?

    python benchmarks/tasksets.py --json figures.json

Sampling is timed inside jit, a batch per call, beside drawing fresh mazes in the same way.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.table import Table

import envs
from envs import TaskSet
from support import records, screen
from support.timing import timed


@dataclasses.dataclass(frozen=True)
class Options:
    """Times a set of mazes."""

    count: int = 1_000_000
    """Number of mazes."""
    size: int = 9
    """Squares along a side of each maze."""
    batch: int = 4096
    """Tasks sampled at once."""
    repeats: int = 9
    """Timed calls of each short operation."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


def seconds(function: Callable[..., Any], *arguments: Any, repeats: int = 1) -> float:
    """Median seconds of a call until its result is ready."""
    return statistics.median(timed(function, *arguments)[1] for _ in range(repeats))


def measure(options: Options) -> dict[str, float]:
    """The figures by name."""
    env = envs.make("maze", size=options.size)
    key, keys = jax.random.key(0), jax.random.split(jax.random.key(1), options.batch)
    began = time.perf_counter()
    tasks = TaskSet.make(env, key, options.count, unique=False)
    figures = {"make: s, compilation included": time.perf_counter() - began}
    figures["different tasks"] = len(np.unique(np.asarray(tasks.hashes), axis=0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.npz"
        figures["save: s"] = seconds(tasks.save, path)
        figures["on disk: bytes a task"] = path.stat().st_size / options.count
        figures["load: s, checks and hashes included"] = seconds(TaskSet.load, path, env)
    in_memory = sum(leaf.nbytes for leaf in jax.tree.leaves(tasks))
    figures["in memory: bytes a task"] = in_memory / options.count
    figures["split: s"] = seconds(tasks.split, 0.9, repeats=options.repeats)
    for name, sample in {
        "sample: ns a task": lambda tasks, keys: jax.vmap(tasks.sample)(keys),
        "draw afresh: ns a task": lambda _, keys: jax.vmap(env.sample_task)(keys),
    }.items():
        compiled = jax.jit(sample).lower(tasks, keys).compile()
        compiled(tasks, keys)
        taken = seconds(compiled, tasks, keys, repeats=options.repeats)
        figures[name] = 1e9 * taken / options.batch
    return figures


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    records.check_sizes(options)
    try:
        envs.make("maze", size=options.size)
    except ValueError as error:  # a side that no maze has
        records.refuse(str(error))
    figures = measure(options)
    side = f"{options.size} x {options.size}"
    table = Table("what", "figure", title=f"{options.count:,} mazes of {side} squares")
    table.columns[1].justify = "right"
    for what, value in figures.items():
        table.add_row(what, f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
    screen.show(table)
    if options.json:
        record = {
            "mazes": {"count": options.count, "size": options.size, "batch": options.batch},
            "figures": figures,
        }
        records.write(options.json, record, "numpy")


if __name__ == "__main__":
    main()
