"""The file format of a task set: an npz archive of plain arrays, checked when read.

Tasks of one set are alike: their padding, outer walls and horizons are the same, and a coordinate
uses few of its 32 bits. So the first task is stored in full, and of the others only the bits in
which any two tasks differ, each as a plane of M bits. This is lossless and works for every dtype; a
9 by 9 maze takes three or four bytes.

    header    uint8, JSON: format, environment, count, and path, dtype and shape of each leaf
    first     uint8 [bytes], the first task, leaf by leaf, little-endian
    differs   uint8 [bytes], the bits in which some task differs from the first
    planes    uint8 [bits set in differs, ceil(M / 8)], the lowest bit of the first byte first
    sha256    uint8 [32], the digest of all of the above
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from .core import require, require_integer

__all__ = ["FORMAT", "form_drawn_by", "form_of", "read_tasks", "write_tasks"]

Array = jax.Array

FORMAT = 1
_CONTENT = ("header", "first", "differs", "planes")
_KINDS = (np.bool_, np.integer, np.floating)


def form_of(task: Any) -> list[list[Any]]:
    """The path, dtype and shape of every leaf of one task.

    Raises:
      ValueError: a task without leaves, or a leaf that is no array of bools, integers or floats.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(task)
    require("task", task, len(leaves) > 0, "a pytree with an array in it")
    form = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        is_array = hasattr(leaf, "dtype") and hasattr(leaf, "shape")
        require(f"task leaf {name}" if name else "task", leaf, is_array, "an array")
        plain = any(jnp.issubdtype(leaf.dtype, kind) for kind in _KINDS)
        require(f"task leaf {name}", str(leaf.dtype), plain, "bools, integers or floats")
        form.append([name, str(leaf.dtype), list(leaf.shape)])
    return form


def form_drawn_by(sample_task: Callable[[Array], Any]) -> Any:
    """A task that `sample_task` draws, as `ShapeDtypeStruct`s."""
    return jax.eval_shape(sample_task, jax.random.key(0))


def write_tasks(path: str | Path, tasks: Any, environment: str) -> None:
    """Writes tasks, every leaf [M, ...], to `path`: to a temporary file that is then renamed.

    Raises:
      ValueError: no tasks, or as `form_of`.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tasks)]
    count = leaves[0].shape[0]
    require("tasks", count, count > 0, "at least one to write")
    header = {
        "format": FORMAT,
        "environment": json.loads(environment),
        "count": count,
        "leaves": form_of(jax.tree.map(lambda leaf: leaf[0], tasks)),
    }
    content = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    packed = [_pack(_bytes_of(leaf)) for leaf in leaves]
    for name, parts in zip(_CONTENT[1:], zip(*packed, strict=True), strict=True):
        content[name] = np.concatenate(parts)
    content["sha256"] = _digest(content)
    path = Path(path)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(new, "wb") as file:
            np.savez(file, **content)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def read_tasks(path: str | Path, like: Any, environment: str | None) -> tuple[Any, str]:
    """Reads tasks of the same form as the single task `like`, and of `environment` if given.

    Returns:
      The tasks, every leaf [M, ...], and the environment that they were drawn from, as JSON.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a file that is refused; the message says why in one line.
    """

    def check(holds: bool, reason: str) -> None:
        if not holds:
            raise ValueError(f"{path}: {reason}")

    check(not Path(path).is_dir(), "a directory, expected a file")
    with open(path, "rb") as file:
        check(zipfile.is_zipfile(file), "not a task set, or cut short (not an npz archive)")
        try:
            content, header = _read(file)
        except Exception as error:  # zipfile and numpy raise many exceptions on damaged bytes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: not a task set, or damaged ({reason})") from None
    check(header["format"] == FORMAT, f"of format {header['format']}, expected {FORMAT}")
    intact = np.array_equal(content["sha256"], _digest(content))
    check(intact, "damaged (its SHA-256 does not match)")
    if environment is not None:
        found, expected = header["environment"], json.loads(environment)
        check(found == expected, f"tasks of {_difference(found, expected)}")
    form = form_of(like)
    held, count = header["leaves"], header["count"]
    for found, expected in zip(held, form, strict=False):
        check(found == expected, f"a task has {_leaf(found)}, expected {_leaf(expected)}")
    check(len(held) == len(form), f"a task has {len(held)} leaves, expected {len(form)}")
    expected = _shapes(like, count, content["differs"])
    for name, shape in expected.items():
        found = content[name].shape
        check(found == shape, f"{name} has shape {found}, expected {shape} for {count} tasks")

    leaves, planes = [], content["planes"]
    end = 0
    for leaf in jax.tree.leaves(like):
        start, end = end, end + leaf.size * leaf.dtype.itemsize
        first, differs = content["first"][start:end], content["differs"][start:end]
        used = int(np.bitwise_count(differs).sum())
        rows = _unpack(first, differs, planes[:used], count)
        planes = planes[used:]
        leaves.append(jnp.asarray(_from_bytes(rows, leaf)))
    environment = json.dumps(header["environment"], sort_keys=True)
    return jax.tree.unflatten(jax.tree.structure(like), leaves), environment


def _read(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and their header; no arrays if the format is not `FORMAT`."""
    with np.load(file, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        if header["format"] != FORMAT:
            return {}, header
        require_integer("count", header["count"], 1)
        require("leaves", header["leaves"], isinstance(header["leaves"], list), "a list")
        environment = header["environment"]
        require("environment", environment, isinstance(environment, dict | str), "a description")
        content = {name: archive[name] for name in (*_CONTENT, "sha256")}
        for name, array in content.items():
            require(name, str(array.dtype), array.dtype == np.uint8, "uint8")
        return content, header


def _shapes(like: Any, count: int, differs: np.ndarray) -> dict[str, tuple[int, ...]]:
    """The shape of each array that holds the content of `count` tasks."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
    bits = int(np.bitwise_count(differs).sum())
    return {"first": (size,), "differs": (size,), "planes": (bits, -(-count // 8))}


def _digest(content: dict[str, np.ndarray]) -> np.ndarray:
    """The SHA-256 of the arrays' names, dtypes, shapes and bytes, uint8 [32]."""
    digest = hashlib.sha256()
    for name in _CONTENT:
        digest.update(f"{name} {content[name].dtype} {content[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(content[name]).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _bytes_of(leaf: np.ndarray) -> np.ndarray:
    """[M, ...] to uint8 [bytes of one task, M], little-endian."""
    flat = np.ascontiguousarray(leaf.reshape(leaf.shape[0], -1))
    return flat.view(np.uint8).T


def _from_bytes(rows: np.ndarray, like: Any) -> np.ndarray:
    flat = np.ascontiguousarray(rows.T)
    return flat.view(like.dtype).reshape(flat.shape[0], *like.shape)


def _pack(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first column of uint8 [bytes, M], the bits that vary, and their planes."""
    first = rows[:, 0]
    differs = np.bitwise_or.reduce(rows ^ first[:, None], axis=1)
    planes = [np.packbits(rows[byte] >> bit & 1) for byte, bit in _bits(differs)]
    shape = (len(planes), -(-rows.shape[1] // 8))
    return first, differs, np.array(planes, np.uint8).reshape(shape)


def _unpack(first: np.ndarray, differs: np.ndarray, planes: np.ndarray, count: int) -> np.ndarray:
    rows = np.repeat((first & ~differs)[:, None], count, axis=1)
    for (byte, bit), plane in zip(_bits(differs), planes, strict=True):
        rows[byte] |= np.unpackbits(plane, count=count) << bit
    return rows


def _bits(differs: np.ndarray) -> Iterator[tuple[int, int]]:
    """The positions of the set bits: the byte, and the bit in it, lowest first."""
    for byte, bits in enumerate(differs.tolist()):
        yield from ((byte, bit) for bit in range(8) if bits >> bit & 1)


def _difference(found: Any, expected: Any) -> str:
    """How two environments differ, in words."""
    # One without fields is described by its class alone.
    envs = [env if isinstance(env, dict) else {"class": env} for env in (found, expected)]
    names = [env.get("class") for env in envs]
    if names[0] != names[1]:
        return f"{names[0]}, expected {names[1]}"
    fields = [each if isinstance(each := env.get("fields"), dict) else {} for env in envs]
    for name in sorted({*fields[0], *fields[1]}):
        values = [each.get(name, "no such field") for each in fields]
        if values[0] != values[1]:
            return f"{names[0]} with {name} {values[0]}, expected {values[1]}"
    return f"another {names[0]}"


def _leaf(leaf: Any) -> str:
    name, *kind = leaf if isinstance(leaf, list) and leaf else [leaf]
    return f"{name} {''.join(map(str, kind))}".strip()
