"""Spaces hold what they draw and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.core import Box, Discrete, OneHot

SPACES = [
    Discrete(3),
    Box(-1.0, 2.0, (2,)),
    Box(-np.inf, np.inf, (3,)),
    Box(0, 1, (4,), np.dtype(np.uint8)),
    Box(5.0, np.inf, (2,)),
    Box(-np.inf, -5.0, [2]),
    Box(-3e38, 3e38, (2,)),
    Box(0, 2**31 - 1, (3,), np.dtype(np.int32)),
    Box(-(2**31), np.inf, (3,), np.dtype(np.int32)),
    Box(2**31 + 1, 2**31 + 2, (4,), np.dtype(np.uint32)),
    OneHot(2),
]


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_a_space_contains_what_it_draws(space):
    keys = jax.random.split(jax.random.key(0), 200)
    values = jax.jit(jax.vmap(space.sample))(keys)
    assert values.dtype == space.dtype
    assert values.shape == (200, *space.shape)
    assert jax.vmap(space.contains)(values).all()
    wide = space.dtype == np.int32 and isinstance(space, Box)
    if wide or space.dtype == np.float32:
        assert len(np.unique(values)) > 390
    else:
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
        (Box(0, 2**24, (), np.dtype(np.int32)), jnp.int32(2**24 + 1)),  # one number as float32
        (OneHot(2), jnp.array([1, 1], jnp.uint8)),
        (Discrete(3), 3),
        (Discrete(3), True),
    ],
    ids=repr,
)
def test_a_space_refuses_what_is_outside_it(space, value):
    assert not space.contains(value)


@pytest.mark.smoke  # how a dataclass is copied depends on the interpreter
def test_a_space_is_a_value():
    assert Discrete(3).contains(2)
    assert hash(Box(0, 1, [2, 3])) == hash(Box(0, 1, (2, 3)))
    for space in (OneHot(5), Box(0, 1, (2,)), Discrete(3)):
        assert dataclasses.replace(space) == space
    assert dataclasses.replace(OneHot(5), n=6) == OneHot(6)
    assert Discrete(3).shape == ()
    with pytest.raises(TypeError):
        Discrete(3, (2,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Discrete(0), "n: got 0, expected an integer from 1 to 2147483647"),
        (lambda: Discrete(2.5), "n: got 2.5, expected an integer"),
        (lambda: OneHot(0), "n: got 0, expected an integer of at least 1"),
        (lambda: Box(1, 0, (2,)), r"low, high: got \(1, 0\), expected a range with float32s in it"),
        (lambda: Box(np.nan, 0, (2,)), "low: got nan, expected a number"),
        (lambda: Box(0, np.ones(2), (2,)), r"high: got array\(.*, expected a number"),
        (lambda: Box(np.inf, np.inf, ()), "low, high: got .*inf"),
        (lambda: Box(300, 400, (), np.dtype(np.uint8)), "expected a range with uint8s in it"),
        (lambda: Box(0, 1, 3), "shape: got 3, expected a tuple of lengths"),
        (lambda: Box(0, 1, (-1,)), r"shape: got \(-1,\), expected a tuple of lengths"),
    ],
)
def test_what_is_no_space_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_box_is_filled_evenly_or_with_the_mean_distance_one():
    keys = jax.random.split(jax.random.key(0), 4000)
    counts, _ = np.histogram(jax.vmap(Box(-1.0, 2.0, (2,)).sample)(keys), 8, (-1.0, 2.0))
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(1000)
    for low, high, sign in ((5.0, np.inf, 1), (-np.inf, -5.0, -1)):
        far = sign * np.asarray(jax.vmap(Box(low, high, (2,)).sample)(keys)) - 5
        assert far.mean() == pytest.approx(1, abs=4 / np.sqrt(8000))
