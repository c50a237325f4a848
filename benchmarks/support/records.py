"""What the scripts share: refusals, the machine, and records of what was measured on it."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "MISSED",
    "REFUSED",
    "check_names",
    "check_sizes",
    "commit",
    "cores",
    "hardware",
    "processor",
    "read",
    "refuse",
    "same_sources",
    "share_gpu",
    "versions",
    "write",
]

# The exit status of a script whose record is whole and misses a bar: an exception's is 1.
MISSED = 3
REFUSED = 2  # that of one that was asked for what it cannot do


def refuse(why: str) -> NoReturn:
    """Says why on stderr, in one line, and exits with status 2."""
    print(why, file=sys.stderr)
    raise SystemExit(REFUSED)


def check_names(
    what: str, given: Iterable[str], known: Iterable[str], *, parts: bool = False
) -> None:
    """Refuses a name that is not `known` or, if `parts` are given, not in any that is."""
    known = list(known)
    for name in given:
        if not any(name in each if parts else name == each for each in known):
            # Not above: it imports jax, which some scripts leave out, see `hardware`.
            from metajax.configs import nearest

            refuse(f"{what}: unknown {name!r}; {nearest(name, known)}")


def check_sizes(options: Any) -> None:
    """Refuses integers below 1 (a seed below 0), other numbers not above 0, and empty lists.

    Args:
        options: a dataclass; what is None, and lists that are empty by default, may be left out.
    """
    for field in dataclasses.fields(options):
        name, value = field.name, getattr(options, field.name)
        least = 0 if name == "seed" else 1
        if value == () and field.default != ():
            refuse(f"{name}: expected at least one, got none")
        for each in value if isinstance(value, tuple) else (value,):
            if type(each) is int and each < least:  # a bool is no size
                refuse(f"{name}: expected at least {least}, got {each}")
            if type(each) is float and not 0 < each < math.inf:
                refuse(f"{name}: expected a positive number, got {each}")


def processor() -> str:
    """The CPU's name, if known, and what distinguishes CPUs of the same name."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().partition("\n\n")[0].splitlines() if info.exists() else []
    pairs = (line.partition(":") for line in first)
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    name = fields.get("model name")
    if not name:
        return platform.processor() or platform.machine()
    flags = fields.get("flags", "").split()
    widest = [vectors for vectors in ("avx512f", "avx2") if vectors in flags][:1]
    kind = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields] + widest
    return f"{name} ({', '.join(kind)})" if kind else name


def cores() -> int:
    """Those that this process may use, each of which the command line makes a device."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def share_gpu() -> None:
    """Has jax take no more of a GPU than it needs, for other processes, or PyTorch, that run there.

    To be called before jax starts its backend, and inherited by the processes that are started.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def hardware() -> str:
    """The accelerators that jax uses in this process, if any, and the CPU."""
    text = f"{processor()}, {os.cpu_count()} cores"
    jax = sys.modules.get("jax")  # a script that never imports it has used none
    if jax is None or jax.default_backend() == "cpu":
        return text
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}; {text}"


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python, metajax, jax and `packages`, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in ("metajax", "jax", *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


_SOURCES = ("metajax", "envs", "benchmarks/*.py")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parents[2]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit() -> str | None:
    """The commit whose sources run here, with a + where they were edited; None outside of git."""
    try:
        edited = _git("status", "--porcelain", "--untracked-files=no", "--", *_SOURCES)
        return _git("rev-parse", "--short=10", "HEAD") + "+" * bool(edited)
    except (OSError, subprocess.CalledProcessError):
        return None


def same_sources(of: str | None) -> bool:
    """Whether what was made at the commit `of` was made by the sources that run here.

    False where these are edited, as nothing tells one edit from another.
    """
    now = commit()
    if of is None or now is None or of.endswith("+") or now.endswith("+"):
        return False
    try:
        return not _git("diff", "--name-only", of, now, "--", *_SOURCES)
    except subprocess.CalledProcessError:  # of another history
        return False


def read(path: Path) -> dict[str, Any]:
    """The record in a file; refuses one that is not there or that is no record."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        refuse(f"{path}: {error.strerror}")
    except ValueError as error:  # neither JSON nor, perhaps, text
        refuse(f"{path}: expected a record in JSON, got {error}")
    if not isinstance(content, dict):
        refuse(f"{path}: expected a record, got {type(content).__name__}")
    return content


def write(path: Path, record: Mapping[str, Any], *packages: str) -> None:
    """Writes `record` as JSON, preceded by where, when, of which commit and with which packages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "versions": versions(*packages),
        **record,
    }
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
