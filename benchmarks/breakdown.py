"""Where does the time of an update go?

    python benchmarks/breakdown.py                                 # every preset with MAML
    python benchmarks/breakdown.py point maze --algorithms maml reptile promp
    python benchmarks/breakdown.py point --trace traces            # and keep the traces for XProf

A few updates of the program that training runs are traced by jax's own profiler. The engine marks
its parts with `jax.named_scope`; each traced instruction counts towards the part in its name in the
compiled program or, if the compiler has dropped that, the part that most of its computation belongs
to. Tracing slows small instructions more than large ones, so rollouts look more expensive than they
are. The host's time is what training takes beyond the program.
(Not `profile.py`: the standard library has a module of that name, which cProfile imports.)
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

import metajax as mj
from metajax import experiments, presets
from metajax.catalogue import ALGORITHMS
from metajax.presets import PRESETS
from support import records

PARTS = (
    "sample_task",
    "rollout",
    "advantage",
    "inner_gradient",
    "outer_gradient",
    "outer_update",
)  # the engine's scopes
MEETING = {"all-reduce", "all-gather", "reduce-scatter"}  # collectives: data transfer and waiting
CONTAINERS = {"while", "call", "conditional"}  # their instructions are counted one by one
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclasses.dataclass(frozen=True)
class Options:
    """Splits the time of a meta-update into its parts."""

    presets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Presets; all by default."""
    algorithms: tuple[str, ...] = ("maml",)
    """Algorithms."""
    updates: int = 3
    """Number of updates to trace."""
    trace: Path | None = None
    """Keeps the traces in this folder, for XProf or Perfetto."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


def _part(path: str) -> str | None:
    """The innermost of the engine's scopes in an instruction's name."""
    return next((word for word in re.split(r"[/()]", path)[::-1] if word in PARTS), None)


def parts_of(program: str) -> dict[str, str]:
    """The part that each instruction of a compiled program, given as text, belongs to."""
    part_of: dict[str, str | None] = {}
    home: dict[str, str] = {}
    votes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    computation = ""
    for line in program.splitlines():
        if begun := _COMPUTATION.match(line):
            computation = begun[1]
        if not (found := _INSTRUCTION.match(line)):
            continue
        name, rest = found.groups()
        kind = re.search(r"[\]})] ([a-z][a-z\-]*)\(", rest)
        if kind and kind[1] in CONTAINERS:
            continue
        path = re.search(r'op_name="([^"]*)"', rest)
        part = _part(path[1]) if path else None
        if kind and kind[1].removesuffix("-start").removesuffix("-done") in MEETING:
            part = "devices meet"
        part_of[name], home[name] = part, computation
        if part:
            votes[computation][part] += 1
    return {
        name: part or (votes[home[name]].most_common(1) or [("other", 0)])[0][0]
        for name, part in part_of.items()
    }


def traced(folder: Path, program: Any, state: Any, updates: int) -> dict[str, float]:
    """Nanoseconds of each part in a trace of `updates` updates, summed over devices."""
    with jax.profiler.trace(str(folder)):
        for _ in range(updates):
            state, _ = jax.block_until_ready(program(state))
    file = max(folder.glob("**/*.xplane.pb"), key=os.path.getmtime)  # earlier ones may be kept
    parts, spent = parts_of(program.as_text()), collections.Counter[str]()
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in parts:
                    spent[parts[event.name]] += event.duration_ns
    return dict(spent)


def breakdown(preset: str, algorithm: str, options: Options, folder: Path) -> dict[str, Any]:
    """One row: the milliseconds of an update and the share of each part."""
    learner = experiments.build(presets.preset(preset, algorithm)).learner
    state = jax.jit(learner.init)(jax.random.key(0))
    program = jax.jit(learner.update, compiler_options=mj.compiler_options()).lower(state).compile()
    state, _ = jax.block_until_ready(program(state))
    began = time.perf_counter()
    for _ in range(options.updates):
        state, _ = jax.block_until_ready(program(state))
    alone = (time.perf_counter() - began) / options.updates
    spent = traced(folder, program, state, options.updates)
    total = sum(spent.values())
    return {
        "preset": preset,
        "algorithm": algorithm,
        "update_ms": 1e3 * alone,
        "host_ms": max(1e3 * (_training_seconds(learner, options.updates) - alone), 0.0),
        "shares": {part: value / total for part, value in sorted(spent.items())},
    }


def _training_seconds(learner: mj.MetaLearner, updates: int) -> float:
    """Seconds of an update in `mj.train`, from its first line of metrics to its last."""
    rows: list[dict[str, Any]] = []
    mj.train(learner, updates=3 * updates, log_every=updates, progress=False, on_log=rows.append)
    first, last = rows[0], rows[-1]
    return (last["seconds"] - first["seconds"]) / (last["update"] - first["update"])


def main() -> int:
    """Prints the table."""
    options = tyro.cli(Options)
    records.check_names("presets", options.presets, PRESETS)
    records.check_names("algorithms", options.algorithms, ALGORITHMS)
    records.check_sizes(options)
    jax.config.update("jax_num_cpu_devices", records.cores())
    columns = (*PARTS, "devices meet", "other")
    table = Table(title="Share of an update, %", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("preset", "algorithm", "ms"):
        table.add_column(heading, no_wrap=True)
    for heading in (*columns, "host ms"):  # a word a line
        table.add_column(heading.replace("_", "\n").replace(" ", "\n"), justify="right")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for preset in options.presets or tuple(PRESETS):
            for algorithm in options.algorithms:
                folder = (options.trace or Path(scratch)) / f"{preset}-{algorithm}"
                try:
                    row = breakdown(preset, algorithm, options, folder)
                except ValueError as error:  # an algorithm that does not fit this kind of problem
                    print(f"{preset}, {algorithm}: {error}", file=sys.stderr)
                    continue
                rows.append(row)
                shares = [f"{100 * row['shares'].get(name, 0.0):.1f}" for name in columns]
                table.add_row(preset, algorithm, f"{row['update_ms']:.1f}", *shares,
                              f"{row['host_ms']:.1f}")  # fmt: skip
    Console().print(table)
    if options.json:
        records.write(options.json, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
