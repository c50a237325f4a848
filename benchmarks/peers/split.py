"""Where the time of one update goes, in metajax and in PyTorch, in the same parts.

Each side runs under its own profiler, which writes a trace. PyTorch's parts are those marked by
`record_function`; this works on a CPU, where a call returns when its work is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from support.traces import PARTS, cells, shares_of, table_of_shares, traced

__all__ = ["profile", "shares", "show"]

_UPDATE = "update"


def shares(file: Path, step: Callable[[], Any], updates: int) -> dict[str, float]:
    """The share of each part of PyTorch's update on a CPU; the trace goes to `file`."""
    with torch.profiler.profile() as trace:
        for _ in range(updates):
            with torch.profiler.record_function(_UPDATE):
                step()
    trace.export_chrome_trace(str(file))
    spent = {event.key: event.cpu_time_total for event in trace.key_averages()}
    found: dict[str, float] = {part: spent[part] / spent[_UPDATE] for part in PARTS}
    return found | {"other": 1.0 - sum(found.values())}


def profile(
    folder: Path, program: Any, state: Any, sides: Mapping[str, Callable[[], Any]]
) -> dict[str, dict[str, float]]:
    """Where the time of an update goes on each side, on a CPU; writes traces into `folder`.

    PyTorch's loops are left out: their 100 000 calls make a trace of 100 MB that shows nothing
    `batched` does not.

    Args:
        folder: where the traces are written.
        program: metajax's compiled update.
        state: its argument.
        sides: by name, one update of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"metajax": shares_of(traced(folder / "metajax", program, state, updates=3))}
    for name, step in sides.items():
        if name != "metajax" and not name.startswith("torch loop"):
            file = folder / f"{name.replace(',', '').replace(' ', '-')}.json"
            splits[name] = shares(file, step, updates=3)
    return splits


def show(splits: Mapping[str, Mapping[str, float]]) -> Table:
    """The shares of all sides as one table."""
    table = table_of_shares(("side",), pad_edge=False)
    for name, of_side in splits.items():
        table.add_row(name, *cells(of_side))
    return table
