"""How much time and memory does the derivative through K inner steps take?

    python benchmarks/derivatives.py                          # point: 1 and 16 steps
    python benchmarks/derivatives.py gridworld --steps 1 8 32

The meta-gradient over recorded batches is taken in three ways that must agree: ours, which
differentiates each recorded step forward over reverse; plain `jax.grad` through the steps, which
keeps every intermediate value; and the same with `jax.checkpoint` around each step, which
recomputes them. Memory is as reported by the compiler. All are timed in turn, one task at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.table import Table

from metajax import experiments, inner, replays, roofline
from metajax.compiling import compiler_options
from metajax.mapping import tiled
from metajax.presets import PRESETS
from metajax.types import Params, Problem
from support import records, screen
from support.timing import in_turn

MOST_DIFFERENCE = 1e-5  # of the meta-gradients, relative to their norm


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures the time and memory of the derivative through inner steps."""

    preset: tyro.conf.Positional[str] = "point"
    """The preset, one with episodes."""
    steps: tuple[int, ...] = (1, 16)
    """Numbers of inner steps."""
    tasks: int = 4
    """Number of tasks, taken one after another."""
    rate: float = 0.01
    """Learning rate of an inner step; small, because steps are many."""
    rounds: int = 7
    """How many times each way is timed."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


def ours(problem: Problem, optimiser: inner.Inner, params: Params, record: inner.Record) -> Params:
    """As in an update: adaptation, and its derivative from the record."""

    def objective(params: Params) -> Any:
        adapted = replays.replay(problem, optimiser, params, record)
        return problem.outer_loss(adapted, record.judged)[0]

    return jax.grad(objective)(params)


def plain(remat: bool) -> Callable[..., Params]:
    """Reverse over reverse, as one would write it without the engine."""

    def of(
        problem: Problem, optimiser: inner.Inner, params: Params, record: inner.Record
    ) -> Params:
        def step(carry: Any, batch: Any) -> tuple[Any, None]:
            params, opt_state = carry
            grads = jax.grad(lambda params: problem.inner_loss(params, batch)[0])(params)
            return inner.descend(optimiser.optimizer, grads, opt_state, params), None

        body = jax.checkpoint(step) if remat else step

        def objective(params: Params) -> Any:
            begin = (params, optimiser.optimizer.init(params))
            (adapted, _), _ = jax.lax.scan(body, begin, record.batches)
            return problem.outer_loss(adapted, record.judged)[0]

        return jax.grad(objective)(params)

    return of


WAYS = {"ours": ours, "tape": plain(remat=False), "checkpoint": plain(remat=True)}


def programs(problem: Problem, steps: int, options: Options) -> tuple[Any, dict[str, Any]]:
    """The arguments and the compiled program of every way."""
    optimiser = inner.sgd(options.rate, steps)

    def collect(params: Params, key: Any) -> inner.Record:
        key_task, key_steps = jax.random.split(key)
        task = problem.sample_task(key_task)
        _, record, _ = inner.run(problem, optimiser, params, task, key_steps)
        return dataclasses.replace(record, gradients=None)  # recomputed, as in every way

    params = problem.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), options.tasks)
    args = (params, jax.jit(jax.vmap(collect, (None, 0)))(params, keys))
    ways = {}
    for name, way in WAYS.items():
        of_one = tiled(functools.partial(way, problem, optimiser), 1)
        program = jax.jit(jax.vmap(of_one, (None, 0)), compiler_options=compiler_options())
        ways[name] = program.lower(*args).compile()
    return args, ways


def measure(problem: Problem, options: Options) -> list[dict[str, Any]]:
    """A row for each way and each number of steps."""
    compiled, args = {}, {}
    for steps in options.steps:
        args[steps], ways = programs(problem, steps, options)
        compiled |= {(steps, name): program for name, program in ways.items()}
    calls = {
        (steps, name): functools.partial(program, *args[steps])
        for (steps, name), program in compiled.items()
    }
    results = {key: jax.block_until_ready(call()) for key, call in calls.items()}
    times = in_turn(calls, options.rounds)
    return [
        {
            "steps": steps,
            "way": name,
            "seconds": statistics.median(times[steps, name]),
            "worst": max(times[steps, name]),
            "bytes": roofline.peak_bytes(program),
            "difference": difference(results[steps, name], results[steps, "ours"]),
        }
        for (steps, name), program in compiled.items()
    ]


def difference(one: Params, other: Params) -> float:
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in (one, other)]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))


def main() -> int:
    """Prints the table, and the ratios to the fewest steps and to the tape."""
    options = tyro.cli(Options)
    records.check_names("preset", [options.preset], PRESETS)
    records.check_sizes(options)
    config = dataclasses.replace(PRESETS[options.preset], devices=1)
    problem = experiments.build(config).problem
    if not problem.on_policy:
        records.refuse(f"preset: expected one with a batch for each step, got {options.preset}")
    rows = measure(problem, options)
    of = {(row["steps"], row["way"]): row for row in rows}
    fewest = min(options.steps)
    table = Table("steps", "way", "ms", "worst", "MiB", "time, tape 1", f"MiB, {fewest} steps 1")
    for (steps, way), row in of.items():
        cells = [f"{1e3 * row[key]:.1f}" for key in ("seconds", "worst")]
        slower = row["seconds"] / of[steps, "tape"]["seconds"]
        larger = row["bytes"] / of[fewest, way]["bytes"]
        table.add_row(
            str(steps), way, *cells, f"{row['bytes'] / 2**20:.2f}", f"{slower:.2f}", f"{larger:.2f}"
        )
    screen.show(table)
    worst = float(np.max([row["difference"] for row in rows]))
    print(f"the meta-gradients differ by {worst:.1e} of their norm at most")
    if options.json:
        records.write(options.json, {"preset": options.preset, "rows": rows}, "jaxlib")
    return 0 if worst <= MOST_DIFFERENCE else records.MISSED


if __name__ == "__main__":
    sys.exit(main())
