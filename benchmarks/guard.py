"""Has anything become slower? Compares new ratios with those of an earlier record.

    python benchmarks/maml_vs_torch.py --json new.json
    python benchmarks/guard.py new.json benchmarks/results/maml_vs_torch-point-cpu2.json

Only ratios between two sides of one run are compared, never times, which depend on the machine.
Exits with status 1 if a ratio fell by more than `--within`, or is not there any more.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares the ratios of two records of the same benchmark."""

    new: tyro.conf.Positional[Path]
    """The new record."""
    kept: tyro.conf.Positional[Path]
    """The record to compare it with."""
    within: float = 0.25
    """Share that a ratio may fall by; a busy machine moves it by a tenth."""


def ratios(record: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every ratio of a record, named by its neighbouring fields or by its path."""
    if isinstance(record, Mapping):
        if isinstance(record.get("ratio"), int | float):
            words = [str(value) for value in record.values() if type(value) in (str, int)]
            flags = [key for key, value in record.items() if value is True]
            yield ", ".join([*words, *flags]) or name, float(record["ratio"])
        for key, value in record.items():
            yield from ratios(value, key)
    elif isinstance(record, list):
        for value in record:
            yield from ratios(value, name)


def main() -> int:
    """Prints every ratio of both records."""
    options = tyro.cli(Options)
    try:
        new, kept = (dict(ratios(json.loads(p.read_text()))) for p in (options.new, options.kept))
    except (OSError, ValueError) as error:
        print(f"guard: {error}", file=sys.stderr)
        return 2
    common = [name for name in kept if name in new]
    if not common:
        print("guard: the records have no ratio in common", file=sys.stderr)
        return 2
    table = Table("ratio", "kept", "now", "", title="Ratios against those kept")
    fallen = [name for name in common if new[name] < (1 - options.within) * kept[name]]
    lost = [name for name in kept if name not in new]
    for name in lost:
        table.add_row(name, f"{kept[name]:.2f}", "", "[red]is missing[/]")
    for name in common:
        verdict = "[red]fell[/]" if name in fallen else "[green]holds[/]"
        table.add_row(name, f"{kept[name]:.2f}", f"{new[name]:.2f}", verdict)
    Console().print(table)
    return 1 if fallen or lost else 0


if __name__ == "__main__":
    sys.exit(main())
