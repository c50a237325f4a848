"""Spaces hold what they draw and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.core import Box, Discrete

SPACES = [
    Discrete(3),
    Box(-1.0, 2.0, (2,)),
    Box(-np.inf, np.inf, (3,)),
    Box(0, 1, (4,), np.dtype(np.uint8)),
]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_a_space_contains_what_it_draws(space):
    keys = jax.random.split(jax.random.key(0), 200)
    values = jax.jit(jax.vmap(space.sample))(keys)
    assert values.dtype == space.dtype
    assert values.shape == (200, *space.shape)
    assert jax.vmap(space.contains)(values).all()
    if space.dtype != np.float32:
        assert len(np.unique(values)) == (3 if isinstance(space, Discrete) else 2)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (Discrete(3), jnp.int32(3)),
        (Discrete(3), jnp.int32(-1)),
        (Discrete(3), jnp.float32(1)),
        (Discrete(3), jnp.zeros((1,), jnp.int32)),
        (Box(-1.0, 2.0, (2,)), jnp.array([0.0, 2.5])),
        (Box(-1.0, 2.0, (2,)), jnp.zeros((3,))),
        (Box(-1.0, 2.0, (2,)), jnp.zeros((2,), jnp.int32)),
        (Box(-np.inf, np.inf, (1,)), jnp.array([jnp.nan])),
        (Box(0, 1, (1,), np.dtype(np.uint8)), jnp.array([2], jnp.uint8)),
    ],
    ids=repr,
)
def test_a_space_refuses_what_is_outside_it(space, value):
    assert not space.contains(value)
