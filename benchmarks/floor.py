"""How much longer does an update take than the matrix products it needs?

    python benchmarks/floor.py                    # point, with MAML
    python benchmarks/floor.py maze gridworld --json figures.json

The update's products are counted in its jaxpr, shape by shape. A second program computes as many
of each shape on every device, and nothing else: that is the floor. The two are timed in turn, so
that a busy moment affects both, along with a product of large matrices, whose rate `metajax plan`
uses.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from metajax import experiments, jaxprs, presets, roofline, training
from metajax.catalogue import ALGORITHMS
from metajax.presets import PRESETS
from support import records
from support.timing import in_turn

MOST = 2  # times its products that an update should take


@dataclasses.dataclass(frozen=True)
class Options:
    """Times updates, and their matrix products on their own."""

    presets: tyro.conf.Positional[tuple[str, ...]] = ("point",)
    """Presets."""
    algorithm: str = "maml"
    """The algorithm."""
    rounds: int = 9
    """How many times each is timed."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


class Product(NamedTuple):
    """A kind of matrix product."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[Any, Any]
    dimensions: Any  # contracted and batched, as in `lax.dot_general`
    result: Any  # dtype

    @property
    def flops(self) -> float:
        (_, contracted), (_, batched) = self.dimensions
        left, right = self.shapes
        kept = [n for axis, n in enumerate(right) if axis not in (*contracted, *batched)]
        return 2.0 * math.prod(left) * math.prod(kept)


def products(jaxpr: Any) -> collections.Counter[Product]:
    """How many times a jaxpr computes each product on one device, counted as by `jaxprs.cost`."""
    found: collections.Counter[Product] = collections.Counter()
    needed = {variable for variable in jaxpr.outvars if not hasattr(variable, "val")}
    for equation in reversed(jaxpr.eqns):
        if not equation.effects and needed.isdisjoint(equation.outvars):
            continue
        needed |= {variable for variable in equation.invars if not hasattr(variable, "val")}
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            left, right = (variable.aval for variable in equation.invars)
            (out,) = (variable.aval for variable in equation.outvars)
            dimensions = params["dimension_numbers"]
            shapes, dtypes = (left.shape, right.shape), (left.dtype, right.dtype)
            found[Product(shapes, dtypes, dimensions, out.dtype)] += 1
            continue
        inside = [*jaxprs.bodies(equation)]
        if name == "cond":
            inside = [max(inside, key=jaxprs.cost)]
        elif name != "while":
            inside = inside[:1]
        for body in inside:
            for product, count in products(body).items():
                found[product] += count * (params["length"] if name == "scan" else 1)
    return found


def alone(counts: collections.Counter[Product], mesh: Any) -> tuple[Callable[..., Any], Any]:
    """A program that computes these products in sequence on every device, and its operands."""

    def program(operands: list[Any]) -> Any:
        return [
            jax.lax.fori_loop(0, count, lambda _, a, p=product, b=b: _again(p, a, b), a)
            for (product, count), (a, b) in zip(counts.items(), operands, strict=True)
        ]

    operands = [
        tuple(jnp.zeros(shape, dtype) for shape, dtype in zip(p.shapes, p.dtypes, strict=True))
        for p in counts
    ]
    if mesh is not None:
        operands = jax.device_put(operands, jax.NamedSharding(mesh, jax.P()))
        program = jax.shard_map(
            program, mesh=mesh, in_specs=jax.P(), out_specs=jax.P(), check_vma=False
        )
    return program, operands


def _again(product: Product, a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the product and returns `a`, made to depend on it: else XLA would hoist it."""
    out = jax.lax.dot_general(a, b, product.dimensions, preferred_element_type=product.result)
    first = jax.lax.optimization_barrier(out).ravel()[0].astype(a.dtype)
    return a.at[(0,) * a.ndim].add(first)


def measure(preset: str, options: Options) -> dict[str, Any]:
    config = presets.preset(preset, options.algorithm)
    experiment = experiments.build(config)
    mesh, devices = experiment.mapping.mesh, experiment.mapping.devices
    traced = training.trace(experiment.learner)
    counts = products(traced.jaxpr.jaxpr)
    update = traced.lower().compile()
    program, operands = alone(counts, mesh)
    floor = functools.partial(jax.jit(program).lower(operands).compile(), operands)
    placed = update.input_shardings[0][0]
    state = jax.jit(experiment.learner.init, out_shardings=placed)(jax.random.key(0))

    def step() -> Any:
        nonlocal state
        state, totals = update(state, np.int32(1))
        return totals

    rates: list[float] = []

    def large_matrices() -> None:
        rates.append(roofline.matrix_rate(mesh))

    sides = {"update": step, "floor": floor, "large matrices": large_matrices}
    times = in_turn(sides, options.rounds + 1)  # the first round is left out of the medians
    flops = devices * sum(product.flops * count for product, count in counts.items())
    median = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
    pairs = zip(times["update"][1:], times["floor"][1:], strict=True)
    large = flops / max(rates)  # `matrix_rate` is the best of a few runs, so this is too
    return {
        "preset": preset,
        "algorithm": options.algorithm,
        "tasks": config.tasks,
        "devices": devices,
        "flops": flops,
        "update": median["update"],
        "update_worst": max(times["update"][1:]),
        "floor": median["floor"],
        "floor_of_large_matrices": large,
        # Not named `ratio`, which is better the larger it is, see `guard.py`.
        "times_its_products": statistics.median(one / other for one, other in pairs),
        "times_large_products": min(times["update"]) / large,
        "products": [
            {
                "count": count,
                "shapes": product.shapes,
                "share": devices * product.flops * count / flops,
            }
            for product, count in counts.most_common()
        ],
    }


def show(row: dict[str, Any]) -> str:
    flops, floor, update = row["flops"], row["floor"], row["update"]
    most = sorted((product["share"] for product in row["products"]), reverse=True)
    large = row["floor_of_large_matrices"]
    own = row["times_its_products"]
    return "\n".join(
        [
            f"{row['preset']}, {row['algorithm']}: {row['tasks']} tasks, devices: {row['devices']}",
            f"  products   {flops / 1e9:.3g} GFLOP, {sum(most[:3]):.0%} in three shapes",
            f"  alone      {1e3 * floor:.1f} ms, {flops / floor / 1e9:.3g} GFLOP/s; "
            f"{1e3 * large:.1f} ms at the {flops / large / 1e9:.3g} GFLOP/s of large matrices",
            f"  an update  {1e3 * update:.1f} ms, worst {1e3 * row['update_worst']:.1f}",
            f"  that is    {own:.2f} times its products (wanted: at most {MOST}), "
            f"{row['times_large_products']:.2f} times large ones",
        ]
    )


def main() -> int:
    """Prints a few lines for each preset."""
    options = tyro.cli(Options)
    records.check_names("presets", options.presets, PRESETS)
    records.check_names("algorithm", [options.algorithm], ALGORITHMS)
    records.check_sizes(options)
    jax.config.update("jax_num_cpu_devices", records.cores())
    rows = []
    for preset in options.presets:
        try:
            rows.append(measure(preset, options))
        except ValueError as error:  # an algorithm that is not for the preset
            records.refuse(f"{preset}, {options.algorithm}: {error}")
        print(show(rows[-1]), flush=True)
    if options.json:
        records.write(options.json, {"rows": rows}, "jaxlib")
    return 0 if all(row["times_its_products"] <= MOST for row in rows) else records.MISSED


if __name__ == "__main__":
    sys.exit(main())
