"""What every record of figures says of where they were measured, and how it is kept."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["hardware", "processor", "versions", "write"]


def processor() -> str:
    """The CPU's own name where the system tells it, and what tells apart those that share it."""
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


def hardware() -> str:
    """The accelerators that this process's jax uses, if any, and the processor."""
    text = f"{processor()}, {os.cpu_count()} cores"
    jax = sys.modules.get("jax")  # a script that never imports it has used none
    if jax is None or jax.default_backend() == "cpu":
        return text
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}; {text}"


def versions(*packages: str) -> dict[str, str]:
    """Of Python, metajax, jax and further packages, those that are installed."""
    found = {"python": platform.python_version()}
    for name in ("metajax", "jax", *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(path: Path, record: Mapping[str, Any], *packages: str) -> None:
    """`record` as JSON, with where it was measured, and with which packages, in front."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"hardware": hardware(), "versions": versions(*packages), **record}
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
