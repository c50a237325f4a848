"""Are the published tables reproduced? Trains their settings and prints both results.

    python benchmarks/reproduce.py --quick                          # a tenth of the updates
    python benchmarks/reproduce.py sinusoid-10 point-as-published   # two tables
    python benchmarks/reproduce.py --runs runs/reproduce --json figures.json --plots pictures

A row is an entry of a table: one algorithm after a number of inner steps. Runs in `--runs` are not
repeated, so a stopped reproduction can be resumed. Where no published figure is given, none was
published as a number.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from rich.table import Table

from metajax.presets import PRESETS
from support import records, screen
from support.published import TABLES, Entry
from support.trained import Run, train


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains published settings and compares the results with the published ones."""

    tables: tyro.conf.Positional[tuple[str, ...]] = ()
    """Tables to reproduce; all by default."""
    quick: bool = False
    """A tenth of the updates and fewer held-out tasks: a check that it runs, not of its results."""
    runs: Path | None = None
    """Folder that keeps the runs and is reused for finished ones; a temporary one by default."""
    json: Path | None = None
    """Also writes the entries to this JSON file."""
    plots: Path | None = None
    """Draws a picture of each table into this folder."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What one entry reached after one number of inner steps."""

    table: str
    entry: str
    steps: int
    published: float | None
    ours: float | None  # None: the parameters diverged
    interval: tuple[float, float] | None  # 95%
    updates: int
    seconds: float  # of the whole command, training and evaluation
    env_steps: int  # of training, or examples
    commit: str | None  # see `records.commit`: tables may be of different days


def _shortened(preset: str) -> tuple[str, ...]:
    updates = max(PRESETS[preset].updates // 10, 20)
    return ("--updates", str(updates), "--evaluation-tasks", "128")


def _slug(*words: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-+." else "_" for c in "-".join(words))
    return kept.replace("---", "-").strip("-_")


def reproduce(name: str, runs: Path, quick: bool) -> list[Row]:
    """The rows of one table."""
    setting = TABLES[name]
    rows = []
    for entry in setting.entries:
        flags = (*entry.flags, "--no-comparisons", *(_shortened(entry.preset) if quick else ()))
        steps = entry.steps or setting.steps
        wanted = ("--evaluation-steps", str(max(steps)))
        folder = runs / _slug(*["quick"] * quick, entry.preset, *entry.flags)
        run = train(entry.preset, folder, (*flags, *wanted))
        measured = setting.measure(folder, entry.row) if setting.measure else run.stats(entry.row)
        rows += [_row(name, entry, step, run, measured) for step in steps]
    return rows


def _row(table: str, entry: Entry, step: int, run: Run, stats: dict[str, Any]) -> Row:
    sign = TABLES[table].sign
    mean, ends = stats["mean"][step], stats["ci95"][step]
    ours = interval = None
    if mean is not None and None not in ends:
        low, high = sorted(sign * end for end in ends)
        ours, interval = sign * mean, (low, high)
    return Row(
        table,
        entry.label,
        step,
        entry.published.get(step),
        ours,
        interval,
        run.metrics[-1]["update"],
        run.wall_seconds,
        run.metrics[-1]["env_steps"],
        run.commit,
    )


def show(name: str, rows: Sequence[Row]) -> Table:
    """One table, as printed."""
    setting = TABLES[name]
    table = Table(
        "algorithm", "steps", "published", "ours", "95% interval", "updates", "seconds",
        title=f"{name}: {setting.title}; {setting.score}", caption=setting.source or None,
    )  # fmt: skip
    entries = [row.entry for row in rows]
    for i, row in enumerate(rows):
        first = row.entry not in entries[:i]
        table.add_row(
            row.entry if first else "",
            str(row.steps),
            "" if row.published is None else f"{row.published:.3f}",
            "diverged" if row.ours is None else f"{row.ours:.3f}",
            f"{row.interval[0]:.3f} to {row.interval[1]:.3f}" if row.interval else "",
            f"{row.updates}" if first else "",
            f"{row.seconds:.0f}" if first else "",
            end_section=row.entry not in entries[i + 1 :],
        )
    for label, value in setting.exact.items():
        table.add_row(label, "", f"{value:.3f}", "", "exact", "", "")
    return table


def draw(name: str, rows: Sequence[Row], path: Path) -> None:
    """Plots ours with intervals over inner steps, and published values as open circles."""
    setting = TABLES[name]
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels = [entry.label for entry in setting.entries]
    for index, label in enumerate(labels):
        mine = [row for row in rows if row.entry == label and row.steps <= setting.steps[-1]]
        spread = 0.12 * (index / max(len(labels) - 1, 1) - 0.5)  # intervals side by side
        points = [
            (row.steps + spread, row.ours, *(abs(end - row.ours) for end in row.interval))
            for row in mine
            if row.ours is not None and row.interval is not None
        ]
        steps, ours, below, above = zip(*points, strict=True) if points else [()] * 4
        colour, marker = f"C{index}", "os^DvP*X"[index % 8]
        axes.errorbar(steps, ours, (below, above), color=colour, marker=marker, label=label)
        theirs = [(row.steps, row.published) for row in mine if row.published is not None]
        if theirs:
            axes.plot(*zip(*theirs, strict=True), "o", color=colour, ms=11, fillstyle="none")
    for label, value in setting.exact.items():
        axes.axhline(value, color="0.4", linestyle=":", linewidth=1)
        # Between the first two steps, where no point hides it, and over the lines that pass.
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axes.annotate(label, (sum(setting.steps[:2]) / 2, value), (0, 3), fontsize=8, color="0.4",
                      textcoords="offset points", ha="center", bbox=behind, zorder=5)  # fmt: skip
    if any(row.published is not None for row in rows):
        axes.plot([], [], "o", color="0.3", ms=11, fillstyle="none", label="published")
    axes.margins(y=0.1)  # room for a line's label below the title
    axes.set(title=setting.title, xlabel=setting.unit, ylabel=setting.score)
    axes.set_xticks(setting.steps)
    if setting.sign < 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        # A diverging algorithm would hide the others.
        first = [row.ours for row in rows if row.steps == setting.steps[0] and row.ours is not None]
        axes.set_ylim(top=1.5 * max(first))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def main() -> int:
    """Prints each table when it is finished."""
    options = tyro.cli(Options)
    chosen = options.tables or tuple(TABLES)
    records.check_names("tables", chosen, TABLES)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen:
            made = reproduce(name, options.runs or Path(scratch), options.quick)
            screen.show(show(name, made))
            if options.plots:
                draw(name, made, options.plots / f"{name}.png")
            rows += made
            if options.json:  # after each table, as a full reproduction takes long
                record = {"quick": options.quick, "rows": [dataclasses.asdict(row) for row in rows]}
                records.write(options.json, record, "flax", "optax")
    return 0


if __name__ == "__main__":
    sys.exit(main())
