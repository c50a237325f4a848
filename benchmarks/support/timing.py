"""Times calls, and the sides of a benchmark in turn, so that a busy moment affects all of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from rich.console import Console

__all__ = ["clock", "cores_between", "figures", "in_turn", "other_load", "race", "timed"]

Name = TypeVar("Name", bound=Hashable)


def other_load() -> tuple[float, float] | None:
    """CPU seconds of all other processes, and the time; None if Linux does not report them."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    idle = int(fields[3]) + int(fields[4])
    busy = sum(map(int, fields[:8])) - idle
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time(), time.perf_counter()


def cores_between(
    before: tuple[float, float] | None, after: tuple[float, float] | None
) -> float | None:
    """Cores that other processes used, on average, between two calls of `other_load`."""
    if before is None or after is None:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


def clock(step: Callable[[], Any]) -> float:
    """Seconds of one update; `step` must wait for its own result."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The result of a call, and the seconds until it is ready."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - start


def in_turn(
    sides: Mapping[Name, Callable[[], Any]], rounds: int, before: int = 0
) -> dict[Name, list[float]]:
    """Seconds of one call of each side, round by round, each until its result is ready.

    Args:
        sides: by name, what is called.
        rounds: how often each is timed.
        before: calls of a side, right before each that is timed, that are not.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            for _ in range(before):
                jax.block_until_ready(side())
            seconds[name].append(timed(side)[1])
    return seconds


def race(
    sides: Mapping[Name, Callable[[], Any]], pairs: int, updates: int, console: Console
) -> dict[Name, list[list[float]]]:
    """Times every update, with the order of the sides reversed from one pair to the next.

    Args:
        sides: by name, a function that runs one update.
        pairs: runs of each side.
        updates: updates per run.
        console: shows the progress.

    Returns:
        Seconds by side, run and update.
    """
    seconds: dict[Name, list[list[float]]] = {name: [] for name in sides}
    names = list(sides)
    for pair in range(pairs):
        with console.status(f"run {pair + 1} of {pairs}"):
            for name in names if pair % 2 == 0 else reversed(names):
                seconds[name].append([clock(sides[name]) for _ in range(updates)])
    return seconds


def figures(
    seconds: Mapping[str, list[list[float]]], first: Mapping[str, float], samples: int
) -> dict[str, dict[str, Any]]:
    """The figures of each side. A run's time is the median of its updates."""
    runs = {name: [statistics.median(run) for run in of_side] for name, of_side in seconds.items()}
    out: dict[str, dict[str, Any]] = {}
    for name, of_side in runs.items():
        median = statistics.median(of_side)
        ratios = [time / ours for time, ours in zip(of_side, runs["metajax"], strict=True)]
        out[name] = {
            "first_update_s": first[name],
            "median_ms": 1e3 * median,
            "best_ms": 1e3 * min(map(min, seconds[name])),
            "worst_ms": 1e3 * max(map(max, seconds[name])),
            "updates_per_s": 1 / median,
            "samples_per_s": samples / median,
            "ratio": statistics.median(ratios),
            "pairs": ratios,
        }
    return out
