"""A task with leaves of every kind, for what must tell tasks apart or keep them."""

import jax.numpy as jnp


def anything(bit=0):
    """A task with leaves of every kind, one of them absent."""
    return {
        "bool": jnp.array([[True, False, True]]),
        "int": [jnp.int8(-3), jnp.uint32(2**32 - 1), jnp.array([5, -6], jnp.int16)],
        "float": (jnp.array([-0.0, jnp.nan, 1e-40], jnp.float32), jnp.bfloat16(0.1)),
        "flipped": jnp.uint32(7) ^ jnp.uint32(bit),
        "none": None,
        "empty": jnp.zeros((0, 2), jnp.float16),
    }
