"""Runs every benchmark in turn and keeps each record, so that a stopped run can be resumed.

    python benchmarks/everything.py figures                  # everything: hours on two cores
    python benchmarks/everything.py figures --only maml_vs_torch scaling
    python benchmarks/everything.py figures --show           # lists what is there and what is not

A record that is in the folder is not measured again. Failures are reported at the end and retried
by the next call. `report.html` in the folder shows all records. (`first_run.py`, which clones and
installs, is run separately.)
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import tyro

from support import records

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs the benchmarks that have no record yet."""

    folder: tyro.conf.Positional[Path]
    """The folder of the records."""
    only: tuple[str, ...] = ()
    """Scripts, without .py; all by default."""
    show: bool = False
    """Only lists which records are there and which would be measured; writes nothing."""


class Job(NamedTuple):
    """One record."""

    script: str
    arguments: tuple[str, ...] = ()
    plots: str | None = None  # the flag for the path of a picture, or of a folder of several
    runs: bool = False  # whether it can keep its training runs in a given folder

    @property
    def record(self) -> str:
        return "-".join([self.script, *(a for a in self.arguments if not a.startswith("-"))])


_BY_TORCH = ("point", "point-published", "point-corners", "maze", "gridworld")
_BY_TORCH += ("gridworld-q", "maze-q", "bandit-10x5", "tabular-mdp", "sinusoid-5", "sinusoid-10")

# Speed first, shortest first; then what takes hours.
JOBS = (
    *(Job("maml_vs_torch", (preset,)) for preset in _BY_TORCH),
    Job("rl2_vs_torch"),
    Job("floor", ("point",)),
    Job("derivatives", ("point",)),
    Job("breakdown"),
    Job("scaling", plots="--plot"),
    Job("scaling", ("--preset", "point", "--only", "steps", "--episodes", "20")),
    Job("devices", ("point",)),
    Job("environments", ("--policy",)),
    Job("environments", ("--no-mazes", "--no-compile", "--counts", "16", "256", "4096"), "--plot"),
    Job("tasksets"),
    Job("compile_time"),
    Job("startup"),
    Job("bayes"),
    Job("minigrid_parity"),
    Job("weighting"),
    Job("trainers"),
    Job("learning", runs=True),
    Job("startup", ("--algorithms", "all")),
    Job("reproduce", plots="--plots", runs=True),
)


def run(job: Job, folder: Path) -> None:
    """Runs a job. A record is kept even if a bar was missed, which is exit status 3."""
    parts = folder / "parts"  # unfinished records, with which some scripts resume
    parts.mkdir(exist_ok=True)
    part = parts / f"{job.record}.json"
    words = [*job.arguments, "--json", str(part)]
    if job.plots == "--plot":
        words += [job.plots, str(folder / f"{job.record}.png")]
    elif job.plots:
        words += [job.plots, str(folder)]
    if job.runs:
        words += ["--runs", str(parts / f"{job.script}-runs")]
    script = str(HERE / f"{job.script}.py")
    status = subprocess.run([sys.executable, script, *words], check=False).returncode
    if status in (0, records.MISSED) and part.exists():
        part.rename(folder / part.name)


def fill(folder: Path, files: Mapping[Job, Path]) -> bool:
    """Runs every job whose record is not there; whether a page of all records was made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        records.refuse(f"folder: {folder}: {error.strerror}")
    for job, file in files.items():
        if not file.exists():
            print(f"== {job.record}", flush=True)
            run(job, folder)
    if found := sorted(map(str, folder.glob("*.json"))):
        page = str(folder / "report.html")
        report = [sys.executable, str(HERE / "report.py"), *found, "--out", page]
        return subprocess.run(report, check=False).returncode == 0  # if not, it said why
    return False


def main() -> int:
    """Prints which records there are; exits with status 1 if any is missing, or their page."""
    options = tyro.cli(Options)
    records.check_names("only", options.only, sorted({job.script for job in JOBS}))
    jobs = [job for job in JOBS if not options.only or job.script in options.only]
    if options.folder.exists() and not options.folder.is_dir():
        records.refuse(f"folder: expected a folder, got the file {options.folder}")
    for record in sorted(options.folder.glob("*.json")):
        records.read(record)  # refuses a damaged one, before hours pass and not after them
    files = {job: options.folder / f"{job.record}.json" for job in jobs}
    if options.show:
        for job, file in files.items():
            print(f"{'there' if file.exists() else 'would run':<10}{job.record}")
    made = options.show or fill(options.folder, files)
    missing = [job.record for job, file in files.items() if not file.exists()]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} records are in {options.folder}")
    if missing and not options.show:
        print(f"missing: {', '.join(missing)}")
    return 1 if missing or not made else 0


if __name__ == "__main__":
    sys.exit(main())
