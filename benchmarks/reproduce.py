"""Are the published tables reproduced? Trains their settings and prints both results.

    python benchmarks/reproduce.py --quick             # a tenth of the updates: does all of it run?
    python benchmarks/reproduce.py sinusoid-10 point   # two tables, the settings as published
    python benchmarks/reproduce.py --runs runs/reproduce --json figures.json --plots pictures

A row is an entry of a table: one algorithm after a number of inner steps. Runs in `--runs` are not
repeated, so a stopped reproduction can be resumed. Where no published figure is given, none was
published as a number.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import records
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from measures import arrival, mean_so_far
from rich.console import Console
from rich.table import Table
from trained import Run, train

from metajax.presets import PRESETS


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
class Entry:
    """A line of a published table, or one that we add: one algorithm."""

    label: str
    preset: str
    flags: tuple[str, ...] = ()
    published: Mapping[int, float] = dataclasses.field(default_factory=dict)  # by inner steps
    row: str | None = None  # a row that the run is compared with, shown instead of the run
    steps: tuple[int, ...] | None = None  # inner steps, if not the table's


@dataclasses.dataclass(frozen=True)
class Setting:
    """A table."""

    title: str
    score: str  # what is reported
    steps: tuple[int, ...]
    entries: tuple[Entry, ...]
    source: str = ""
    sign: int = 1  # -1 reports an error, the negated score
    exact: Mapping[str, float] = dataclasses.field(default_factory=dict)  # lines to draw
    measure: Callable[[Path, str | None], dict[str, Any]] | None = None  # run, row -> figures


def _algorithm(label: str, preset: str, name: str, **published: Any) -> Entry:
    return Entry(label, preset, ("--algorithm", name), **published)


def _sinusoid(shots: int, maml: Mapping[int, float], meta_sgd: Mapping[int, float]) -> Setting:
    preset = f"sinusoid-{shots}"
    recipe = ("--inner-steps", "1", "--step-weights")  # the preset's own differ for five shots
    entries = [
        Entry("MAML", preset, recipe if shots == 5 else (), maml),
        *([Entry("MAML, loss after both of two steps", preset)] if shots == 5 else []),
        _algorithm("FOMAML", preset, "fomaml"),
        _algorithm("Reptile", preset, "reptile"),
        _algorithm("Meta-SGD", preset, "meta-sgd", published=meta_sgd),
        _algorithm("ANIL", preset, "anil"),
        _algorithm("CAVIA", preset, "cavia"),
        Entry("iMAML", preset, ("--algorithm", "imaml"), steps=(1, 5, 10, 50)),
        _algorithm("learned optimiser", preset, "learned-optimizer"),
    ]
    return Setting(
        f"{shots}-shot sine waves",
        "squared error",
        (1, 5, 10),
        tuple(entries),
        "MAML: clvrai/MAML-TensorFlow; Meta-SGD: 63days/Meta-SGD, where MAML has .670",
        sign=-1,
    )


def _oracle(preset: str, **published: Any) -> Entry:
    """The entry of an agent that observes its task and so has nothing to adapt to."""
    return Entry(
        "oracle, given the goal", preset, ("--algorithm", "oracle"), steps=(0,), **published
    )


def _corners(label: str, name: str, *flags: str) -> Entry:
    return Entry(label, "point-corners", ("--algorithm", name, *flags))


_CORNERS = (
    _corners("ProMP", "promp"),
    _corners("MAML, 100 updates too", "maml", "--updates", "100"),
    _corners("the same, at rate 3e-3", "maml", "--updates", "100", "--outer-learning-rate", "3e-3"),
    _corners("MAML, 500 updates", "maml"),
    _algorithm("MAML-TRPO", "point-corners", "maml-trpo"),
    Entry(
        "random initialisation",
        "point-corners",
        ("--algorithm", "maml"),
        row="random initialisation",
    ),
)

TABLES: dict[str, Setting] = {
    "sinusoid-5": _sinusoid(5, {1: 0.661, 5: 0.302, 10: 0.271}, {}),
    "sinusoid-10": _sinusoid(10, {1: 0.451, 5: 0.202, 10: 0.190}, {1: 0.3145}),
    "point": Setting(
        "point navigation, 20 episodes a step, rates .5 then .25",
        "undiscounted return",
        (0, 1, 2, 3),
        (
            _algorithm(
                "MAML-TRPO",
                "point-published",
                "maml-trpo",
                published={0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23},
            ),
            _algorithm("MAML, Adam", "point-published", "maml"),
            _algorithm("ProMP", "point-published", "promp"),
            _algorithm("NoRML", "point-published", "norml"),
            Entry(  # of NoRML's run: a first critic adds nothing, and λ is as published there
                "random initialisation",
                "point-published",
                ("--algorithm", "norml"),
                {0: -82.66, 1: -57.96, 2: -53.84, 3: -46.81},
                row="random initialisation",
            ),
            _oracle("point-published", published={0: -2.29}),
        ),
        "cbfinn/maml_rl, 40 goals: ± 4.1, 2.2, .6 and .6",
        exact={"standing still": -40.1, "optimum": -0.54},
    ),
    "point-corners": Setting(
        "navigation to one of four corners, sparse rewards",
        "undiscounted return",
        (0, 1, 2, 3),
        _CORNERS,
        "published as curves alone (Rothfuss et al. 2019); going in and out of a corner's quarter "
        "pays again and again",
    ),
    "point-corners-arrival": Setting(
        "where the episodes of the same runs end",
        "distance to the goal after the last step",
        (0, 1, 2, 3),
        _CORNERS,
        sign=-1,
        exact={"standing still": 2.83},
        measure=arrival,
    ),
    "gridworld": Setting(
        "VariBAD's gridworld, goal unseen",
        "return of an episode",
        (0, 1, 2, 3),
        (
            Entry("MAML", "gridworld"),
            Entry("random initialisation", "gridworld", row="random initialisation"),
            _algorithm("MAML++ rates", "gridworld", "maml++"),
            _algorithm("E-MAML", "gridworld", "emaml"),
            _algorithm("ProMP", "gridworld", "promp"),
            _algorithm("NoRML", "gridworld", "norml"),
            _algorithm("RL², after so many episodes", "gridworld", "rl2"),
            _oracle("gridworld"),
            Entry("Q-learning, MAML++", "gridworld-q"),
        ),
        exact={"Bayes-optimal, first episode": 4.0, "Bayes-optimal, later episodes": 11.071},
    ),
    "maze": Setting(
        "mazes of 9 by 9 squares, exit unseen",
        "return of an episode",
        (0, 1, 2, 3),
        (
            Entry("NoRML", "maze"),
            _algorithm("MAML", "maze", "maml"),
            _algorithm("random initialisation", "maze", "maml", row="random initialisation"),
            _algorithm("MAML++ rates", "maze", "maml++"),
            _algorithm("Meta-SGD", "maze", "meta-sgd"),
            _algorithm("FOMAML", "maze", "fomaml"),
            _algorithm("RL², after so many episodes", "maze", "rl2"),
        ),
    ),
    "bandit-10x5": Setting(
        "five arms with unseen odds, ten pulls an episode",
        "reward of an episode",
        (0, 1, 2, 3),
        (
            _algorithm(
                "RL², no other episode", "bandit-10x5", "rl2", published={0: 6.7}, steps=(0,)
            ),
            Entry("MAML, ten episodes a step", "bandit-10x5"),
        ),
        "Duan et al. 2016, whose Gittins index has 6.6 and Thompson sampling 5.7",
        exact={"Bayes-optimal": 6.66},
    ),
    "tabular-mdp": Setting(
        "random MDPs of ten states and five actions, ten episodes of ten steps",
        "mean return of a trial's episodes so far",
        (0, 3, 6, 9),
        (_algorithm("RL², after other episodes", "tabular-mdp", "rl2", published={9: 15.62}),),
        "Duan et al. 2016, whose PSRL has 13.81 over ten episodes, and acting at random 10.01",
        exact={"each task known from the start": 21.81},
        measure=mean_so_far,
    ),
    "maze-q": Setting(
        "the same mazes with time for 200 steps, by Q-learning",
        "return of the greedy episode",
        (0, 1, 3, 5, 10),
        (
            Entry("MAML++ rates", "maze-q"),
            _algorithm("MAML", "maze-q", "maml"),
            _algorithm("Meta-SGD", "maze-q", "meta-sgd"),
            _algorithm("Reptile", "maze-q", "reptile"),
            _algorithm("random initialisation", "maze-q", "maml", row="random initialisation"),
        ),
    ),
}


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
        folder = runs / _slug(entry.preset, *entry.flags)
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
        records.commit(),
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
    axes.set(title=setting.title, xlabel="inner steps", ylabel=setting.score)
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
    unknown = [name for name in chosen if name not in TABLES]
    if unknown:
        print(f"tables: unknown {', '.join(unknown)}; there are {', '.join(TABLES)}",
              file=sys.stderr)  # fmt: skip
        return 2
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen:
            made = reproduce(name, options.runs or Path(scratch), options.quick)
            Console().print(show(name, made))
            if options.plots:
                draw(name, made, options.plots / f"{name}.png")
            rows += made
            if options.json:  # after each table, as a full reproduction takes long
                record = {"quick": options.quick, "rows": [dataclasses.asdict(row) for row in rows]}
                records.write(options.json, record, "flax", "optax")
    return 0


if __name__ == "__main__":
    sys.exit(main())
