"""The products that benchmarks/floor.py takes alone are those of the program."""

import floor
import jax
import jax.numpy as jnp
import pytest

from metajax import jaxprs

A = jnp.ones((4, 4))


def looped(x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=6)[0]


def batched(x):
    return jnp.einsum("nij,njk->nik", jnp.stack([x, x, x]), jnp.stack([x[:, :2]] * 3))


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (looped, [6]),
        (jax.grad(lambda x: jnp.sum(looped(x))), [6, 6, 6]),  # a transposed operand is another kind
        (batched, [1]),
        (lambda x: jax.lax.cond(x[0, 0] > 0, looped, lambda x: x, x), [6]),
        (lambda x: (x @ x, x)[1], []),  # nothing reads it
    ],
)
def test_products_are_all_that_the_program_counts(function, kinds):
    jaxpr = jax.make_jaxpr(function)(A).jaxpr
    counts = floor.products(jaxpr)
    assert sorted(counts.values()) == kinds
    flops = sum(product.flops * count for product, count in counts.items())
    assert flops == jaxprs.cost(jaxpr).flops


def test_the_program_of_products_alone_has_those_and_no_others():
    counts = floor.products(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(looped(x))))(A).jaxpr)
    program, operands = floor.alone(counts, None)
    assert floor.products(jax.make_jaxpr(program)(operands).jaxpr) == counts
