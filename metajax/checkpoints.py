"""Checkpoints: a state on disk, whole or refused.

Orbax writes the arrays; this module, the only one that imports it, adds what Orbax leaves open. A
checkpoint is sealed once it is committed (`seals`). Unfinished and damaged ones are refused with
the reason, before Orbax opens them, and are never deleted.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import files, processes, seals
from .seals import SEAL, CheckpointError, fingerprint

__all__ = ["CheckpointError", "Found", "Keeper", "fingerprint", "load", "newest", "save"]


class NoCheckpointError(CheckpointError):
    """No checkpoint was ever finished."""


class Found(NamedTuple):
    """The newest whole checkpoint of a directory."""

    path: Path
    update: int  # updates done when it was taken
    progress: dict[str, Any]  # what the caller kept beside the state
    refused: dict[str, str]  # newer ones that cannot be used: name -> reason


def unfit(path: str | os.PathLike[str]) -> str | None:
    """Why no checkpoint can be written below `path`, as it was given; None where it can.

    An address, as of a bucket, would become a folder of that name. Orbax looks for its own files by
    a pattern that begins with the path, and loses what it wrote where that has a pattern's
    characters.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", os.fspath(path)):
        return f"expected a folder, got {path}"
    path = Path(path).absolute()
    odd = [sign for sign in "*?[" if sign in str(path)]
    odd += ["\\"] * (os.name == "posix" and "\\" in str(path))
    return f"a path of checkpoints may not have {' '.join(odd)} in it: {path}" if odd else None


def save(path: str | os.PathLike[str], state: Any, *, overwrite: bool = False) -> None:
    """Writes `state`, any pytree of arrays (typed keys included), as a directory at `path`.

    With several processes, all call this, with a path that all can see.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false. An overwritten checkpoint is
            replaced only once the new one is whole.
        CheckpointError: there is no array in `state`, or see `unfit`.
        OSError: it cannot be written.
    """
    if why := unfit(path):
        raise CheckpointError(why)
    path = Path(path).absolute()
    if _there(path).exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    record = seals.describe(state, fingerprint(None), {})
    new = path.with_name(path.name + ".new")
    with processes.together():
        if processes.first():
            if (left := _there(path)) != path:
                left.rename(path)  # else a crash while it was overwritten would lose it now
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)  # where that fails, Orbax would wait, the process's end too
            new.rmdir()
    try:
        _orbax().save(str(new), _to_write(state))
    except Exception as error:
        raise _unwritten(error) from error
    with processes.together():
        if processes.first():
            seals.seal(new, record)
            _replace(path, new)


def _replace(path: Path, new: Path) -> None:
    # A crash may leave any of the three; at each step, one of them is whole.
    old = path.with_name(path.name + ".old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _there(path: Path) -> Path:
    """`path`, or where a crash while it was overwritten left it."""
    if not path.exists():
        for suffix in (".new", ".old"):
            left = path.with_name(path.name + suffix)
            if (left / SEAL).exists():
                return left
    return path


def load(path: str | os.PathLike[str], like: Any) -> Any:
    """Reads what `save` wrote, or a checkpoint of a run, in the structure of `like`.

    Args:
        path: the directory; of a run, its newest whole checkpoint is read.
        like: a pytree of arrays or `jax.ShapeDtypeStruct`s, such as `jax.eval_shape(learner.init,
            key)`. Leaves that carry a sharding are placed by it, so a checkpoint may be read on
            another number of devices than it was written on; the others go to the default device.

    Raises:
        CheckpointError: the checkpoint is missing, half-written, damaged or of another structure.
    """
    path = _there(Path(path).absolute())
    for folder in (path, path / "checkpoints"):
        found = None if (path / SEAL).exists() else newest(folder, like)
        path = path if found is None else found.path
    record = seals.unseal(path)
    seals.check_structure(record, like)
    return _read(path, like)


def newest(directory: str | os.PathLike[str], like: Any, config: str | None = None) -> Found | None:
    """Finds the newest checkpoint that is whole and belongs to `config`, reading no arrays.

    Args:
        directory: what a `Keeper` writes to.
        like: the expected structure, as in `load`.
        config: the expected `fingerprint`; None for any.

    Returns:
        The checkpoint, with the newer ones that were passed over, or None where none was ever
        finished.

    Raises:
        CheckpointError: there are finished checkpoints and none can be used.
    """
    refused: dict[str, str] = {}
    finished = False
    for path in _steps(Path(directory)):
        try:
            record = seals.unseal(path)
            if config is not None and record["config"] != config:
                raise CheckpointError("it is from another configuration")
            seals.check_structure(record, like)
        except CheckpointError as error:
            refused[path.name] = str(error)
            finished |= (path / SEAL).exists()
            continue
        return Found(path, int(path.name), record["progress"], refused)
    if finished:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise CheckpointError(f"no usable checkpoint in {directory} ({reasons})")
    return None


class Keeper:
    """Saves a run's checkpoints one after another, in the background, and keeps the last few.

    One run at a time keeps a directory, with a keeper in each of its processes. The next save, or
    `close`, waits for a save and raises its error, if any.

    Args:
        directory: created where missing.
        config: `fingerprint` of the run's configuration, recorded in every checkpoint.
        keep: how many of the newest checkpoints stay; until `close`, one more, so that there is
            always a whole one.

    Raises:
        CheckpointError: another run is keeping this directory, or see `unfit`.
    """

    def __init__(self, directory: str | os.PathLike[str], *, config: str, keep: int = 3) -> None:
        if why := unfit(directory):
            raise CheckpointError(why)
        self._directory = Path(directory).absolute()
        self._lock = None
        if processes.first():
            self._directory.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = files.lock(self._directory)
            except BlockingIOError:
                where = self._directory.parent
                raise CheckpointError(f"another process is training in {where}") from None
        self._config = config
        self._keep = keep
        self._checkpointer: Any = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_ready(self) -> None:
        """Imports what a save needs, in the background, so that no chunk waits for it."""
        threading.Thread(target=_orbax, daemon=True).start()

    def set_aside(self, after: int) -> None:
        """Moves every checkpoint after update `after` to `DIRECTORY-refused`, out of the way.

        They were refused, or this run would resume from them; it will write its own.
        """
        for path in _steps(self._directory):
            if int(path.name) > after:
                aside = self._directory.with_name(self._directory.name + "-refused")
                aside.mkdir(exist_ok=True)
                names = (f"{path.name}.{number}" for number in itertools.count(1))
                places = (aside / name for name in itertools.chain([path.name], names))
                path.rename(next(place for place in places if not place.exists()))

    def save(self, update: int, state: Any, progress: Mapping[str, Any]) -> None:
        """Starts saving `state`, which must stay alive and unchanged until the next call.

        Args:
            update: updates done; names the checkpoint.
            state: pytree of arrays.
            progress: JSON-able, given back by `newest`.
        """
        self.wait()
        record = seals.describe(state, self._config, progress)
        if self._checkpointer is None:
            self._checkpointer = _checkpointer(self._directory, self._keep)
        response = self._checkpointer.save_async(update, _to_write(state), force=True)
        self._thread = threading.Thread(
            target=self._finish, args=(self._directory / str(update), response, record)
        )
        self._thread.start()

    def _finish(self, path: Path, response: Any, record: dict[str, Any]) -> None:
        try:
            response.result()
            if processes.first():
                seals.seal(path, record)
        except BaseException as error:
            self._failure = error

    def wait(self) -> None:
        """Blocks until the last save is whole on disk.

        Raises:
            OSError: it failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise _unwritten(failure) from failure

    def close(self) -> None:
        """Waits for the last save and releases the directory."""
        try:
            self.wait()
            if self._checkpointer is not None and processes.first():
                whole = [path for path in _steps(self._directory) if (path / SEAL).exists()]
                for path in whole[self._keep :]:
                    shutil.rmtree(path)
        finally:
            checkpointer, self._checkpointer = self._checkpointer, None
            try:
                if checkpointer is not None:
                    checkpointer.close()
            except Exception as error:  # Orbax tells of a failed save again
                raise _unwritten(error) from error
            finally:
                if self._lock is not None:
                    os.close(self._lock)
                    self._lock = None


def _unwritten(failure: BaseException) -> OSError:
    reason = " ".join(str(failure).split())
    if len(reason) > 300:  # between what failed and why there are long paths
        reason = f"{reason[:140]} ... {reason[-140:]}"
    return OSError(f"could not write a checkpoint: {reason}")


@functools.cache
def _orbax() -> Any:
    """Orbax, imported on first use: that takes a quarter of the time of all of metajax."""
    from orbax.checkpoint import v1

    # Each of its threads logs, with a traceback, the failure that it then raises.
    logging.getLogger("absl").addFilter(
        lambda record: "_SignalingThread.run() raised" not in record.getMessage()
    )
    return v1


def _checkpointer(directory: Path, keep: int) -> Any:
    ocp = _orbax()
    # Orbax removes the oldest before the newest is sealed.
    policy = ocp.training.preservation_policies.LatestN(keep + 1)
    return ocp.training.Checkpointer(
        str(directory),
        preservation_policy=policy,
        cleanup_tmp_directories=True,
    )


def _steps(directory: Path) -> list[Path]:
    """Checkpoints of a directory, newest first, whole or not."""
    if not directory.is_dir():
        return []
    steps = [path for path in directory.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(steps, key=lambda path: int(path.name), reverse=True)


def _to_write(state: Any) -> Any:
    """`state` with replicated arrays on one device, and without arrays of size zero.

    Orbax would have every device write a part of a replicated array, which takes a program each.
    """

    def of_one_device(leaf: Any) -> Any:
        spread = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1
        if spread and leaf.is_fully_replicated and jax.process_count() == 1:
            return leaf.addressable_data(0)
        return leaf

    return jax.tree.map(of_one_device, _without_empty(state))


def _without_empty(tree: Any) -> Any:
    """Orbax refuses arrays of size zero; they hold nothing, so their shape is enough."""
    return jax.tree.map(lambda leaf: None if seals.is_empty(leaf) else leaf, tree)


def _read(path: Path, like: Any) -> Any:
    anywhere = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(leaf) or anywhere)

    like = jax.tree.map(lambda leaf: leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf), like)
    ocp = _orbax()
    try:
        loaded = ocp.load(str(path), jax.tree.map(abstract, _without_empty(like)))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"it cannot be read ({reason})") from error
    leaves = iter(jax.tree.leaves(loaded))

    def place(leaf: Any) -> Any:
        if seals.is_empty(leaf):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return next(leaves) if _sharding(leaf) is not None else _uncommitted(next(leaves))

    return jax.tree.map(place, like)


def _sharding(leaf: Any) -> Any:
    """Where `leaf` must be placed, or None where it may go anywhere."""
    if isinstance(leaf, jax.Array) and not leaf.committed:
        return None
    return getattr(leaf, "sharding", None)


def _uncommitted(leaf: jax.Array) -> jax.Array:
    # An array committed to one device could not enter a program that spans several.
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jnp.asarray(np.asarray(jax.random.key_data(leaf)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jnp.asarray(np.asarray(leaf))
