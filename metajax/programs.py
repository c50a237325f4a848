"""Compiled programs of earlier starts, found without a trace.

jax's own cache knows a program by its code, which takes a trace and a lowering to tell: seconds of
Python at every start, also of one that compiles nothing. What the command line trains follows from
less: from a configuration, the sources of `metajax` and `envs`, versions, settings and devices. A
`Shelf` has a label with a digest of these on each of its programs, beside the digest of the code:
a program that an edit did not change gets a second label.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import os
import pickle
import platform
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import serialize_executable

from .compiling import compiler_options

__all__ = ["NOWHERE", "Shelf", "folder", "shelf"]

logger = logging.getLogger("metajax")

_PROGRAM, _LABEL = ".program", ".label"
_MOST_BYTES = 2**28  # of all programs of a folder; those used least lately go first


class Shelf(NamedTuple):
    """Where programs are kept, for one description of what they follow from.

    They are code, and pickles: the folder has to be one's own, as jax's is. Without a folder
    nothing is kept.
    """

    folder: Path | None = None
    world: str = ""  # digest of what every program follows from, whatever it computes
    description: str = ""  # digest of what these programs follow from beside it

    def take(self, name: str, *args: Any) -> tuple[jax.stages.Compiled, Any] | None:
        """The program that has the label `name`, and its note; None if there is none for `args`.

        Args:
            name: which of the programs that have this description.
            args: what it is to be called with: arrays, or `jax.ShapeDtypeStruct`s.
        """
        if not self.folder:
            return None
        try:
            key = self._label(name).read_text(encoding="utf-8")
        except OSError:
            return None
        return self._load(key, args)

    def compile(self, name: str, lowered: jax.stages.Lowered, note: Any = None) -> Any:
        """The compiled program, from here or from the compiler, and from now on with this label.

        Args:
            name: as in `take`.
            lowered: the program.
            note: what `take` gives beside it; can be pickled, and follows from the program.
        """
        if not self.folder:
            return lowered.compile()
        options = [compiler_options(once=once) for once in (False, True)]
        key = _digest([self.world, options, lowered.as_text()])
        args, _ = lowered.args_info
        found = self._load(key, args)
        if found:
            _write(self._label(name), key.encode())
            return found[0]
        with _watching() as from_jax:
            program = lowered.compile()
        # What XLA loaded it cannot write again: on a CPU its functions would be missing.
        if not from_jax():
            put = functools.partial(self._put, name, key, program, note)
            threading.Thread(target=put).start()  # whoever waits for the program need not wait
        return program

    def _load(self, key: str, args: Any) -> tuple[jax.stages.Compiled, Any] | None:
        file = self._place(f"{key}{_PROGRAM}")
        try:
            content = file.read_bytes()
        except OSError:
            return None
        try:
            digest, body = content[:32], content[32:]
            if hashlib.sha256(body).digest() != digest:
                raise ValueError("it is damaged")
            payload, in_tree, out_tree, places, note = pickle.loads(body)
            devices = {device.id: device for device in jax.devices()}
            program = serialize_executable.deserialize_and_load(
                payload, in_tree, out_tree, execution_devices=[devices[id] for id in places]
            )
            if _forms(program.args_info) != _forms((args, {})):
                raise ValueError("it takes other arguments")
            os.utime(file)
        except Exception as error:  # whatever becomes of a file: it can be compiled anew
            logger.warning("%s is no use, and removed (%s)", file, _told(error))
            file.unlink(missing_ok=True)
            return None
        return program, note

    def _put(self, name: str, key: str, program: jax.stages.Compiled, note: Any) -> None:
        try:
            payload, in_tree, out_tree = serialize_executable.serialize(program)
            body = pickle.dumps((payload, in_tree, out_tree, _places(program), note))
        except Exception as error:  # a run can do without
            logger.warning("a program is not kept (%s)", _told(error))
            return
        content = hashlib.sha256(body).digest() + body
        file = self._place(f"{key}{_PROGRAM}")
        if _write(file, content):
            _write(self._label(name), key.encode())
            _make_room(file.parent)

    def _label(self, name: str) -> Path:
        return self._place(f"{_digest([self.world, self.description, name])}{_LABEL}")

    def _place(self, name: str) -> Path:
        assert self.folder
        return self.folder / name


def _write(file: Path, content: bytes) -> bool:
    """Writes all of a file or nothing; warns where it cannot."""
    # A name of its own: other processes may be writing the same.
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, file)
    except OSError as error:
        logger.warning("a program is not kept (%s)", _told(error))
        return False
    return True


_seen = threading.local()  # the events of this thread, while it watches


@functools.cache
def _listen() -> None:
    def note(event: str, **_: Any) -> None:
        if hasattr(_seen, "events"):
            _seen.events.append(event)

    jax.monitoring.register_event_listener(note)


@contextmanager
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


NOWHERE = Shelf()


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


def shelf(versions: Any, described: Any) -> Shelf:
    """For the programs of a run. Nothing is kept where several processes share it.

    Args:
        versions: JSON-able, of all packages that a program depends on.
        described: JSON-able, all that the run's programs follow from beside those, the sources,
            settings and devices.
    """
    where = folder("whole")
    if where is None or jax.process_count() > 1:
        return NOWHERE
    world = _digest([versions, _settings(), _machine()])
    return Shelf(where, world, _digest([described, _sources()]))


def _sources() -> str:
    """Digest of the code that traces."""
    digest = hashlib.sha256()
    for package in ("metajax", "envs"):
        found = importlib.util.find_spec(package)
        for root in (found and found.submodule_search_locations) or ():
            for path in sorted(Path(root).rglob("*.py")):
                digest.update(f"{path.relative_to(root)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _settings() -> dict[str, Any]:
    """jax's, and XLA's, but for where programs are kept."""
    ours = {name: value for name, value in jax.config.values.items() if "_cache" not in name}
    of_xla = {k: v for k, v in os.environ.items() if re.match("XLA_|LIBTPU_", k)}
    return ours | of_xla


def _machine() -> list[Any]:
    """Devices, their memory, by which chunks are sized, and the processor, which code is for."""
    devices = jax.devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    kinds = [(device.id, device.device_kind, device.client.platform_version) for device in devices]
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        lines = re.findall(r"(?m)^(?:model name|flags|Features|CPU part)\s*:.*$", text)
        processor = sorted(set(lines))
    except OSError:
        processor = [platform.processor(), platform.node()]
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
    """Removes what was used least lately, until the rest may stay, and labels of what is gone."""
    files = [(path, path.stat()) for path in folder.glob(f"*{_PROGRAM}")]
    left, room = set(), _MOST_BYTES
    for path, stat in sorted(files, key=lambda item: item[1].st_mtime, reverse=True):
        room -= stat.st_size
        if room < 0:
            path.unlink(missing_ok=True)
        else:
            left.add(path.stem)
    for label in folder.glob(f"*{_LABEL}"):
        if label.read_text(encoding="utf-8") not in left:
            label.unlink(missing_ok=True)
