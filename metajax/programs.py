"""Compiled programs of earlier starts, found without a trace.

jax's own cache knows a program by its code, which takes a trace and a lowering to tell: seconds of
Python at every start, also of one that compiles nothing. What the command line trains follows from
less: from a configuration, the sources of `metajax` and `envs`, versions, settings and devices. A
`Shelf` keeps programs by a digest of their code, and labels by a digest of these that lead to them:
a program that an edit did not change gets a second label.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import pickle
import platform
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
from jax.experimental import serialize_executable

from . import source
from .compiling import compiler_options

__all__ = ["NOWHERE", "Shelf", "folder", "shelf"]

logger = logging.getLogger("metajax")

_PROGRAM, _LABEL, _TEMPORARY = ".program", ".label", ".tmp"
_DAY = 86400.0  # seconds
_MOST_BYTES = 2**28  # of all programs of a folder; those used least lately go first
_MOST_LABELS = 2000  # likewise: an edit that changes no program leaves a label of its own
_OTHERS = 0o022  # who might write: group and all


class Shelf(NamedTuple):
    """Where programs are kept, for one description of what they follow from.

    They are code, in pickles: nothing is taken from a folder or a file that others own, or can
    write to. Without a folder nothing is kept.
    """

    folder: Path | None = None
    world: str = ""  # digest of what every program follows from, whatever it computes
    description: str = ""  # digest of what these programs follow from beside it

    def take(self, name: str, *args: Any) -> tuple[jax.stages.Compiled, Any] | None:
        """The program with the label `name`, and the label's note; None if none is for `args`.

        Args:
            name: which of the programs that have this description.
            args: what it is to be called with: arrays, or `jax.ShapeDtypeStruct`s.
        """
        label = _read_label(self._label(name)) if self._usable() else None
        program = self._load(label[0], args) if label else None
        if not label or not program:
            return None
        _touch(self._label(name))
        return program, label[1]

    def compile(
        self, name: str, lowered: jax.stages.Lowered, note: Any = None, *, once: bool = False
    ) -> Any:
        """The compiled program, from here or from the compiler, and from now on with this label.

        Args:
            name: as in `take`.
            lowered: of a function that `jit` was told to `keep_unused`: which arguments a program
                does without is not in its code.
            note: what `take` gives beside it, JSON-able.
            once: as `compiler_options` was told for it.
        """
        if not self._usable():
            return lowered.compile()
        options = compiler_options(once=once)
        trees = [str(lowered.in_tree), str(lowered.out_tree)]
        key = _digest([self.world, options, trees, lowered.as_text()])
        args, _ = lowered.args_info
        program = self._load(key, args)
        if program:
            _keep(self._write_label, name, key, note)
            return program
        with _watching() as from_jax:
            program = lowered.compile()
        # What XLA loaded it cannot write again: on a CPU its functions would be missing.
        if not from_jax():
            put = functools.partial(_keep, self._put, name, key, program, note)
            _keep(threading.Thread(target=put).start)  # who waits for the program need not wait
        return program

    def _usable(self) -> bool:
        """Whether there is a folder, or may be one, and it is the user's own."""
        if not self.folder or not hasattr(os, "getuid"):
            return self.folder is not None
        try:
            there = self.folder.lstat()  # a link may lead to what is the user's, but no shelf
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return stat.S_ISDIR(there.st_mode) and _is_own(there)

    def _load(self, key: str, args: Any) -> jax.stages.Compiled | None:
        file = self._place(key, _PROGRAM)
        try:
            content = _read_own(file)
        except OSError:
            return None
        try:
            digest, body = content[:32], content[32:]
            if hashlib.sha256(body).digest() != digest:
                raise ValueError("it is damaged")
            payload, in_tree, out_tree, places = pickle.loads(body)
            devices = {device.id: device for device in jax.devices()}
            program = serialize_executable.deserialize_and_load(
                payload, in_tree, out_tree, execution_devices=[devices[id] for id in places]
            )
            if _forms(program.args_info) != _forms((args, {})):
                raise ValueError("it takes other arguments")
        except Exception as error:  # whatever becomes of a file: it can be compiled anew
            logger.warning("%s is no use (%s)", file, _told(error))
            with contextlib.suppress(OSError):
                file.unlink()
            return None
        _touch(file)
        return program

    def _put(self, name: str, key: str, program: jax.stages.Compiled, note: Any) -> None:
        payload, in_tree, out_tree = serialize_executable.serialize(program)
        body = pickle.dumps((payload, in_tree, out_tree, _places(program)))
        file = self._place(key, _PROGRAM)
        _write(file, hashlib.sha256(body).digest() + body)
        self._write_label(name, key, note)
        _make_room(file.parent)

    def _write_label(self, name: str, key: str, note: Any) -> None:
        if source.digest() == source.AT_START:  # what was traced is what is there
            content = {"program": key, "note": note, "digest": _digest([key, note])}
            _write(self._label(name), json.dumps(content).encode())

    def _label(self, name: str) -> Path:
        return self._place(_digest([self.world, self.description, name]), _LABEL)

    def _place(self, stem: str, suffix: str) -> Path:
        assert self.folder
        return self.folder / f"{stem}{suffix}"


NOWHERE = Shelf()


def _keep(how: Callable[..., None], *what: Any) -> None:
    try:
        how(*what)
    except Exception as error:  # a run can do without, and this may be a thread's end
        logger.warning("a program is not kept (%s)", _told(error))


def _is_own(there: os.stat_result) -> bool:
    """Whether it is the user's own, and nobody else's to write to."""
    return there.st_uid == os.getuid() and not there.st_mode & _OTHERS


def _read_own(file: Path) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, is a link, or is not the user's own.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(file, flags), "rb") as stream:
        if hasattr(os, "getuid") and not _is_own(os.fstat(stream.fileno())):
            raise PermissionError(f"{file}: others could have written it")
        return stream.read()


def _touch(file: Path) -> None:
    with contextlib.suppress(OSError):  # of a file system that cannot be written
        os.utime(file)


def _read_label(file: Path) -> tuple[str, Any] | None:
    """The key of a program and a note; None where there is no label, or one that makes no sense."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        key, note = content["program"], content["note"]
        whole = content["digest"] == _digest([key, note])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return (key, note) if whole and re.fullmatch("[0-9a-f]{32}", str(key)) else None


def _write(file: Path, content: bytes) -> None:
    """Writes all of a file or nothing of it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


_seen = threading.local()  # the events of this thread, while it watches


@functools.cache
def _listen() -> None:
    def note(event: str, **_: Any) -> None:
        if hasattr(_seen, "events"):
            _seen.events.append(event)

    jax.monitoring.register_event_listener(note)


@contextlib.contextmanager
def _watching() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether jax's cache had what was compiled inside, or may have."""
    _listen()
    events = _seen.events = []

    def from_jax() -> bool:
        asked = "/jax/compilation_cache/compile_requests_use_cache" in events
        return not asked or "/jax/compilation_cache/cache_hits" in events

    try:
        yield from_jax
    finally:
        del _seen.events


def _digest(what: Any) -> str:
    text = json.dumps(what, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def folder(name: str) -> Path | None:
    """A folder beside jax's compiled programs; None where jax keeps none.

    `JAX_COMPILATION_CACHE_DIR` moves both, `JAX_ENABLE_COMPILATION_CACHE=0` keeps neither. A folder
    in a cloud's storage is for jax's programs alone.
    """
    beside = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    kept = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009
    if not beside or not kept or "://" in beside:
        return None
    return Path(beside) / name


def shelf(versions: Mapping[str, str], described: Any) -> Shelf:
    """For the programs of a run. Nothing is kept where several processes share it.

    Nor is anything taken once the sources were edited: who imported them anew does not run what
    this process began with. What replaces functions in memory is not noticed.

    Args:
        versions: of all packages that a trace depends on, by name.
        described: JSON-able, all that the run's programs follow from beside those, the sources,
            settings and devices.
    """
    where = folder("whole")
    if where is None or jax.process_count() > 1 or source.digest() != source.AT_START:
        return NOWHERE
    of_compiler = [versions.get(package) for package in ("jax", "jaxlib")]
    world = _digest([of_compiler, _settings(), _machine()])
    return Shelf(where, world, _digest([described, dict(versions), source.AT_START]))


def _settings() -> dict[str, Any]:
    """jax's, flax's and the compilers', but for where programs are kept."""
    of_jax = {name: value for name, value in jax.config.values.items() if "_cache" not in name}
    names = [name for name in dir(flax.config) if name.startswith(("flax_", "nnx_"))]
    of_flax = {name: getattr(flax.config, name) for name in names}
    compilers = "XLA_|LIBTPU_|TRITON_|NVIDIA_TF32_OVERRIDE"
    of_compilers = {k: v for k, v in os.environ.items() if re.match(compilers, k)}
    return of_jax | of_flax | of_compilers


def _machine() -> list[Any]:
    """Devices, their memory, by which chunks are sized, and the processor, which code is for."""
    devices = jax.devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    kinds = [(device.id, device.device_kind, device.client.platform_version) for device in devices]
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    features = set(re.findall(r"(?m)^(?:model name|flags|Features|CPU part)\s*:.*$", text))
    processor = sorted(features) or [platform.processor(), platform.node()]
    return [platform.machine(), kinds, limits, processor]


def _forms(args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _places(program: jax.stages.Compiled) -> list[int]:
    """The devices that a program is for, in its order."""
    sharding = jax.tree.leaves(program.output_shardings)[0]
    mesh = getattr(sharding, "mesh", None)
    return [device.id for device in (sharding.device_set if mesh is None else mesh.devices.flat)]


def _make_room(folder: Path) -> None:
    """Removes what was used least lately, until the rest may stay, and labels of what is gone.

    Others may be doing the same.
    """
    ages = []
    for path in folder.glob(f"*{_PROGRAM}"):
        with contextlib.suppress(FileNotFoundError):
            there = path.stat()
            ages.append((there.st_mtime, there.st_size, path))
    room = _MOST_BYTES
    for _, size, path in sorted(ages, reverse=True):
        if size > room:
            path.unlink(missing_ok=True)
        else:
            room -= size
    used = []
    for file in folder.glob(f"*{_LABEL}"):
        label = _read_label(file)
        if label is None or not (folder / f"{label[0]}{_PROGRAM}").exists():
            file.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError):
            used.append((file.stat().st_mtime, file))
    for _, file in sorted(used, reverse=True)[_MOST_LABELS:]:
        file.unlink(missing_ok=True)
    for file in folder.glob(f"*{_TEMPORARY}"):  # of a process that was killed
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime < time.time() - _DAY:
                file.unlink()
