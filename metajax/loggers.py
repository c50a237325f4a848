"""What a run says while it runs: a line of JSON per log, and progress for people."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from .files import write_whole

__all__ = ["CLOCK_FIELDS", "MetricsError", "MetricsLog", "Reporter", "read_metrics"]

# The only fields of a line that differ between two runs of one configuration and seed.
CLOCK_FIELDS = ("seconds", "roofline")


class MetricsError(ValueError):
    """A log that cannot be read; the message is one line and says where."""


class MetricsLog:
    """Appends to `metrics.jsonl`, a line at a time, each with the system when `write` returns.

    So a killed process loses none, and a machine that stops may lose the last.

    Args:
        path: the file. Lines of updates after `keep_until` are removed first, and so is a torn last
            line that a killed process left.
        keep_until: updates done by the state that the run resumes from.
    """

    def __init__(self, path: str | os.PathLike[str], keep_until: int = 0) -> None:
        path = Path(path)
        kept = [row for row in read_metrics(path) if row["update"] <= keep_until]
        if path.exists():
            write_whole(path, "".join(map(_line, kept)))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(row: Mapping[str, Any]) -> str:
    # JSON has no word for nan and infinity.
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(finite) + "\n"


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, empty where there is none; a torn last line is left out.

    Raises:
        MetricsError: another line is damaged.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            numbers = all(value is None or isinstance(value, int | float) for value in row.values())
            if not line.endswith("\n") or not isinstance(row["update"], int) or not numbers:
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            if number == len(lines):
                break
            raise MetricsError(f"{path}: line {number} is not a line of metrics") from None
        rows.append(row)
    return rows


class Reporter:
    """Progress of a training run, for people: a bar where one can move, else plain lines.

    Args:
        updates: how many there will be.
        title: names the run.
        show: False for silence; None is as True.
    """

    _SECONDS_BETWEEN_LINES = 5.0

    def __init__(self, updates: int, title: str, show: bool | None = None) -> None:
        self._updates = updates
        self._title = title
        self._show = show is not False
        console = Console(stderr=True)
        moving = console.is_terminal and not console.is_dumb_terminal
        if console.is_jupyter:  # there, a bar needs widgets, and stderr looks like an error
            moving = importlib.util.find_spec("ipywidgets") is not None
        self._stream = sys.stdout if console.is_jupyter else sys.stderr
        self._bar = _bar(console) if self._show and moving else None
        self._task = None
        self._last_line = -math.inf

    def start(self, update: int) -> None:
        """`update` are done already; what comes next is compiling."""
        if self._bar is not None:
            self._task = self._bar.add_task(
                self._title, total=self._updates, completed=update, text="compiling"
            )
            self._bar.start()
        elif self._show:
            self._print(f"{self._title}: compiling")

    def report(self, row: Mapping[str, Any], steps_per_second: float, pace: float) -> None:
        """Shows a logged row.

        Args:
            row: as in `metrics.jsonl`.
            steps_per_second: of the environment; 0 where there is none.
            pace: seconds an update takes.
        """
        text = _summary(row, steps_per_second, pace * (self._updates - row["update"]))
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=row["update"], text=text)
        elif self._show:
            now = time.monotonic()
            last = row["update"] >= self._updates
            if last or now - self._last_line >= self._SECONDS_BETWEEN_LINES:
                self._last_line = now
                self._print(f"{self._title}: {row['update']}/{self._updates}  {text}")

    def note(self, text: str) -> None:
        """Says one line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._show:
            self._print(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total} updates"),
        TextColumn("{task.fields[text]}"),
        console=console,
        expand=True,
    )


def _summary(row: Mapping[str, Any], steps_per_second: float, seconds_left: float) -> str:
    parts = []
    if steps_per_second > 0:
        parts.append(f"{_short(steps_per_second)} steps/s")
    before, after = row.get("score_before"), row.get("score_after")
    if before is not None and after is not None:
        parts.append(f"score {before:.3g} → {after:.3g}")
    minutes, seconds = divmod(max(round(seconds_left), 0), 60)
    parts.append(f"{minutes}:{seconds:02d} left")
    return "  ".join(parts)


def _short(number: float) -> str:
    """1234567 -> 1.23M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
