"""Which code runs: a digest of the sources, taken before any of them is imported."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

__all__ = ["AT_START", "digest"]


def digest() -> str:
    """The digest of the sources of `metajax` and `envs` as they are now."""
    whole = hashlib.sha256()
    for package in ("metajax", "envs"):
        found = importlib.util.find_spec(package)
        for root in (found and found.submodule_search_locations) or ():
            for path in sorted(Path(root).rglob("*.py")):
                whole.update(f"{path.relative_to(root)}\0".encode())
                whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


AT_START = digest()
"""The digest of what this process imports, unless files are edited meanwhile."""
