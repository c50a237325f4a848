"""Training runs of the command line: made once, kept, and read back from their folders."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import records

__all__ = ["Run", "train"]


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a run folder."""

    adaptation: dict[str, Any]
    metrics: list[dict[str, Any]]
    config: dict[str, Any]
    wall_seconds: float  # of the whole command
    commit: str | None  # whose code trained it, see `records.commit`

    def stats(self, row: str | None = None) -> dict[str, Any]:
        """The statistics of the learner, or of a row that it is compared with."""
        return self.adaptation if row is None else self.adaptation["comparisons"][row]

    def score(self, step: int, row: str | None = None, kind: str = "mean") -> Any:
        """Mean or interval after `step` inner steps, as a share of the optimum if known."""
        stats = self.stats(row)
        return stats.get("normalised", stats)[kind][step]

    @property
    def last(self) -> int:
        return self.adaptation["steps"][-1]

    def steady_seconds(self) -> float:
        """Seconds of all updates without compilation, at the pace after the first line."""
        first, last = self.metrics[0], self.metrics[-1]
        pace = (last["seconds"] - first["seconds"]) / (last["update"] - first["update"])
        return pace * last["update"]


def train(preset: str, folder: Path, flags: Sequence[str] = ()) -> Run:
    """Runs `metajax train PRESET --flags`, unless `folder` holds that run, of the same sources."""
    records.share_gpu()  # with the script that judges the run
    command, commit = ["metajax", "train", preset, *flags], records.commit()
    kept = folder / "command.json"
    done = json.loads(kept.read_text()) if kept.exists() else {}
    if done.get("command") != command or not records.same_sources(done.get("commit")):
        kept.unlink(missing_ok=True)  # what is stopped halfway is no run
        began = time.perf_counter()
        arguments = [sys.executable, "-m", *command, "--run", str(folder), "--overwrite"]
        subprocess.run(arguments, check=True)
        seconds = time.perf_counter() - began
        done = {"command": command, "seconds": seconds, "commit": commit}
        kept.write_text(json.dumps(done) + "\n")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return Run(
        json.loads((folder / "adaptation.json").read_text()),
        [json.loads(line) for line in lines],
        json.loads((folder / "config.json").read_text()),
        done["seconds"],
        commit,
    )
