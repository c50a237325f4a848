"""Where the time of a traced update goes, part by part, from jax's own profiler."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.table import Table

__all__ = ["PARTS", "cells", "shares_of", "table_of_shares", "traced"]

PARTS = (
    "sample_task",
    "rollout",
    "advantage",
    "inner_gradient",
    "outer_gradient",
    "outer_update",
)
"""The engine's scopes; those that the PyTorch side marks have the same names."""
_COLUMNS = (*PARTS, "devices meet", "other")
_MEETING = {"all-reduce", "all-gather", "reduce-scatter"}  # collectives: data transfer and waiting
_CONTAINERS = {"while", "call", "conditional"}  # their instructions are counted one by one
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")


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
        if kind and kind[1] in _CONTAINERS:
            continue
        path = re.search(r'op_name="([^"]*)"', rest)
        part = _part(path[1]) if path else None
        if kind and kind[1].removesuffix("-start").removesuffix("-done") in _MEETING:
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


def shares_of(spent: Mapping[str, float]) -> dict[str, float]:
    """Each part's share of all that was spent, parts in the order of their names."""
    total = sum(spent.values())
    return {part: value / total for part, value in sorted(spent.items())}


def table_of_shares(before: Sequence[str], after: Sequence[str] = (), **style: Any) -> Table:
    """An empty table of shares, %, between the columns `before` and `after`."""
    table = Table(title="Share of an update, %", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), **style)
    for heading in before:
        table.add_column(heading, no_wrap=True)
    for heading in (*_COLUMNS, *after):  # a word a line
        table.add_column(heading.replace("_", "\n").replace(" ", "\n"), justify="right")
    return table


def cells(shares: Mapping[str, float]) -> list[str]:
    """The shares of a row of such a table."""
    return [f"{100 * shares.get(part, 0.0):.1f}" for part in _COLUMNS]
