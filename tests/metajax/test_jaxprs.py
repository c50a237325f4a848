"""What is counted in a program is what its closed form says, whatever it is wrapped in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
import toy

import metajax as mj
from metajax import fused, jaxprs, training
from metajax.mapping import mean_over_tasks

A, B = jnp.ones((3, 5)), jnp.ones((5, 7))
PRODUCT = 2 * 3 * 5 * 7
SQUARE = jnp.ones((4, 4))
CUBE = 2 * 4**3


def flops(function, *args) -> float:
    return jaxprs.cost(jax.make_jaxpr(function)(*args).jaxpr).flops


def loop(x, length=6):
    return jax.lax.scan(lambda x, _: (x @ SQUARE, None), x, length=length)[0]


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (jnp.matmul, (A, B), PRODUCT),
        (lambda a, b: jnp.einsum("nij,njk->nik", a, b), (A[None], B[None]), PRODUCT),
        (jax.vmap(jnp.matmul), (jnp.ones((9, 3, 5)), jnp.ones((9, 5, 7))), 9 * PRODUCT),
        (jax.vmap(jnp.matmul, (0, None)), (jnp.ones((9, 3, 5)), B), 9 * PRODUCT),
        (lambda a, b: (a @ b, a + 1.0)[1], (A, B), 0),  # nothing reads the product
        (jax.grad(lambda a, b: jnp.sum(jnp.sin(a @ b)), (0, 1)), (A, B), 3 * PRODUCT),
        (jax.checkpoint(jnp.matmul), (A, B), PRODUCT),
        (loop, (SQUARE,), 6 * CUBE),
        (lambda x: jax.lax.map(loop, x), (jnp.ones((5, 4, 4)),), 30 * CUBE),
        (jax.vmap(loop), (jnp.ones((5, 4, 4)),), 30 * CUBE),
        (lambda x, n: jax.lax.fori_loop(0, n, lambda _, x: loop(x), x), (SQUARE, 9), 6 * CUBE),
        (lambda x: jax.lax.cond(x[0, 0] > 0, loop, lambda x: x @ x, x), (SQUARE,), 6 * CUBE),
        (
            jax.vmap(lambda x: jax.lax.cond(x[0, 0] > 0, loop, lambda x: x @ x, x)),
            (jnp.ones((5, 4, 4)),),
            5 * (6 + 1) * CUBE,  # a `select`: both sides run
        ),
        (
            lambda image, kernel: jax.lax.conv(image, kernel, (1, 1), "VALID"),
            (jnp.ones((2, 3, 6, 6)), jnp.ones((8, 3, 3, 3))),
            2 * (2 * 8 * 4 * 4) * (3 * 3 * 3),
        ),
    ],
)
def test_operations_are_those_of_the_closed_form(function, args, expected):
    assert flops(function, *args) == expected
    assert flops(jax.jit(function), *args) == expected


@pytest.mark.parametrize(("devices", "chunk"), [(1, None), (2, None), (2, 2)])
def test_operations_do_not_depend_on_the_layout(devices, chunk):
    mean = mean_over_tasks(lambda w, x: x @ w, mj.Mapping(mj.task_mesh(devices), chunk))
    assert flops(mean, B, jnp.ones((8, 3, 5))) == 8 * PRODUCT


def test_the_program_of_a_run_costs_what_an_update_costs():
    work = 7
    traced = training.trace(toy.learner(work=work))
    assert jaxprs.cost(traced.jaxpr.jaxpr).flops == work * 2 * 64**3


def test_bytes_are_those_of_every_value_that_is_computed():
    def program(x):
        y = jnp.sin(x) * 2.0
        return jax.lax.scan(lambda c, _: (c + 1.0, None), y[None].T, length=10)[0]

    values = 2 + 10  # reshaping moves nothing
    cost = jaxprs.cost(jax.make_jaxpr(program)(jnp.ones(100)).jaxpr)
    assert cost == jaxprs.Cost(0.0, values * 2 * 4 * 100)


def test_a_kernel_costs_what_its_rows_do_without_padding():
    layers = ((jnp.ones((2, 5)), jnp.ones(5)), (jnp.ones((5, 3)), jnp.ones(3)))
    outputs = flops(lambda x: fused.mlp(layers, x, jnp.tanh), jnp.ones((7, 2)))
    assert outputs == 2 * 7 * (2 * 5 + 5 * 3)
    tasks = flops(jax.vmap(lambda x: fused.mlp(layers, x, jnp.tanh)), jnp.ones((4, 7, 2)))
    assert tasks == 4 * outputs


def test_a_trace_is_of_what_its_results_depend_on():
    outside = jnp.float32(5.0)

    def function(a, unread, pair):
        def body(carry, x):
            x = x + outside
            return (carry[0] + x, carry[1] * jnp.sin(x)), (carry[0], jnp.cos(x))

        (total, _), (sums, _) = jax.lax.scan(body, (a, a), pair["read"])
        return {"total": total, "sums": sums, "given": pair["given"], "one": 1.0}

    args = jnp.float32(2.0), jnp.ones(3), {"given": 4.0, "read": jnp.ones(2), "unread": 7.0}
    trace = jaxprs.traced(function, *args)
    assert trace.used == [True, False, True, True, False]
    assert "sin" not in str(trace.jaxpr)
    assert "cos" not in str(trace.jaxpr)
    assert len(trace.constants) == 1
    for found in (
        trace.function(trace.constants, *args),
        trace.of_needed(trace.constants, [args[0], 4.0, jnp.ones(2)]),
    ):
        assert found["total"] == 14.0
        assert list(found["sums"]) == [2.0, 8.0]
        assert (found["given"], found["one"]) == (4.0, 1.0)


def test_a_product_that_only_a_callback_reads_counts():
    def told(a, b):
        jax.debug.callback(lambda product: None, a @ b)

    assert flops(told, A, B) == PRODUCT
