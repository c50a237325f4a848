"""Traced programs: run again without their Python, and asked for their operations and memory.

A jaxpr knows the lengths of its loops. The analysis of a compiled program (`cost_analysis`) counts
the body of a loop once, and an update is loops within loops.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

__all__ = [
    "Cost",
    "Traced",
    "bodies",
    "cost",
    "intermediate_bytes",
    "live_bytes",
    "longest_axis",
    "scoped_sizes",
    "traced",
]

# What the compiler fuses into whatever reads it.
_FREE = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "iota", "copy"}
_FREE |= {"convert_element_type", "stop_gradient", "slice", "pvary"}


class Cost(NamedTuple):
    """The cost of running a program once, on all its devices together."""

    flops: float = 0.0  # of matrix products and convolutions; a multiply-add counts as two
    bytes: float = 0.0  # of all values, each written once and read once: fusion saves most of it


class Traced(NamedTuple):
    """A function that was traced once, and that runs from this trace, without its dead code."""

    constants: list[Any]  # values that the function closes over
    jaxpr: Any  # of the leaves that its results depend on
    used: list[bool]  # of each leaf of its arguments: whether they do
    shapes: Any  # of what it returns

    def needed(self, *args: Any) -> list[Any]:
        """The leaves of the function's arguments that its results depend on."""
        return [leaf for leaf, used in zip(jax.tree.leaves(args), self.used, strict=True) if used]

    def of_needed(self, constants: list[Any], needed: list[Any]) -> Any:
        """The function's results, of such leaves."""
        flat = jaxpr_as_fun(ClosedJaxpr(self.jaxpr, constants))(*needed)
        return jax.tree.unflatten(jax.tree.structure(self.shapes), flat)

    def function(self, constants: list[Any], *args: Any) -> Any:
        """The function's results, of arguments as its own."""
        return self.of_needed(constants, self.needed(*args))


def traced(function: Callable[..., Any], *args: Any) -> Traced:
    """`function`, traced once: each transformation would run its Python code again."""
    # A new function each time, as jax would return the cached trace of one that it has seen.
    closed, shapes = jax.make_jaxpr(lambda *args: function(*args), return_shape=True)(*args)
    jaxpr, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return Traced(list(closed.consts), jaxpr, used, shapes)


def bodies(equation: Any) -> Iterator[Any]:
    """The programs that an equation of a jaxpr holds: a loop's body, a branch, a function."""
    for leaf in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(leaf, "eqns"):
            yield getattr(leaf, "jaxpr", leaf)


def cost(jaxpr: Any) -> Cost:
    """The cost of a jaxpr, without dead code.

    A loop costs its body times its length, or once if the length is data. A `cond` costs its most
    expensive branch; under `vmap` it is a `select`, and all branches count.
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
    if name == "pallas_call":  # its body is of one block, of which its grid has many
        outside = sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)
        estimate = params["cost_estimate"]
        return Cost(float(estimate.flops) if estimate else 0.0, 2.0 * outside)
    if name == "shard_map":
        return _times(inner[0], params["mesh"].size)
    out = [variable.aval for variable in equation.outvars]
    if not out:  # a callback
        return Cost()
    if inner and [v.aval.shape for v in next(bodies(equation)).outvars] == [a.shape for a in out]:
        return inner[0]  # a call; in a reduction or a scatter it only combines two elements
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


def intermediate_bytes(jaxpr: Any) -> int:
    """The bytes of all intermediate values, of a loop those of one step of it.

    What a loop stacks is left out: this is for sizes of what is alive within a step.
    """
    total = 0
    for equation in jaxpr.eqns:
        inner = [*bodies(equation)]
        if inner:
            total += max(intermediate_bytes(body) for body in inner)
        else:
            total += sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)
    return total


def live_bytes(jaxpr: Any, inside: bool) -> int:
    """The most bytes of intermediate values that are alive at once, in traced order.

    Args:
        jaxpr: a program.
        inside: whether values inside its loops and calls count too.
    """
    last = {v: i for i, e in enumerate(jaxpr.eqns) for v in e.invars if not hasattr(v, "val")}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not hasattr(v, "val")}
    ending: dict[int, int] = {}
    alive = most = 0
    for i, equation in enumerate(jaxpr.eqns):
        for variable in equation.outvars:
            if variable in last:
                taken = variable.aval.size * variable.aval.dtype.itemsize
                alive += taken
                ending[last[variable]] = ending.get(last[variable], 0) + taken
        within = (live_bytes(body, inside) for body in bodies(equation)) if inside else ()
        most = max(most, alive + max(within, default=0))
        alive -= ending.get(i, 0)
    return most


def longest_axis(jaxpr: Any) -> int:
    """The length of the longest axis of any value."""
    longest = 0
    for equation in jaxpr.eqns:
        shapes = [getattr(variable.aval, "shape", ()) for variable in equation.outvars]
        inner = (longest_axis(body) for body in bodies(equation))
        longest = max(longest, *inner, *(length for shape in shapes for length in shape), 0)
    return longest


def scoped_sizes(scope: str, jaxpr: Any) -> Iterator[int]:
    """The numbers that follow `scope` in the names of scopes: 20 where one is "chunk_20"."""
    for equation in jaxpr.eqns:
        found = re.findall(rf"{scope}(\d+)", str(equation.source_info.name_stack))
        yield from map(int, found)
        for body in bodies(equation):
            yield from scoped_sizes(scope, body)
