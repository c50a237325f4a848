"""The rates of a device, measured on it: they bound a program's time there from below.

All devices of a mesh are measured at once, as they share memory and, on a CPU, cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["copy_rate", "matrix_rate", "peak_bytes"]

_SECONDS = 0.03  # of a timed run, about
_STEPS = 4  # at least
_RUNS = 3


def peak_bytes(program: jax.stages.Compiled) -> int:
    """What a compiled program takes of a device's memory at its peak."""
    memory = program.memory_analysis()
    assert memory is not None  # all of jax's own backends have it
    together = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return together + memory.temp_size_in_bytes - memory.alias_size_in_bytes


def matrix_rate(mesh: jax.sharding.Mesh | None = None) -> float:
    """Operations a second in products of large float32 matrices, of all devices of `mesh` at once.

    None for the default device. Takes a fraction of a second.
    """
    width = 512 if jax.default_backend() == "cpu" else 8192
    seconds = _seconds(lambda x: x @ x / width, (width, width), mesh)
    return 2.0 * width**3 * (mesh.size if mesh else 1) / seconds


def copy_rate(mesh: jax.sharding.Mesh | None = None) -> float:
    """Bytes written and read per second in copies larger than any cache, as in `matrix_rate`."""
    length = 1 << (24 if jax.default_backend() == "cpu" else 28)
    seconds = _seconds(lambda x: x + 1.0, (length,), mesh)
    return 2.0 * 4 * length * (mesh.size if mesh else 1) / seconds


def _seconds(
    step: Callable[[Any], Any], shape: tuple[int, ...], mesh: jax.sharding.Mesh | None
) -> float:
    """Time of a `step` on every device at once: the best of a few runs, as others use them too."""

    def steps(number: Any) -> Any:
        ones = jnp.full(shape, 1.0, jnp.float32) + number.astype(jnp.float32)
        out = jax.lax.fori_loop(0, number, lambda _, x: step(x), ones)
        return jnp.sum(out[..., :1])  # what is not read is not computed

    if mesh is not None:
        # Every device computes all of it.
        steps = jax.shard_map(
            steps, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(), check_vma=False
        )
    run = jax.jit(steps)

    def timed(number: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(run(jnp.int32(number)))
        return time.perf_counter() - began

    timed(1)  # compiles
    number = _STEPS + int(_SECONDS / timed(1))  # enough that the overhead of a run is small
    return min(timed(number) for _ in range(_RUNS)) / number
