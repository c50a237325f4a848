"""How long does a newcomer wait? Runs the README's first command in a fresh clone and environment.

    python benchmarks/first_run.py --json figures.json

Clones the committed state of this repository, makes an empty virtual environment, and runs
the first command of README.md there as it stands: download and install, then `metajax train`.
Neither finds anything in a cache.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from support import records

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Times the README's first command."""

    json: Path | None = None
    """Also writes the figures to this JSON file."""


def first_command(readme: str) -> tuple[str, str]:
    """The two halves of the README's first shell block: install, and train."""
    block = re.search(r"```bash\n(.+?)\n```", readme, re.DOTALL)
    if block is None or " && " not in block[1]:
        raise ValueError("README.md: expected a first bash block of two commands joined by &&")
    install, run = block[1].split(" && ", 1)
    return install, run


def main() -> None:
    """Prints the seconds of both halves."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory() as scratch:
        clone, venv = Path(scratch) / "metajax", Path(scratch) / "venv"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {"PYTHONPATH", "JAX_COMPILATION_CACHE_DIR"}
        }
        # Of pip and of compiled programs.
        environment["XDG_CACHE_HOME"] = environment["PIP_CACHE_DIR"] = str(Path(scratch) / "cache")
        environment["PATH"] = f"{venv / 'bin'}{os.pathsep}{environment['PATH']}"
        seconds = []
        for command in first_command((clone / "README.md").read_text()):
            began = time.perf_counter()
            subprocess.run(command, shell=True, cwd=clone, env=environment, check=True)
            seconds.append(time.perf_counter() - began)
    print(f"install {seconds[0]:.0f} s, train {seconds[1]:.0f} s, together {sum(seconds):.0f} s")
    if options.json:
        record = {
            "install_seconds": seconds[0],
            "train_seconds": seconds[1],
        }
        records.write(options.json, record)


if __name__ == "__main__":
    main()
