"""Has anything become slower? Compares new ratios with those of an earlier record.

    python benchmarks/maml_vs_torch.py --json new.json
    python benchmarks/guard.py new.json benchmarks/results/maml_vs_torch-point-cpu2.json

Only ratios between two sides of one run are compared, never times, which depend on the machine.
Exits with status 1 if a ratio fell by more than `--within`, is not there any more or is no number,
and with status 2 if the records are not of one benchmark, preset, size and kind of hardware.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from support import records, screen


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares the ratios of two records of the same benchmark."""

    new: tyro.conf.Positional[Path]
    """The new record."""
    kept: tyro.conf.Positional[Path]
    """The record to compare it with."""
    within: float = 0.25
    """Share that a ratio may fall by, below 1; a busy machine moves it by a tenth."""


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


def check_alike(new: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Refuses two records that are not of one benchmark, preset, size and kind of hardware.

    Of which day, commit and versions they are is what may differ.
    """
    for field in ("benchmark", "preset"):  # that of environments has neither
        now, was = (record.get(field, "none") for record in (new, kept))
        if now != was:
            records.refuse(f"{field}: expected {was}, got {now}")
    now, was = (record.get("sizes") or {} for record in (new, kept))
    if other := [name for name in {**was, **now} if now.get(name) != was.get(name)]:
        expected, got = (
            ", ".join(f"{name} {sizes.get(name, 'none')}" for name in other) for sizes in (was, now)
        )
        records.refuse(f"sizes: expected {expected}, got {got}")
    hardware = [str(record.get("hardware")) for record in (new, kept)]
    # Older records have a processor's name alone, without what is in brackets after it.
    bare = [re.sub(r" \([^()]*\)", "", text) for text in hardware]
    if bare[0] != bare[1] or (hardware[0] != hardware[1] and bare[0] not in hardware):
        records.refuse(f"hardware: expected {hardware[1]}, got {hardware[0]}")


def verdict(new: float | None, kept: float, within: float) -> str:
    """What became of a ratio: "holds", or what is wrong with it."""
    if new is None:
        return "is missing"
    if not (math.isfinite(new) and math.isfinite(kept)):
        return "is no number"
    return "fell" if new < (1 - within) * kept else "holds"


def main() -> int:
    """Prints every ratio of the kept record, and the new one."""
    options = tyro.cli(Options)
    if not 0 <= options.within < 1:
        records.refuse(f"within: expected 0 or more, below 1, got {options.within}")
    read = {path: records.read(path) for path in (options.new, options.kept)}
    check_alike(read[options.new], read[options.kept])
    found = {path: dict(ratios(record)) for path, record in read.items()}
    for path, of_it in found.items():
        if not of_it:
            records.refuse(f"{path}: expected a record with ratios, got one without")
    new, kept = found[options.new], found[options.kept]
    if new.keys().isdisjoint(kept):
        records.refuse(f"{options.new}: expected ratios that {options.kept} has, got others")
    verdicts = {name: verdict(new.get(name), kept[name], options.within) for name in kept}
    table = Table("ratio", "kept", "now", "", title="Ratios against those kept")
    for name, word in sorted(verdicts.items(), key=lambda item: item[1] != "is missing"):
        now = f"{new[name]:.2f}" if name in new else ""
        colour = "green" if word == "holds" else "red"
        table.add_row(name, f"{kept[name]:.2f}", now, f"[{colour}]{word}[/]")
    screen.show(table)
    return 0 if {*verdicts.values()} == {"holds"} else 1


if __name__ == "__main__":
    sys.exit(main())
