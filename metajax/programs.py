"""Compiled programs from earlier starts, or earlier in this process, found without tracing.

jax's own cache identifies a program by its code, which takes tracing and lowering: seconds of
Python at every start, even if nothing is compiled. What the command line trains is determined by
less: a configuration, the sources of `metajax` and `envs`, versions, settings and devices. A
`Shelf` stores programs under a digest of their code, and labels that lead to them under a digest of
these: a program that an edit did not change gets a second label.
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
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

from . import source
from .compiling import compiler_options

__all__ = ["NOWHERE", "Shelf", "folder", "remembered", "shelf"]

logger = logging.getLogger("metajax")

_PROGRAM, _LABEL, _TEMPORARY = ".program", ".label", ".tmp"
_DAY = 86400.0  # seconds
_MOST_BYTES = 2**28  # of all programs of a folder; the least recently used go first
_MOST_LABELS = 2000  # likewise: even an edit that changes no program adds a label
_REMEMBERED = 8  # programs of a function, in memory
_OTHERS = 0o022  # write permission of group and others


class Shelf(NamedTuple):
    """Where programs are stored, for one description of what determines them.

    They are pickled code: nothing is loaded from a folder or a file that others own, or can write
    to. Without a folder nothing is stored.
    """

    folder: Path | None = None
    world: str = ""  # digest of what determines every program, whatever it computes
    description: str = ""  # digest of what else determines these programs

    def take(self, name: str, *args: Any) -> tuple[jax.stages.Compiled, Any] | None:
        """The program with the label `name`, and the label's note; None without one for `args`.

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
        """The compiled program, loaded or newly compiled, and stored with this label.

        Args:
            name: as in `take`.
            lowered: of a function jitted with `keep_unused`: its code does not tell which arguments
                were dropped.
            note: what `take` returns beside it, JSON-able.
            once: as passed to `compiler_options` for it.
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
        # XLA cannot serialise a program that it loaded: on a CPU its functions would be missing.
        if not from_jax():
            put = functools.partial(_keep, self._put, name, key, program, note)
            _keep(threading.Thread(target=put).start)  # no caller waits for this
        return program

    def _usable(self) -> bool:
        """Whether there is a folder of the user's own, or one may be made."""
        if not self.folder or not hasattr(os, "getuid"):
            return self.folder is not None
        try:
            there = self.folder.lstat()  # of a link itself: its target need not be a shelf
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
            if b"lapack_" in payload:
                _prepare_lapack()
            program = serialize_executable.deserialize_and_load(
                payload, in_tree, out_tree, execution_devices=[devices[id] for id in places]
            )
            if _forms(program.args_info) != _forms((args, {})):
                raise ValueError("it takes other arguments")
        except Exception as error:  # whatever is wrong with a file: it can be compiled anew
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
        if source.digest() == source.AT_START:  # the sources are still those that were traced
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
    except Exception as error:  # a run can do without, and in a thread nothing would catch it
        logger.warning("a program is not kept (%s)", _told(error))


def _is_own(there: os.stat_result) -> bool:
    """Whether the user owns it, and nobody else may write to it."""
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
    with contextlib.suppress(OSError):  # a read-only file system
        os.utime(file)


def _read_label(file: Path) -> tuple[str, Any] | None:
    """The key of a program and a note; None where there is no valid label."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        key, note = content["program"], content["note"]
        whole = content["digest"] == _digest([key, note])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return (key, note) if whole and re.fullmatch("[0-9a-f]{32}", str(key)) else None


def _write(file: Path, content: bytes) -> None:
    """Writes a file as a whole or not at all."""
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
    """Yields a function: whether what was compiled inside came from jax's cache, or may have."""
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
    """A folder beside jax's compiled programs; None where jax stores none.

    `JAX_COMPILATION_CACHE_DIR` moves both, `JAX_ENABLE_COMPILATION_CACHE=0` stores neither. Cloud
    storage is for jax's programs alone.
    """
    beside = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    kept = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009
    if not beside or not kept or "://" in beside:
        return None
    return Path(beside) / name


def shelf(versions: Mapping[str, str], described: Any) -> Shelf:
    """The shelf of a run's programs; `NOWHERE` where several processes share the run.

    Likewise once the sources were edited: modules imported since then may differ from those that
    this process began with. Functions replaced in memory are not noticed.

    Args:
        versions: of all packages that a trace depends on, by name.
        described: JSON-able, all that determines the run's programs beside those, the sources,
            settings and devices.
    """
    where = folder("whole")
    if where is None or jax.process_count() > 1 or source.digest() != source.AT_START:
        return NOWHERE
    of_compiler = [versions.get(package) for package in ("jax", "jaxlib")]
    world = _digest([of_compiler, _settings(), _machine()])
    return Shelf(where, world, _digest([described, dict(versions), source.AT_START]))


_memory: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def remembered(owner: Any, what: Any, others: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """`make()`, or what it returned earlier in this process, for as long as `owner` lives.

    As with `jax.jit`, a function is taken to stay what it is, and so is all that it closes over.
    An owner's programs are the last few: those of functions that are made anew each time go again.

    Args:
        owner: the function that a program is of. What is made must not refer to it.
        what: JSON-able, what tells its programs apart beside jax's settings and `others`.
        others: functions and objects that they depend on too.
        make: compiles one.
    """
    key = (_digest([what, _settings(), str(jax.sharding.get_abstract_mesh())]), *others)
    try:
        hash(key)
        known = _memory.setdefault(owner, {})
    except TypeError:  # nothing can be remembered of such objects
        return make()
    made = known.pop(key, None)  # another thread may have taken it: both may make one
    made = make() if made is None else made
    known[key] = made  # the last used is the last
    for oldest in [*known][:-_REMEMBERED]:
        known.pop(oldest, None)
    return made


def _settings() -> dict[str, Any]:
    """Settings of jax, flax and the compilers, except for those of jax's cache."""
    of_jax = {name: value for name, value in jax.config.values.items() if "_cache" not in name}
    names = [name for name in dir(flax.config) if name.startswith(("flax_", "nnx_"))]
    of_flax = {name: getattr(flax.config, name) for name in names}
    compilers = "XLA_|LIBTPU_|TRITON_|NVIDIA_TF32_OVERRIDE"
    of_compilers = {k: v for k, v in os.environ.items() if re.match(compilers, k)}
    return of_jax | of_flax | of_compilers


def _machine() -> list[Any]:
    """Devices, their memory, which sizes chunks, and the processor that code is compiled for."""
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


@functools.cache
def _prepare_lapack() -> None:
    """Lets jaxlib find LAPACK's functions, which it otherwise does when a call of one is lowered.

    A program that was loaded would jump to address 0. (Orthogonal initialisers factorise.)
    """
    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))


def _forms(args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _places(program: jax.stages.Compiled) -> list[int]:
    """The ids of the devices that a program runs on, in its order."""
    sharding = jax.tree.leaves(program.output_shardings)[0]
    mesh = getattr(sharding, "mesh", None)
    return [device.id for device in (sharding.device_set if mesh is None else mesh.devices.flat)]


def _make_room(folder: Path) -> None:
    """Removes the least recently used programs and labels beyond the limits, and what is orphaned.

    Other processes may be doing the same.
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
