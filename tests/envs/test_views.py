"""A window shows what surrounds a square."""

import functools

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import grids, views


@functools.cache
def _windows(high, wide, side, length):
    """The window at every square of a grid and two squares around it, as [H + 4, W + 4, length]."""

    def windows(words):
        rows, columns = jnp.arange(-2, high + 2), jnp.arange(-2, wide + 2)
        at = jax.vmap(
            lambda row, column: views.walls_in_view(
                words, jnp.stack([row, column]), None, side, False, length
            )
        )
        row, column = jnp.meshgrid(rows, columns, indexing="ij")
        return jax.vmap(at)(row.astype(jnp.int32), column.astype(jnp.int32))

    return jax.jit(windows)


@pytest.mark.parametrize(("wide", "side"), [(5, 1), (9, 3), (33, 7), (63, 31)])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_window_is_what_surrounds_a_square(wide, side, seed):
    high, length = 6, side**2 + 3
    walls = reference.random_walls(seed, high, wide, 0.4)
    windows = np.asarray(_windows(high, wide, side, length)(grids.pack(jnp.asarray(walls))))
    reach = side // 2 + 2
    padded = np.pad(walls, reach, constant_values=True)
    for row in range(-2, high + 2):
        for column in range(-2, wide + 2):
            seen = padded[row + 2 :, column + 2 :][:side, :side]
            np.testing.assert_array_equal(windows[row + 2, column + 2, : side**2], seen.ravel())
    assert not windows[..., side**2 :].any()
