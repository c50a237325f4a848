"""How many mazes a second are drawn and solved, for `environments.py`."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from envs import mazes, solve

from .timing import timed

__all__ = ["time_mazes"]


def _per_second(work: Callable[[], Any], count: int, repeats: int) -> tuple[float, float]:
    """Median rate of work that does `count` things at once, and the seconds of its first call."""
    _, first = timed(work)
    return statistics.median(count / timed(work)[1] for _ in range(repeats)), first


def time_mazes(repeats: int, console: Console, count: int = 1024) -> list[dict[str, Any]]:
    """Rates of every maze generator, of Jumanji's, and of solving all distances of a maze."""
    keys = jax.random.split(jax.random.key(0), count)
    rows = []
    for squares in (15, 31, 63):
        cells = (squares - 1) // 2
        makers: dict[str, Callable[[], Any]] = {}
        for name, generator in mazes.GENERATORS.items():
            batch = jax.jit(jax.vmap(lambda key, g=generator, c=cells: g(key, c, c)))
            makers[name] = lambda batch=batch: batch(keys)
        draw = mazes.GENERATORS["backtracker"]
        # Drawn by a program of its own: the first call of the one that is timed compiles it.
        walls = jax.jit(jax.vmap(lambda key, draw=draw, c=cells: draw(key, c, c)))(keys)
        exits = jnp.full((count, 2), squares - 2, jnp.int32)
        for name, distances in (
            ("all distances to the exit", solve.maze_distances),
            ("the same, of any grid", solve.distances),
        ):
            solver = jax.jit(jax.vmap(distances))
            makers[name] = lambda s=solver, w=walls, e=exits: s(w, e)
        if squares < 63:
            try:
                from jumanji.environments.routing.maze.generator import RandomGenerator
            except ImportError as reason:
                console.print(f"Jumanji's generator left out: {reason}")
            else:
                theirs = RandomGenerator(squares, squares)
                old_keys = jax.random.split(jax.random.PRNGKey(0), count)
                drawn = jax.jit(jax.vmap(lambda key, g=theirs: g(key).walls))
                makers["Jumanji's generator"] = lambda d=drawn, k=old_keys: d(k)
        for name, make in makers.items():
            with console.status(f"{name}, {squares} x {squares}"):
                rate, first = _per_second(make, count, repeats)
            rows.append({"name": name, "squares": squares, "per_s": rate, "first_s": first})
    return rows
