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

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import tyro

import metajax as mj
from metajax import experiments, presets
from metajax.catalogue import ALGORITHMS
from metajax.presets import PRESETS
from support import records, screen, traces


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
    spent = traces.traced(folder, program, state, options.updates)
    return {
        "preset": preset,
        "algorithm": algorithm,
        "update_ms": 1e3 * alone,
        "host_ms": max(1e3 * (_training_seconds(learner, options.updates) - alone), 0.0),
        "shares": traces.shares_of(spent),
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
    table = traces.table_of_shares(("preset", "algorithm", "ms"), ("host ms",))
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
                shares = traces.cells(row["shares"])
                table.add_row(
                    preset, algorithm, f"{row['update_ms']:.1f}", *shares, f"{row['host_ms']:.1f}"
                )
    screen.show(table)
    if options.json:
        records.write(options.json, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
