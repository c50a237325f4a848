"""The scores of an adaptation: their statistics over tasks, the report and the table."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from .files import write_whole

__all__ = ["Adaptation", "bootstrap_ci95", "iqm", "report", "save", "table"]

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, eq=False)  # its fields are arrays
class Adaptation:
    """Scores of adapting to N tasks by K inner steps, or over K+1 episodes by a memory.

    Attributes:
        score: (N, K+1) float, before the first inner step, ..., after the last.
        samples: (N,) int, environment steps or examples used for each task.
        oracle: (N,) float, the best score of each task, where known.
    """

    score: np.ndarray
    samples: np.ndarray
    oracle: np.ndarray | None = None

    def __repr__(self) -> str:
        means = " -> ".join(map(_number, self.mean))
        return f"<Adaptation to {self.tasks} tasks: {means}>"

    @property
    def tasks(self) -> int:
        return self.score.shape[0]

    @property
    def steps(self) -> list[int]:
        return list(range(self.score.shape[1]))

    @property
    def mean(self) -> np.ndarray:
        """(K+1,)."""
        return self.score.mean(axis=0)

    @functools.cached_property
    def ci95(self) -> np.ndarray:
        """(K+1, 2): see `bootstrap_ci95`."""
        return bootstrap_ci95(self.score)

    @property
    def iqm(self) -> np.ndarray:
        """(K+1,): see `iqm`."""
        return iqm(self.score)

    @property
    def negative_adaptation(self) -> float:
        """Share of the tasks whose score is lower after the last inner step than before the first.

        Scores of sampled episodes vary, so some tasks count here by chance alone. A score that is
        not finite after the last step counts as lower.
        """
        before, after = self.score[:, 0], self.score[:, -1]
        return float(np.mean((after < before) | ~np.isfinite(after)))

    @property
    def diverged(self) -> int:
        """Tasks whose score after the last inner step is not finite."""
        return int(np.sum(~np.isfinite(self.score[:, -1])))

    @functools.cached_property
    def normalised(self) -> Adaptation | None:
        """The same as shares of each task's best score; None unless that is positive everywhere."""
        if self.oracle is None or not np.all(self.oracle > 0):
            return None
        return Adaptation(self.score / self.oracle[:, None], self.samples)

    def to_json(self) -> dict[str, Any]:
        """Statistics over the tasks; numbers that are not finite become None."""
        out = {
            "mean": self.mean.tolist(),
            "ci95": self.ci95.tolist(),
            "iqm": self.iqm.tolist(),
            "oracle": None if self.oracle is None else float(self.oracle.mean()),
            "negative_adaptation": self.negative_adaptation,
        }
        share = self.normalised
        if share is not None:
            out["normalised"] = {"mean": share.mean.tolist(), "ci95": share.ci95.tolist()}
        return _finite(out)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Statistics ----------------------------------------------------------------------------------


def bootstrap_ci95(values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Percentile bootstrap interval of the mean over the first axis.

    Whole tasks are drawn with replacement: all columns of a resample are of the same tasks.

    Args:
        values: (N,) or (N, M).
        resamples: their number.
        seed: of the draws; the same values always get the same interval.

    Returns:
        (2,) or (M, 2): the 2.5th and 97.5th percentile of the means of the resamples.
    """
    values = np.asarray(values, np.float64)
    tasks = len(values)
    random = np.random.default_rng(seed)
    means = []
    block = max(1, 4_000_000 // tasks)  # bounds the memory that the counts take
    with np.errstate(invalid="ignore"):  # of tasks that diverged; the interval shows it
        for first in range(0, resamples, block):
            count = min(block, resamples - first)
            times_drawn = random.multinomial(tasks, np.full(tasks, 1 / tasks), size=count)
            means.append(times_drawn @ values / tasks)
        return np.moveaxis(np.percentile(np.concatenate(means), [2.5, 97.5], axis=0), 0, -1)


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the first axis: the mean of the middle half of the sorted values.

    Where a quarter of N is not whole, the values at the edges count in part. NaN, no score, counts
    as the lowest.
    Agarwal et al., "Deep RL at the edge of the statistical precipice", 2021, with exact trimming.

    Args:
        values: (N,) or (N, M).

    Returns:
        () or (M,).
    """
    values = np.asarray(values, np.float64)
    values = np.sort(np.where(np.isnan(values), -np.inf, values), axis=0)
    tasks = len(values)
    edges = np.arange(tasks + 1)
    # Value i stands for the interval [i, i+1]; its overlap with the middle half is its weight.
    inside = np.clip(edges, tasks / 4, 3 * tasks / 4)
    weight = np.diff(inside)
    counts = weight > 0  # what is not finite outside of the middle half has no part in it
    with np.errstate(invalid="ignore"):  # -inf and inf in it have no mean
        return weight[counts] @ values[counts] / (tasks / 2)


# Reporting -----------------------------------------------------------------------------------


def report(
    adaptation: Adaptation,
    *,
    preset: str,
    algorithm: str,
    comparisons: Mapping[str, Adaptation] | None = None,
) -> dict[str, Any]:
    """What `metajax evaluate --json` prints: statistics per inner step, JSON-able."""
    out = {
        "preset": preset,
        "algorithm": algorithm,
        "tasks": adaptation.tasks,
        "steps": adaptation.steps,
        **adaptation.to_json(),
    }
    if comparisons:
        out["comparisons"] = {name: other.to_json() for name, other in comparisons.items()}
    return out


def save(path: Path, rows: Mapping[str, Adaptation]) -> None:
    """Writes each row's scores, (N, K+1), by its name to an .npz file, and `optimal`, (N,).

    Row i of each is the same task.
    """
    arrays = {name: row.score for name, row in rows.items()}
    first = next(iter(rows.values()))
    if first.oracle is not None:
        arrays["optimal"] = first.oracle
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  (of any name but `file`)
    write_whole(path, content.getvalue())


def table(
    rows: Mapping[str, Adaptation],
    *,
    title: str,
    unit: str = "inner step",
    narrow: bool = False,
) -> Table:
    """The adaptation table: a row per starting point, a column per inner step.

    Args:
        rows: name -> its scores; the first is the one being evaluated, and gives the oracle.
        title: above the table.
        unit: what a column counts.
        narrow: whether to leave out the intervals, and to break headings.
    """
    first = next(iter(rows.values()))
    shown = _columns(first.steps)
    out = Table(title=title, title_justify="left", caption_justify="left")
    interval = "" if narrow else " and its bootstrap 95% interval"
    out.caption = f"mean over {first.tasks} held-out tasks{interval}; IQM: mean of the middle half"
    for name, row in rows.items():
        if row.diverged:
            out.caption += f"; {name}: {row.diverged} tasks ended in no finite score"
    out.add_column("score after", justify="left", overflow="fold")
    headings = [f"{step} {unit}{'' if step == 1 else 's'}" for step in shown]
    compares = len(first.steps) > 1  # a single score is neither better nor worse
    for heading in (*headings, "IQM", *["made worse"] * compares):
        lines = "\n".join(heading.rsplit(" ", 1)) if narrow else heading
        out.add_column(lines, justify="right", no_wrap=narrow)
    for name, row in rows.items():
        cells = [_cell(row, step, narrow) for step in shown]
        worse = [f"{row.negative_adaptation:.0%}"] * compares
        out.add_row(name, *cells, _number(row.iqm[-1]), *worse)
    if first.oracle is not None:
        out.add_section()
        optimal = [""] * (len(shown) - 1) + [_number(float(first.oracle.mean()))]
        out.add_row("optimal", *optimal, _number(float(iqm(first.oracle))))
    shares = {name: row.normalised for name, row in rows.items()}
    if all(share is not None for share in shares.values()):
        out.add_section()
        for name, share in shares.items():
            assert share is not None
            cells = [_cell(share, step, narrow) for step in shown]
            out.add_row(f"{name} / optimal", *cells, _number(share.iqm[-1]))
    return out


def _columns(steps: Sequence[int]) -> list[int]:
    """As many as fit a terminal: the first few steps and the last."""
    if len(steps) <= 5:
        return list(steps)
    return [0, 1, 2, 3, steps[-1]]


def _cell(row: Adaptation, step: int, narrow: bool) -> Text:
    mean = Text(_number(row.mean[step]))
    if narrow:
        return mean
    low, high = row.ci95[step]
    return mean + Text(f"\n[{_number(low)}, {_number(high)}]", style="dim")


def _number(value: float) -> str:
    """Three digits, as many of them decimals as the size allows."""
    if not math.isfinite(value):
        return "-"
    decimals = min(max(2 - math.floor(math.log10(max(abs(value), 1e-3))), 0), 3)
    return f"{value:.{decimals}f}"
