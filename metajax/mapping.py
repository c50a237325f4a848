"""The one place that maps over tasks: devices, then chunks, then `vmap`.

A function of one task becomes a function of N in three layers. `shard_map` over the mesh axis
"tasks" gives each device its share; `lax.scan` over chunks bounds what is alive at once; `vmap`
makes a chunk one batched computation. Inside a chunk, a part that was marked `tiled` runs over
still smaller groups, so that what a second-order gradient keeps alive stays in the processor's
cache. Results depend on neither the chunk, the tile nor the number of devices, to rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from . import jaxprs
from .checks import require_integer

__all__ = [
    "Mapping",
    "check_layout",
    "check_mapping",
    "chunk_size",
    "largest_divisor",
    "map_tasks",
    "mean_over_tasks",
    "task_mesh",
    "tile_size",
    "tiled",
]

Array = jax.Array

AXIS = "tasks"
TILE = "tile_"  # plus its size: the name scope in which a tile is computed
CHUNK = "chunk_"  # likewise
# Bound on the sum of a tile's intermediate values on a CPU. Most of them are never alive together,
# so this stands for a working set of about a tenth: a core's second-level cache.
_CPU_TILE_BYTES = 8 << 20
# Bound on what a chunk's tasks keep alive on a CPU: many inner steps, whose batches all wait for
# the derivative, take smaller chunks instead of more memory.
_CPU_CHUNK_BYTES = 5 << 20
# The most tasks alive at once on a device if no chunk is given. On a GPU only memory is the limit
# (`_chunk_bytes`): a rollout's kernels cost their launch, however many tasks they are for.
_CHUNK = 2048


class Mapping(NamedTuple):
    """How tasks are laid out on hardware. By default the sizes are chosen automatically.

    Attributes:
        mesh: of one axis, "tasks", as `task_mesh` makes it; None is one device.
        chunk: tasks of one device that are alive at once.
        tile: tasks of a chunk whose gradient is taken at once.
    """

    mesh: jax.sharding.Mesh | None = None
    chunk: int | None = None
    tile: int | None = None

    @property
    def devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    @property
    def everywhere(self) -> jax.sharding.NamedSharding | None:
        """The sharding of values replicated on every device, and so in every process."""
        return None if self.mesh is None else jax.NamedSharding(self.mesh, jax.P())


def check_mapping(mapping: Any) -> None:
    """Raises ValueError for anything but a Mapping with valid sizes."""
    if not isinstance(mapping, Mapping):
        kind = type(mapping).__name__
        raise ValueError(
            f"mapping: expected `Mapping(mesh=task_mesh())`, or one like it, got {kind}"
        )
    if mapping.mesh is not None and mapping.mesh.axis_names != (AXIS,):
        axes = ", ".join(map(str, mapping.mesh.axis_names))
        raise ValueError(f"mesh: expected one axis, {AXIS!r}, as `task_mesh` makes, got {axes}")
    for name, value in (("chunk", mapping.chunk), ("tile", mapping.tile)):
        if value is not None:
            require_integer(name, value, 1)


def check_layout(mapping: Any, tasks: int) -> None:
    """Raises ValueError unless given a Mapping by which `tasks` can be laid out."""
    check_mapping(mapping)
    require_integer("tasks", tasks, 1)
    if tasks % mapping.devices:
        raise ValueError(
            f"tasks: {tasks} is not a multiple of the {mapping.devices} devices it is shared over"
        )


def task_mesh(devices: int | Sequence[Any] | None = None) -> jax.sharding.Mesh | None:
    """A mesh over `devices`: a list, a number per process, or None for all there are.

    Returns:
        The mesh, or None for the one device that jax takes by default.

    Raises:
        ValueError: a number of devices that a process does not have.
    """
    by_default = None
    if devices is None:
        devices = jax.devices()
    elif isinstance(devices, int | np.integer):
        available = jax.local_device_count()
        require_integer("devices", devices, 1, available)
        processes = range(jax.process_count())
        each = [jax.local_devices(process_index=index)[:devices] for index in processes]
        devices = [device for of_process in each for device in of_process]
    else:
        by_default = jnp.zeros(()).devices()
    if len(devices) == 1 and by_default in (None, {*devices}):
        return None
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=axis_types, devices=devices)


def largest_divisor(number: int, bound: int) -> int:
    """The largest divisor of `number` that is at most `bound`; 1 where `bound` is less."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return max(d for d in (*small, *(number // d for d in small)) if d <= max(bound, 1))


def _automatic_tile(jaxpr: Any, axis_size: int) -> int:
    """All tasks at once on an accelerator; on a CPU as many as the cache holds."""
    if jax.default_backend() != "cpu":
        return axis_size
    return _CPU_TILE_BYTES // max(jaxprs.intermediate_bytes(jaxpr), 1)


def tile_size(
    function: Callable[..., Any], tasks: int, mapping: Mapping, *args: Any, least: int = 1
) -> int:
    """How many of a device's tasks a gradient by parameters that they share is taken of at once.

    `tiled` chooses by itself; this is for what is not a function of one task.

    Args:
        function: takes the gradient.
        tasks: of a device.
        mapping: how tasks are laid out on hardware.
        *args: of `function`, for one task.
        least: the least to choose, before that is lowered to a divisor of `tasks`.
    """
    bound = mapping.tile
    if bound is None:
        jaxpr = jax.make_jaxpr(function)(*args).jaxpr
        bound = max(_automatic_tile(jaxpr, tasks), least)
        allowed = _chunk_bytes()
        if jax.default_backend() != "cpu" and allowed is not None:
            bound = min(bound, allowed // max(jaxprs.live_bytes(jaxpr, inside=True), 1))
    return largest_divisor(tasks, bound)


def _at_once(function: Callable[[Any], Any], per_task: Any) -> Any:
    """`vmap`, but without an axis for a single task: one of size 1 would prevent fusion."""
    if jax.tree.leaves(per_task)[0].shape[0] > 1:
        return jax.vmap(function)(per_task)
    out = function(jax.tree.map(lambda leaf: leaf[0], per_task))
    return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), out)


def tiled(function: Callable[..., Any], tile: int | None = None) -> Callable[..., Any]:
    """`function` of one task, which `vmap` over n tasks runs as n / tile groups, one by one.

    A tile that does not divide n is lowered to the next size that does; None chooses one. The
    result cannot be differentiated: `function` has to take its gradients itself. Arguments are
    positional.
    """

    def of_tiles(*args: Any) -> Any:
        traced = jaxprs.traced(function, *args)
        # What no result depends on would be kept alive until here: of many inner steps, much.
        call = jax.custom_batching.custom_vmap(traced.of_needed)

        @call.def_vmap
        def run_tiles(axis_size: int, in_batched: Any, *args: Any) -> tuple[Any, Any]:
            leaves, structure = jax.tree.flatten(args)
            batched = jax.tree.leaves(in_batched)
            moving = [leaf for leaf, moves in zip(leaves, batched, strict=True) if moves]

            def of_one(moving: list[Array]) -> Any:
                rest = iter(moving)
                all_of_it = [
                    next(rest) if moves else leaf
                    for leaf, moves in zip(leaves, batched, strict=True)
                ]
                return traced.of_needed(*jax.tree.unflatten(structure, all_of_it))

            size = largest_divisor(axis_size, tile or _automatic_tile(traced.jaxpr, axis_size))
            # The name tells profiles, and `plan`, what was chosen.
            with jax.named_scope(f"{TILE}{size}"):
                if size == axis_size:
                    out = _at_once(of_one, moving)
                else:
                    tiles = [
                        leaf.reshape(axis_size // size, size, *leaf.shape[1:]) for leaf in moving
                    ]
                    out = jax.lax.map(lambda moving: _at_once(of_one, moving), tiles)
                    out = jax.tree.map(lambda leaf: leaf.reshape(axis_size, *leaf.shape[2:]), out)
            return out, jax.tree.map(lambda _: True, out)

        return call(traced.constants, traced.needed(*args))

    return of_tiles


def _over_devices(body: Callable[..., Any], mapping: Mapping, out_specs: Any) -> Callable[..., Any]:
    """`body(shared, per_task)` on every device, with its share of the tasks."""
    if mapping.mesh is None:
        return body
    return jax.shard_map(
        body,
        mesh=mapping.mesh,
        in_specs=(jax.P(), jax.P(AXIS)),
        out_specs=out_specs,
        check_vma=False,
    )


def chunk_size(tasks: int, mapping: Mapping) -> int:
    """The largest chunk that divides a device's tasks, unless it is far below what was asked for.

    In that case the last chunk is a shorter one: a second program, but not thousands of tiny chunks
    where the number of tasks is a prime.
    """
    bound = min(mapping.chunk or _CHUNK, tasks)
    divisor = largest_divisor(tasks, bound)
    return divisor if 2 * divisor > bound else bound


def _chunk_bytes() -> int | None:
    """What a chunk's tasks may keep alive at once; None if the device does not say."""
    if jax.default_backend() == "cpu":
        return _CPU_CHUNK_BYTES
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats["bytes_limit"] // 2 if "bytes_limit" in stats else None


def _sized(mapping: Mapping, jaxpr: Any) -> Mapping:
    """`mapping` with a chunk, if none was given, for the one-task function with this jaxpr.

    On a CPU tiles bound what a gradient keeps inside; elsewhere a tile is the chunk, so what is
    inside counts too.
    """
    allowed = _chunk_bytes()
    if mapping.chunk is not None or allowed is None:
        return mapping
    kept = jaxprs.live_bytes(jaxpr, inside=jax.default_backend() != "cpu")
    fitting = max(allowed // max(kept, 1), 1)
    on_gpu = jax.default_backend() == "gpu"
    return mapping._replace(chunk=fitting if on_gpu else min(fitting, _CHUNK))


def _of_one_task(function: Callable[..., Any], shared: Any, per_task: Any) -> jaxprs.Traced:
    def of_one(leaf: Array) -> jax.ShapeDtypeStruct:
        weak = getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, weak_type=weak)

    return jaxprs.traced(function, shared, jax.tree.map(of_one, per_task))


def _split(per_task: Any, mapping: Mapping) -> tuple[Any, Any]:
    """Whole chunks, with a leading axis over them, and the tasks left over, or None."""
    tasks = jax.tree.leaves(per_task)[0].shape[0]
    size = chunk_size(tasks, mapping)
    whole = tasks - tasks % size
    chunks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, size, *leaf.shape[1:]), per_task)
    return chunks, jax.tree.map(lambda leaf: leaf[whole:], per_task) if whole < tasks else None


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _summable(leaf: Array) -> Array:
    """With room for a sum of many: a float of half precision stops growing at 256 of its size."""
    narrow = _is_float(leaf) and leaf.dtype.itemsize < jnp.dtype(jnp.float32).itemsize
    return leaf.astype(jnp.float32) if narrow else leaf


def _sum_over_devices(tree: Any) -> Any:
    """The sum over devices of every leaf, in one all-reduce: its cost is mostly latency.

    Integers travel among the floats in pieces of 11 bits, whose sums are exact up to 8192 devices.
    """
    types = [leaf.dtype for leaf in jax.tree.leaves(tree) if _is_float(leaf)]
    widest = max([jnp.dtype(jnp.float32), *types], key=lambda dtype: dtype.itemsize)

    def shifts(leaf: Array) -> range:
        return range(0, 8 * leaf.dtype.itemsize, 11)

    def packed(leaf: Array) -> Array:
        pieces = leaf if _is_float(leaf) else jnp.stack([leaf >> s & 2047 for s in shifts(leaf)])
        return pieces.astype(widest)

    def unpacked(leaf: Array, total: Array) -> Array:
        total = total.astype(leaf.dtype)
        if _is_float(leaf):
            return total
        pieces = [piece << s for piece, s in zip(total, shifts(leaf), strict=True)]
        return functools.reduce(jnp.add, pieces)

    flat, restore = ravel_pytree(jax.tree.map(packed, tree))
    return jax.tree.map(unpacked, tree, restore(jax.lax.psum(flat, AXIS)))


def _of_chunk(traced: jaxprs.Traced, shared: Any, chunk: Any) -> Any:
    size = jax.tree.leaves(chunk)[0].shape[0]
    with jax.named_scope(f"{CHUNK}{size}"):  # as with tiles, for profiles and `plan`
        return _at_once(functools.partial(traced.function, traced.constants, shared), chunk)


def mean_over_tasks(function: Callable[..., Any], mapping: Mapping) -> Callable[..., Any]:
    """`function(shared, task_data)` of one task -> the same of N tasks, reduced.

    Float results are averaged over all tasks of all devices, in single precision at least; integer
    results are counts and are summed. Sums grow chunk by chunk, so only one chunk's results are
    alive at once.
    """

    def body(shared: Any, per_task: Any) -> Any:
        traced = _of_one_task(function, shared, per_task)

        def total_of(results: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.sum(_summable(leaf), axis=0), results)

        def total(chunk: Any) -> Any:
            return total_of(_of_chunk(traced, shared, chunk))

        chunks, left_over = _split(per_task, _sized(mapping, traced.jaxpr))
        if jax.tree.leaves(chunks)[0].shape[0] == 1:
            sums = total(jax.tree.map(lambda leaf: leaf[0], chunks))
        else:  # one program for all of them
            one = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), traced.shapes
            )
            nothing = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(total_of, one)
            )
            sums, _ = jax.lax.scan(
                lambda sums, chunk: (jax.tree.map(jnp.add, sums, total(chunk)), None),
                nothing,
                chunks,
            )
        if left_over is not None:
            sums = jax.tree.map(jnp.add, sums, total(left_over))
        tasks = jax.tree.leaves(per_task)[0].shape[0] * mapping.devices
        if mapping.mesh is not None:
            sums = _sum_over_devices(sums)

        def mean(total: Array, one: jax.ShapeDtypeStruct) -> Array:
            return (total / tasks).astype(one.dtype) if _is_float(total) else total

        return jax.tree.map(mean, sums, traced.shapes)

    return _over_devices(body, mapping, out_specs=jax.P())


def map_tasks(function: Callable[..., Any], mapping: Mapping) -> Callable[..., Any]:
    """`function(shared, task_data)` of one task -> the same of N tasks, each result kept."""

    def body(shared: Any, per_task: Any) -> Any:
        traced = _of_one_task(function, shared, per_task)
        chunks, left_over = _split(per_task, _sized(mapping, traced.jaxpr))
        out = jax.lax.map(lambda chunk: _of_chunk(traced, shared, chunk), chunks)
        out = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out)
        if left_over is None:
            return out
        rest = _of_chunk(traced, shared, left_over)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), out, rest)

    return _over_devices(body, mapping, out_specs=jax.P(AXIS))
