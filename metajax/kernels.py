"""A multilayer perceptron in one GPU kernel per pass, and its derivatives; see `fused` for when.

Every kernel takes a block of rows through all layers, in registers. Its body is the plain network,
or jax's own derivative of it, traced inside. Pallas compiles the kernels with Triton; without a GPU
they are interpreted, for tests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from . import jaxprs

__all__ = ["Activation", "Layers", "mlp", "plain"]

Array = jax.Array
Activation = Callable[[Array], Array]
Layers = tuple[tuple[Array, Array], ...]
"""Kernel (inputs, outputs) and bias (outputs,) of each layer."""

_NARROWEST = 16  # least side of a matrix-unit product
# Rows that go through the layers at once, by pass, and blocks of them that one program takes. More
# rows make larger products, whose operands go through shared memory; fewer leave registers.
_ROWS = {"outputs": 64, "outputs_along": 64, "gradient": 32, "gradient_along": 32}
_BLOCKS = 8
_FILLED = 1024  # programs that keep a GPU busy
_FEW = 32  # fewer rows of a task are not worth a program


def mlp(layers: Layers, inputs: Array, activation: Activation) -> Array:
    """Outputs (S, O) for inputs (S, I): dense layers, the activation between them.

    Differentiable by the layers in reverse mode and in forward mode over that, and by the inputs at
    the cost of the network in plain operations. Sums over rows are taken block by block.
    """
    return _mlp(activation, layers, inputs)


def plain(layers: Layers, inputs: Array, activation: Activation) -> Array:
    """The same in plain operations."""
    *hidden, (kernel, bias) = layers
    for each, shift in hidden:
        inputs = activation(inputs @ each + shift[None])
    return inputs @ kernel + bias[None]


def _on_gpu() -> bool:
    return jax.default_backend() == "gpu"


# Derivatives -----------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mlp(activation: Activation, layers: Layers, inputs: Array) -> Array:
    return _outputs(activation, layers, inputs)


def _mlp_forward(activation: Activation, layers: Layers, inputs: Array) -> tuple[Array, Any]:
    return _outputs(activation, layers, inputs), (layers, inputs)


def _mlp_backward(activation: Activation, kept: Any, cotangent: Array) -> tuple[Layers, Array]:
    layers, inputs = kept
    # Not computed where nothing reads it, as for inputs that are data.
    of_inputs = jax.vjp(lambda inputs: plain(layers, inputs, activation), inputs)[1](cotangent)[0]
    return _gradient(activation, layers, inputs, cotangent), of_inputs


_mlp.defvjp(_mlp_forward, _mlp_backward)


def _is_data(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _instantiated(primals: Any, tangents: Any) -> Any:
    def whole(primal: Array, tangent: Any) -> Array:
        return jnp.zeros_like(primal) if _is_data(tangent) else tangent

    return jax.tree.map(whole, primals, tangents)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _outputs(activation: Activation, layers: Layers, inputs: Array) -> Array:
    outputs = jax.ShapeDtypeStruct((len(inputs), len(layers[-1][1])), inputs.dtype)
    body = functools.partial(plain, activation=_quick(activation))
    in_plain = functools.partial(plain, activation=activation)
    return _over_rows("outputs", body, in_plain, (layers,), (inputs,), outputs)


def _outputs_jvp(activation: Activation, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (layers, inputs), (along, inputs_along) = primals, tangents
    along = _instantiated(layers, along)
    if not _is_data(inputs_along):
        return jax.jvp(
            lambda layers, inputs: plain(layers, inputs, activation),
            primals,
            (along, inputs_along),
        )
    outputs = jax.ShapeDtypeStruct((len(inputs), len(layers[-1][1])), inputs.dtype)
    body = functools.partial(_outputs_along, _quick(activation))
    in_plain = functools.partial(_outputs_along, activation)
    out = (outputs, outputs)
    return _over_rows("outputs_along", body, in_plain, (layers, along), (inputs,), out)


_outputs.defjvp(_outputs_jvp, symbolic_zeros=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gradient(activation: Activation, layers: Layers, inputs: Array, cotangent: Array) -> Layers:
    body = functools.partial(_gradient_of_rows, _quick(activation))
    return _summed_over_rows("gradient", body, (layers,), (inputs, cotangent), layers)


def _gradient_jvp(activation: Activation, primals: Any, tangents: Any) -> tuple[Layers, Layers]:
    (layers, inputs, cotangent), (along, inputs_along, cotangent_along) = primals, tangents
    along = _instantiated(layers, along)
    cotangent_along = _instantiated(cotangent, cotangent_along)
    gradient = _gradient(activation, layers, inputs, cotangent)
    if _is_data(inputs_along):
        body = functools.partial(_gradient_along, _quick(activation))
        rows = (inputs, cotangent, cotangent_along)
        return gradient, _summed_over_rows("gradient_along", body, (layers, along), rows, layers)
    in_plain = functools.partial(_gradient_of_rows, activation)
    return gradient, jax.jvp(in_plain, primals, (along, inputs_along, cotangent_along))[1]


_gradient.defjvp(_gradient_jvp, symbolic_zeros=True)


# What kernels do with a block of rows ----------------------------------------------------------


# $0 = 1 - 2 / (2^(2 log₂e · $1) + 1), by the special function units.
_TANH = """{
    .reg .f32 t;
    mul.f32 t, $1, 0f4038AA3B;
    ex2.approx.ftz.f32 t, t;
    add.f32 t, t, 0f3F800000;
    rcp.approx.ftz.f32 t, t;
    fma.rn.f32 $0, t, 0fC0000000, 0f3F800000;
}"""


@jax.custom_jvp
def _tanh(x: Array) -> Array:
    """By one exponential, to a few 1e-7: the library's function would be most of a kernel's time.

    That one has a better relative error for tiny x, which matrix units round away.
    """
    if not _on_gpu():
        return 1.0 - 2.0 / (jnp.exp(2.0 * x) + 1.0)
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    (out,) = triton.elementwise_inline_asm(
        _TANH, args=[x], constraints="=f,f", pack=1, result_shape_dtypes=[like]
    )
    return out


@_tanh.defjvp
def _tanh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    out = _tanh(*primals)
    return out, tangents[0] * (1.0 - out * out)


def _quick(activation: Activation) -> Activation:
    return _tanh if activation in (jnp.tanh, jax.nn.tanh, nn.tanh) else activation


def _outputs_along(
    activation: Activation, layers: Layers, along: Layers, inputs: Array
) -> tuple[Array, Array]:
    return jax.jvp(lambda at: plain(at, inputs, activation), (layers,), (along,))


def _gradient_of_rows(
    activation: Activation, layers: Layers, inputs: Array, cotangent: Array
) -> Layers:
    return jax.vjp(lambda at: plain(at, inputs, activation), layers)[1](cotangent)[0]


def _gradient_along(
    activation: Activation,
    layers: Layers,
    along: Layers,
    inputs: Array,
    cotangent: Array,
    cotangent_along: Array,
) -> Layers:
    def gradient(layers: Layers, cotangent: Array) -> Layers:
        return _gradient_of_rows(activation, layers, inputs, cotangent)

    return jax.jvp(gradient, (layers, cotangent), (along, cotangent_along))[1]


# Kernels ---------------------------------------------------------------------------------------


class _Blocks(NamedTuple):
    """How rows are divided among programs."""

    rows: int  # of a block
    blocks: int  # of a program
    programs: int


def _blocks(rows: int, name: str) -> _Blocks:
    block = min(_ROWS[name], _padded(rows))
    number = pl.cdiv(rows, block)
    # Rows of one task are only a part of the work. Rows of all tasks together are all of it, and
    # every multiprocessor needs a share.
    blocks = _BLOCKS if number < _FILLED else min(max(number // _FILLED, 1), _BLOCKS)
    programs = pl.cdiv(number, blocks)
    return _Blocks(block, pl.cdiv(number, programs), programs)


def _padded(width: int) -> int:
    """The power of two that Triton's arrays, and its products, need."""
    return max(_NARROWEST, pl.next_power_of_2(width))


def _window(shape: tuple[int, ...], first: Any, rows: int) -> tuple[tuple[Any, ...], Array]:
    """Indices of a matrix's rows from `first` on, of padded width, and a mask of those that exist.

    All rows, padded, where `first` is None; or all of a vector.
    """
    # From 0.12 on, jax refuses a slice that is longer than its axis, though the mask keeps to the
    # axis, unless its start is computed, so that it cannot tell.
    nowhere = 0 * (pl.program_id(0) if first is None else first)

    def whole(padded: int, there: int) -> Any:
        return pl.ds(0 if padded <= there else nowhere, padded)

    if len(shape) == 1:
        width = _padded(shape[0])
        return (whole(width, shape[0]),), jax.lax.iota(jnp.int32, width) < shape[0]
    height, width = shape
    columns = _padded(width)
    row = (0 if first is None else first) + jax.lax.broadcasted_iota(jnp.int32, (rows, columns), 0)
    column = jax.lax.broadcasted_iota(jnp.int32, (rows, columns), 1)
    inside = (row < height) & (column < width)
    of_rows = whole(rows, height) if first is None else pl.ds(first, rows)
    return (of_rows, whole(columns, width)), inside


def _load(ref: Any, first: Any = None, rows: int | None = None) -> Array:
    """Loads rows, with zeros for the padding: they add nothing to any product."""
    window, inside = _window(ref.shape, first, rows or _padded(ref.shape[0]))
    return triton.load(ref.at[window], mask=inside, other=0.0)


def _store(ref: Any, value: Array, first: Any = None, part: tuple[Any, ...] = ()) -> None:
    """Stores rows from `first` on, of the array that `part` indexes, without the padding."""
    window, inside = _window(ref.shape[len(part) :], first, len(value))
    triton.store(ref.at[(*part, *window)], value, mask=inside)


def _flops(body: Any, parameters: Any, rows: Any) -> float:
    """Operations of the products of all rows, without padding: what `plan` counts."""
    return jaxprs.cost(jax.make_jaxpr(body)(*parameters, *rows).jaxpr).flops


def _call(
    kernel: Callable[..., None], programs: int, args: Any, out: Any, name: str, flops: float
) -> Any:
    wide = max(leaf.shape[-1] for leaf in jax.tree.leaves(args)) > 64
    call = pl.pallas_call(
        kernel,
        out_shape=out,
        grid=(programs,),
        interpret=not _on_gpu(),
        compiler_params=triton.CompilerParams(num_warps=8 if wide else 4, num_stages=1),
        name=f"mlp_{name}",
        cost_estimate=pl.CostEstimate(flops=int(flops), transcendentals=0, bytes_accessed=0),
    )
    return call(*args)


def _over_rows(name: str, body: Any, in_plain: Any, parameters: Any, rows: Any, out: Any) -> Any:
    """`body(*parameters, *rows)` of all rows, block by block.

    Tasks with parameters of their own and few rows use `in_plain`, the same in plain operations:
    loading a task's parameters for its rows would be most of the work.
    """

    def of_rows(parameters: Any, rows: Any) -> Any:
        plan = _blocks(len(rows[0]), name)
        flat, structure = jax.tree.flatten(parameters)

        def kernel(*refs: Any) -> None:
            of_parameters, rest = refs[: len(flat)], refs[len(flat) :]
            ins, outs = rest[: len(rows)], rest[len(rows) :]
            held = jax.tree.unflatten(structure, [_load(ref) for ref in of_parameters])
            begin = pl.program_id(0) * plan.blocks * plan.rows

            def block(index: Any, carry: Any) -> Any:
                first = begin + index * plan.rows
                results = body(*held, *(_load(ref, first, plan.rows) for ref in ins))
                for ref, value in zip(outs, jax.tree.leaves(results), strict=True):
                    _store(ref, value, first)
                return carry

            jax.lax.fori_loop(0, plan.blocks, block, None)

        flops = _flops(body, parameters, rows)
        return _call(kernel, plan.programs, (*flat, *rows), out, name, flops)

    call = jax.custom_batching.custom_vmap(of_rows)

    @call.def_vmap
    def of_tasks(tasks: int, in_batched: Any, parameters: Any, rows: Any) -> tuple[Any, Any]:
        of_each = jax.tree.leaves(in_batched[0])
        if any(of_each) or not all(in_batched[1]):
            axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
            few = rows[0].shape[-2] < _FEW
            each = (lambda parameters, rows: in_plain(*parameters, *rows)) if few else of_rows
            results = jax.vmap(each, in_axes=axes)(parameters, rows)
        else:  # tasks that share their parameters are so many more rows
            flat = [leaf.reshape(-1, leaf.shape[-1]) for leaf in rows]

            def of_all(like: Any) -> Any:
                return jax.ShapeDtypeStruct((tasks * like.shape[0], like.shape[1]), like.dtype)

            more = jax.tree.map(of_all, out)
            results = _over_rows(name, body, in_plain, parameters, flat, more)
            results = jax.tree.map(lambda leaf: leaf.reshape(tasks, -1, leaf.shape[-1]), results)
        return results, jax.tree.map(lambda _: True, results)

    return call(parameters, tuple(rows))


def _summed_over_rows(name: str, body: Any, parameters: Any, rows: Any, like: Any) -> Any:
    """The sum over all rows of `body(*parameters, *rows)`, arrays shaped as those of `like`."""
    plan = _blocks(len(rows[0]), name)
    flat, structure = jax.tree.flatten(parameters)
    leaves, result = jax.tree.flatten(like)

    def kernel(*refs: Any) -> None:
        of_parameters, rest = refs[: len(flat)], refs[len(flat) :]
        ins, outs = rest[: len(rows)], rest[len(rows) :]
        held = jax.tree.unflatten(structure, [_load(ref) for ref in of_parameters])
        program = pl.program_id(0)
        begin = program * plan.blocks * plan.rows

        def loaded(index: Any) -> list[Array]:
            return [_load(ref, begin + index * plan.rows, plan.rows) for ref in ins]

        def block(index: Any, carry: Any) -> Any:
            sums, here = carry
            following = loaded(index + 1)  # prefetched while these rows are computed
            return jax.tree.map(jnp.add, sums, body(*held, *here)), following

        zeros = jax.tree.map(jnp.zeros_like, held[0])
        sums, _ = jax.lax.fori_loop(0, plan.blocks, block, (zeros, loaded(0)))
        for ref, value in zip(outs, jax.tree.leaves(sums), strict=True):
            _store(ref, value, part=(program,))

    out = [jax.ShapeDtypeStruct((plan.programs, *leaf.shape), leaf.dtype) for leaf in leaves]
    flops = _flops(body, parameters, rows)
    parts = _call(kernel, plan.programs, (*flat, *rows), out, name, flops)
    return jax.tree.unflatten(result, [jnp.sum(part, axis=0) for part in parts])
