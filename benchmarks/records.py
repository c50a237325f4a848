"""Writes records of figures, with where and with which packages they were measured."""

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


def write(path: Path, record: Mapping[str, Any], *packages: str) -> None:
    """Writes `record` as JSON, preceded by where and with which packages it was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"hardware": hardware(), "versions": versions(*packages), **record}
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
