"""What makes a checkpoint whole: a seal, the last of its files to be written.

It records the structure of what was saved, the configuration and a digest of every file. A
checkpoint without a seal was never finished; one that does not match its seal is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .files import write_whole

__all__ = [
    "SEAL",
    "CheckpointError",
    "check_structure",
    "describe",
    "difference",
    "fingerprint",
    "is_empty",
    "seal",
    "specs",
    "unseal",
]

SEAL = "metajax.json"
FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is refused; the message is one line and says why."""


def fingerprint(config: Mapping[str, Any] | None) -> str:
    """Digest of a JSON-able configuration; two checkpoints belong together when theirs agree.

    Raises:
        ValueError: there is something in it that could not be known again in another process.
    """

    def known_again(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return value.tolist()
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        kind = type(value).__name__
        raise ValueError(f"config: expected numbers, text, lists and dicts, got a {kind}: {value}")

    text = json.dumps(config, sort_keys=True, default=known_again)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(state: Any, config: str, progress: Mapping[str, Any]) -> dict[str, Any]:
    """What a seal records of a checkpoint beside its files.

    Raises:
        CheckpointError: there is no array in `state`.
    """
    leaves = _leaves(state)
    if all(is_empty(leaf) for leaf in leaves.values()):
        raise CheckpointError("there is no array to save")
    return {"format": FORMAT, "config": config, "progress": dict(progress), "leaves": specs(state)}


def seal(path: Path, record: dict[str, Any]) -> None:
    """Writes the record and the files' digests, atomically: now the checkpoint is whole."""
    files = {name: _digest(path / name) for name in _files(path)}
    record = {**record, "files": files}
    text = json.dumps({"record": record, "digest": fingerprint(record)}, indent=1)
    write_whole(path / SEAL, text)


def unseal(path: Path) -> dict[str, Any]:
    """Returns the record of a checkpoint whose every file is as it was written.

    Raises:
        CheckpointError: there is none, or it is half-written or damaged.
    """
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        sealed = json.loads((path / SEAL).read_text(encoding="utf-8"))
        record, digest = sealed["record"], sealed["digest"]
    except FileNotFoundError:
        raise CheckpointError("it is half-written (it has no seal)") from None
    except (OSError, ValueError, TypeError, KeyError):
        raise CheckpointError(f"it is damaged ({SEAL} cannot be read)") from None
    if digest != fingerprint(record):
        raise CheckpointError(f"it is damaged ({SEAL} was changed)")
    if record["format"] != FORMAT:
        raise CheckpointError(f"it has format {record['format']}, this version reads {FORMAT}")
    for name, expected in record["files"].items():
        try:
            found = _digest(path / name)
        except FileNotFoundError:
            raise CheckpointError(f"it is damaged ({name} is missing)") from None
        if found != expected:
            raise CheckpointError(f"it is damaged ({name} was changed or cut)")
    return record


def _files(path: Path) -> Iterator[str]:
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.name.startswith(SEAL):
            yield file.relative_to(path).as_posix()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _leaves(tree: Any) -> dict[str, Any]:
    """Path -> leaf; a leaf that is no array is converted by jnp.asarray."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        if hasattr(leaf, "dtype")
        else jnp.asarray(leaf)
        for path, leaf in flat
    }


def _spec(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def specs(tree: Any) -> dict[str, str]:
    """Path -> dtype and shape of each leaf."""
    return {path: _spec(leaf) for path, leaf in _leaves(tree).items()}


def difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """The first leaf in which two `specs` differ, in words; None where none does."""
    for path in [*expected, *found]:
        there, here = found.get(path, "nothing"), expected.get(path, "nothing")
        if there != here:
            return f"{path or 'the array'}: {there}, expected {here}"
    return None


def check_structure(record: dict[str, Any], like: Any) -> None:
    """Raises CheckpointError where a checkpoint's arrays are not those of `like`."""
    differs = difference(record["leaves"], specs(like))
    if differs:
        raise CheckpointError(f"it has another structure ({differs})")


def is_empty(leaf: Any) -> bool:
    """Whether an array has size zero, which Orbax refuses."""
    return 0 in np.shape(leaf)
