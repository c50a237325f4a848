"""What a program must compute, what a device can, and so the least time that it takes.

A program's cost is counted in its jaxpr, where loops have their lengths: the analysis of a compiled
program (`cost_analysis`) counts the body of a loop once, and an update is loops within loops. What
a device can do is measured on it, on all devices of a mesh at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Cost", "bodies", "copy_rate", "cost", "matrix_rate", "peak_bytes"]

# What the compiler makes part of whatever reads it.
_FREE = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "iota", "copy"}
_FREE |= {"convert_element_type", "stop_gradient", "slice", "pvary"}


class Cost(NamedTuple):
    """Of running a program once, on all its devices together."""

    flops: float = 0.0  # of matrix products and convolutions, two for a multiplication and addition
    bytes: float = 0.0  # of all values, each written once and read once: fusion saves most of it


def bodies(equation: Any) -> Iterator[Any]:
    """The programs that an equation of a jaxpr holds: a loop's body, a branch, a function."""
    for leaf in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(leaf, "eqns"):
            yield getattr(leaf, "jaxpr", leaf)


def cost(jaxpr: Any) -> Cost:
    """The cost of a jaxpr, without what nothing reads.

    A loop costs its body times its length, once where the length is data. Of a `cond` the dearest
    branch counts; under `vmap` it is a `select`, and all do.
    """
    total = Cost()
    needed = {variable for variable in jaxpr.outvars if not hasattr(variable, "val")}
    for equation in reversed(jaxpr.eqns):
        if not equation.effects and needed.isdisjoint(equation.outvars):
            continue
        needed |= {variable for variable in equation.invars if not hasattr(variable, "val")}
        total = _sum(total, _cost_of_equation(equation))
    return total


def _cost_of_equation(equation: Any) -> Cost:
    name, params = equation.primitive.name, equation.params
    inner = [cost(body) for body in bodies(equation)]
    if name == "scan":
        return _times(inner[0], params["length"])
    if name == "while":
        return _sum(*inner)
    if name == "cond":
        return max(inner)
    if name == "pallas_call":  # its program is of a block, of which each grid has many
        outside = sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)
        estimate = params["cost_estimate"]
        return Cost(float(estimate.flops) if estimate else 0.0, 2.0 * outside)
    if name == "shard_map":
        return _times(inner[0], params["mesh"].size)
    out = [variable.aval for variable in equation.outvars]
    if not out:  # a callback
        return Cost()
    if inner and [v.aval.shape for v in next(bodies(equation)).outvars] == [a.shape for a in out]:
        return inner[0]  # a call; a reduction or a scatter holds only how two elements meet
    if name in _FREE:
        return Cost()
    return Cost(_flops(equation), 2.0 * sum(aval.size * aval.dtype.itemsize for aval in out))


def _sum(a: Cost, b: Cost) -> Cost:
    return Cost(a.flops + b.flops, a.bytes + b.bytes)


def _times(one: Cost, number: int) -> Cost:
    return Cost(one.flops * number, one.bytes * number)


def _flops(equation: Any) -> float:
    out = equation.outvars[0].aval
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * out.size * math.prod(equation.invars[0].aval.shape[d] for d in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * out.size * kernel.size / features
    return 0.0


def peak_bytes(program: jax.stages.Compiled) -> int:
    """What a compiled program takes of a device's memory at its peak."""
    memory = program.memory_analysis()
    assert memory is not None  # all of jax's own backends have it
    together = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return together + memory.temp_size_in_bytes - memory.alias_size_in_bytes


# Measuring -----------------------------------------------------------------------------------

_SECONDS = 0.03  # of a timed run, about
_STEPS = 4  # at least
_RUNS = 3


def matrix_rate(mesh: jax.sharding.Mesh | None = None) -> float:
    """Operations a second in products of large float32 matrices, of all devices of `mesh` at once.

    None for the default device. Takes a fraction of a second.
    """
    width = 512 if jax.default_backend() == "cpu" else 8192
    seconds = _seconds(lambda x: x @ x / width, (width, width), mesh)
    return 2.0 * width**3 * (mesh.size if mesh else 1) / seconds


def copy_rate(mesh: jax.sharding.Mesh | None = None) -> float:
    """Bytes written and read a second in copies larger than any cache, as `matrix_rate`."""
    length = 1 << (24 if jax.default_backend() == "cpu" else 28)
    seconds = _seconds(lambda x: x + 1.0, (length,), mesh)
    return 2.0 * 4 * length * (mesh.size if mesh else 1) / seconds


def _seconds(
    step: Callable[[Any], Any], shape: tuple[int, ...], mesh: jax.sharding.Mesh | None
) -> float:
    """Of one `step` on every device at once: the best of a few runs, for others use them too."""

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
    number = _STEPS + int(_SECONDS / timed(1))  # so many that what else a run costs is small
    return min(timed(number) for _ in range(_RUNS)) / number
