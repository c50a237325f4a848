"""Files that are whole, whatever happens while they are written, and folders with one writer."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["lock", "write_whole"]


def lock(directory: Path) -> int | None:
    """Holds `directory` for this process until it closes the descriptor or dies.

    Returns:
        The descriptor, or None where there are no locks: on Windows, and on some file systems.

    Raises:
        BlockingIOError: another one holds it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file: a crash, of the machine too, leaves the old one or the new one, never half."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
