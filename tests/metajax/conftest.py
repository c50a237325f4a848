"""Runs of the command line, for the files that look at what one leaves or refuses."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest
import toy
from command_line import GRIDWORLD

from metajax import cli, files


@pytest.fixture(scope="module")
def compiled_once():
    """What one file of commands has compiled, the next one takes, whichever process runs it."""
    directory = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / "commands"
    yield from toy.compiled_once(directory, jax_disable_most_optimizations=True)


@pytest.fixture(scope="module")
def trained(compiled_once, tmp_path_factory) -> Path:
    """A finished run of a tiny gridworld, with everything in it. Not to be changed.

    The first file that needs it makes it, for those in other processes too.
    """
    shared = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / "runs"
    shared.mkdir(parents=True, exist_ok=True)
    with _held(shared):
        if not (shared / "grid").exists():
            assert cli.run([*GRIDWORLD, "--run", str(shared / "unfinished"), "--overwrite"]) == 0
            (shared / "unfinished").rename(shared / "grid")
    return Path(shutil.copytree(shared / "grid", tmp_path_factory.mktemp("runs") / "grid"))


@contextlib.contextmanager
def _held(directory: Path):
    while True:
        try:
            descriptor = files.lock(directory)
            break
        except BlockingIOError:
            time.sleep(0.1)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "grid"))


@pytest.fixture(autouse=True)
def of_no_window(monkeypatch):
    """No width of a window, which some who start the tests say theirs is."""
    monkeypatch.delenv("COLUMNS", raising=False)
