"""Several processes, one program: `jax.distributed`, and what processes must agree on.

Every process, on one machine or on many, runs the same Python and launches the same programs in the
same order; `mapping` lays the tasks over the devices of all of them, and jax does the rest. The
first process alone speaks and writes. With a single process nothing here does anything.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

__all__ = [
    "Lost",
    "Refused",
    "Stop",
    "alike",
    "first",
    "greatest",
    "losing",
    "several",
    "start",
    "together",
]

# How long a process may be silent until it counts as dead. An update that meets a dead one fails at
# once; a checkpoint being saved waits this long, and jax's default, 100, would hold up all others.
_MISSED_SECONDS = 40


def start(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Joins the other processes, before jax has computed anything.

    Args:
        coordinator: HOST:PORT where the first process listens.
        processes: how many there are.
        process_id: which of them this is, from 0. All three are None where the cluster knows
            (SLURM, Open MPI, Kubernetes, Cloud TPU).

    Raises:
        ValueError: no cluster was found, or the others did not come.
    """
    if coordinator is not None and process_id == 0 and processes != 1:
        _check_port(coordinator)
    # jax would catch SIGTERM, which `Stop` catches.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator, processes, process_id, heartbeat_timeout_seconds=_MISSED_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"several processes: could not meet ({reason})") from None


def _check_port(coordinator: str) -> None:
    """Raises ValueError where the coordinator's port is taken: jax's service would crash."""
    port = coordinator.rpartition(":")[2]
    if not port.isdigit():
        return  # jax says what it expects
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", int(port)))
        except (OSError, OverflowError) as error:
            raise ValueError(f"coordinator: cannot listen at {coordinator} ({error})") from None


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the process that speaks and writes."""
    return not several() or jax.process_index() == 0


def greatest(value: int) -> int:
    """The greatest `value` of all processes. Each must call it; it waits for what is computed."""
    if not several():
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def alike(what: Any) -> bool:
    """Whether `what`, JSON-able, is the same in all processes, each of which must call it."""
    if not several():
        return True
    digest = np.uint32(zlib.crc32(json.dumps(what, sort_keys=True).encode()))
    return bool((multihost_utils.process_allgather(digest) == digest).all())


class Lost(RuntimeError):
    """Another process died."""


class Refused(ValueError):
    """Another process could not go on."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Wraps what may fail in one process alone: none goes on before all have done it.

    Raises:
        Refused: it failed in another process, which says why.
    """
    try:
        yield
    except Exception:
        greatest(1)
        raise
    if greatest(0):
        raise Refused("another process could not go on, and says why")


@contextlib.contextmanager
def losing() -> Iterator[None]:
    """Wraps what computes with the other processes.

    Raises:
        Lost: in a computation with several processes, one of them was gone.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # A call that computes before it returns raises a plain ValueError.
        if not several() or (isinstance(error, ValueError) and "Gloo" not in str(error)):
            raise
        reason = str(error).partition("\n")[0][:200]
        raise Lost(f"another process is gone ({reason})") from error


class Stop:
    """Turns the first Ctrl-C or SIGTERM into a request, and the second into leaving at once.

    Args:
        note: called with a line that tells people of the request.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.signum = 0  # that all processes know of
        self._caught = 0  # by this one
        self._note = note
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        # Outside the main thread signals cannot be caught, and need not be.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _frame: Any) -> None:
        if self._caught:
            raise KeyboardInterrupt
        self._caught = signum
        self._note("stopping when this chunk is done and saved; once more to leave at once")

    def agreed(self) -> bool:
        """Whether any process was asked to stop. All of them ask this at the same point."""
        self.signum = greatest(self._caught)
        return self.signum > 0
