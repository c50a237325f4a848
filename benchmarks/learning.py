"""Does adaptation learn what it should? Trains presets as a user would and reads their folders.

    python benchmarks/learning.py            # every preset that has a row
    python benchmarks/learning.py maze point --json figures.json

Each row is a figure, the bar it has to clear, and whether it did. Published values are from the
papers and repositories named in `ROWS`.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from metajax import presets
from support import records, screen
from support.scratch import from_scratch
from support.trained import Run, train


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains presets by the command line and checks the scores they reach."""

    presets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Presets to run; all that have figures by default."""
    runs: Path | None = None
    """Folder that keeps the runs and is reused for finished ones; a temporary one by default."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One row: a value and the bar it has to clear."""

    what: str
    value: Callable[[Run], float]
    bar: float
    at_least: bool = True
    beyond: str = ""

    def met(self, run: Run) -> bool:
        value = self.value(run)
        return value > self.bar if self.at_least else value <= self.bar


def _apart(step: int, row: str | None = None, other: int = 0) -> Callable[[Run], float]:
    """Lower end of the interval after `step` steps minus the upper end of the other one."""
    return lambda run: run.score(step, kind="ci95")[0] - run.score(other, row, "ci95")[1]


def _best_multitask(run: Run) -> float:
    row = run.adaptation["comparisons"]["multi-task policy"]
    stats = row.get("normalised", row)
    best = max(range(len(stats["mean"])), key=lambda step: stats["mean"][step])
    return run.score(run.last, kind="ci95")[0] - stats["ci95"][best][1]


def _error(step: int) -> Callable[[Run], float]:
    return lambda run: -run.score(step)


FROM_SCRATCH = ("maze", "gridworld-q", "maze-q")  # presets with a row for it
PLAIN = ("maze",)  # presets of another algorithm that are also compared with MAML
_SCRATCH = "from scratch, at its best rate"
_MAML = "plain MAML"
_TABLE = "published, clvrai/MAML-TensorFlow"
_PACE = Figure(
    "seconds of the updates, steady", Run.steady_seconds, 60.0, at_least=False, beyond="25"
)

_Q_LEARNING = [
    Figure("after over before: gap between 95% intervals", lambda r: _apart(r.last)(r), 0.0),
    Figure("over Q-learning from scratch, its rate tuned: gap between intervals",
           lambda r: _apart(r.last, _SCRATCH, r.last)(r), 0.0),
]  # fmt: skip

ROWS: dict[str, list[Figure]] = {
    "maze": [
        Figure("gain: share of optimum after - before", lambda r: r.score(r.last) - r.score(0), 0.0,
               beyond="+0.25"),
        Figure("after over before: gap between 95% intervals", lambda r: _apart(r.last)(r), 0.0),
        Figure("over the adapted random initialisation: gap between intervals",
               lambda r: _apart(r.last, "random initialisation", r.last)(r), 0.0),
        Figure("over adapting from scratch, its rate tuned: gap between intervals",
               lambda r: _apart(r.last, _SCRATCH, r.last)(r), 0.0),
        Figure("over the multi-task policy at its best step: gap between intervals",
               _best_multitask, 0.0),
        Figure("over plain MAML: share of optimum",
               lambda r: r.score(r.last) - r.score(r.last, _MAML), 0.1),
        Figure("seconds of the whole command", lambda r: r.wall_seconds, 240.0, at_least=False,
               beyond="180"),
    ],
    "gridworld": [
        Figure("after one step over before: gap between 95% intervals", _apart(1), 0.0),
    ],
    "gridworld-q": _Q_LEARNING,
    "maze-q": [
        Figure("share of optimum after the last step", lambda r: r.score(r.last), 0.7),
        *_Q_LEARNING,
    ],
    "tabular-mdp": [
        Figure("after one step over before: gap between 95% intervals", _apart(1), 0.0),
        Figure("over the multi-task policy at its best step: gap between intervals",
               _best_multitask, 0.0),
    ],
    "point": [
        Figure("return after 1 step", lambda r: r.score(1), -16.0, beyond="-11.7, cbfinn/maml_rl"),
        Figure("return after 3 steps", lambda r: r.score(3), -9.0, beyond="-3.2, cbfinn/maml_rl"),
    ],
    "sinusoid-10": [
        Figure("squared error after 1 step", _error(1), 0.40, False, f".451 {_TABLE}"),
        Figure("squared error after 5 steps", _error(5), 0.15, False, f".202 {_TABLE}"),
        _PACE,
    ],
    "sinusoid-5": [
        Figure("squared error after 1 step", _error(1), 0.66, False, f".661 {_TABLE}"),
        Figure("squared error after 5 steps", _error(5), 0.30, False, f".302 {_TABLE}"),
        _PACE,
    ],
}  # fmt: skip


def main() -> int:
    """Prints the table; exits with status 3 if a bar was missed."""
    options = tyro.cli(Options)
    chosen = options.presets or tuple(ROWS)
    records.check_names("presets with figures", chosen, ROWS)
    record: dict[str, Any] = {"figures": []}
    table = Table("preset", "figure", "bar", "beyond", "measured", "", title="Learning")
    with tempfile.TemporaryDirectory() as scratch:
        for preset in chosen:
            folder = (options.runs or Path(scratch)) / preset
            run = train(preset, folder)
            if preset in FROM_SCRATCH:
                config = presets.from_json(run.config["config"])
                run.adaptation["comparisons"][_SCRATCH] = from_scratch(config).to_json()
            if preset in PLAIN:
                flags = ("--algorithm", "maml", "--no-comparisons")
                plain = train(preset, folder.with_name(f"{preset}-maml"), flags)
                run.adaptation["comparisons"][_MAML] = plain.adaptation
            for figure in ROWS[preset]:
                value, met = figure.value(run), figure.met(run)
                bar = f"{'>' if figure.at_least else '≤'} {figure.bar:g}"
                verdict = "[green]met[/]" if met else "[red]missed[/]"
                table.add_row(preset, figure.what, bar, figure.beyond, f"{value:.3f}", verdict)
                record["figures"].append(
                    {
                        "preset": preset,
                        "figure": figure.what,
                        "bar": bar,
                        "value": value,
                        "met": met,
                    }
                )
    screen.show(table)
    if options.json:
        records.write(options.json, record, "flax", "optax")
    return 0 if all(row["met"] for row in record["figures"]) else records.MISSED


if __name__ == "__main__":
    sys.exit(main())
