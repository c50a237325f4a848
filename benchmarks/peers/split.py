"""Where the time of one update goes, in metajax and in PyTorch, in the same parts.

Each side runs under its own profiler, which writes a trace. metajax's is read as in `breakdown.py`.
PyTorch's parts are those marked by `record_function`; this works on a CPU, where a call returns
when its work is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import breakdown
import torch
from rich import box
from rich.table import Table

from .maml import PARTS

__all__ = ["metajax_split", "show_split", "torch_split"]

_UPDATE = "update"


def metajax_split(folder: Path, program: Any, state: Any, updates: int) -> dict[str, float]:
    """The share of each part of a compiled update.

    Args:
        folder: where the trace is written.
        program: the compiled update.
        state: its argument.
        updates: how many are traced.
    """
    spent = breakdown.traced(folder, program, state, updates)
    return {part: value / sum(spent.values()) for part, value in spent.items()}


def torch_split(file: Path, step: Callable[[], Any], updates: int) -> dict[str, float]:
    """The share of each part of an update on a CPU; the trace goes to `file`."""
    with torch.profiler.profile() as trace:
        for _ in range(updates):
            with torch.profiler.record_function(_UPDATE):
                step()
    trace.export_chrome_trace(str(file))
    spent = {event.key: event.cpu_time_total for event in trace.key_averages()}
    shares: dict[str, float] = {part: spent[part] / spent[_UPDATE] for part in PARTS}
    return shares | {"other": 1.0 - sum(shares.values())}


def show_split(splits: Mapping[str, Mapping[str, float]]) -> Table:
    """Prints the shares of all sides side by side."""
    columns = [*PARTS, "devices meet", "other"]
    table = Table(
        title="Share of an update, %", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("side", no_wrap=True)
    for heading in columns:  # a word a line
        table.add_column(heading.replace("_", "\n").replace(" ", "\n"), justify="right")
    for name, shares in splits.items():
        table.add_row(name, *(f"{100 * shares.get(part, 0.0):.1f}" for part in columns))
    return table
