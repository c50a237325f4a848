"""Packed grids say what the same grid says square by square."""

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import grids

WIDTHS = (5, 32, 63)  # part of a word, a whole one, two


@pytest.mark.smoke
@pytest.mark.parametrize("wide", WIDTHS)
def test_unpack_inverts_pack(wide):
    walls = reference.random_walls(wide, 7, wide, 0.5)
    words = grids.pack(jnp.asarray(walls))
    assert words.dtype == jnp.uint32
    assert words.shape == (7, -(-wide // 32))
    np.testing.assert_array_equal(grids.unpack(words, wide), walls)
    np.testing.assert_array_equal(reference.walls_of(np.asarray(words), wide), walls)


@pytest.mark.parametrize("wide", WIDTHS)
def test_squares_beyond_the_last_column_are_walls(wide):
    words = np.asarray(grids.pack(jnp.zeros((4, wide), bool)))
    beyond = reference.walls_of(words, 32 * words.shape[1])[:, wide:]
    assert beyond.all()


@pytest.mark.parametrize("wide", WIDTHS)
def test_is_wall_agrees_with_the_grid_and_holds_outside(wide):
    walls = reference.random_walls(wide, 5, wide, 0.5)
    words = grids.pack(jnp.asarray(walls))
    squares = [(row, column) for row in range(-2, 7) for column in range(-2, wide + 3)]
    found = jax.jit(jax.vmap(grids.is_wall, in_axes=(None, 0)))(
        words, jnp.array(squares, jnp.int32)
    )
    np.testing.assert_array_equal(found, [reference.is_wall(walls, *square) for square in squares])


@pytest.mark.parametrize("wide", WIDTHS)
def test_spread_reaches_exactly_the_four_neighbours(wide):
    high = 4
    words = grids.pack(jnp.zeros((high, wide), bool))
    squares = [(row, column) for row in range(high) for column in range(wide)]

    def reached(square):
        return grids.unpack(grids.spread(grids.square_set(words, square)), wide)

    for square, found in zip(
        squares, np.asarray(jax.jit(jax.vmap(reached))(jnp.array(squares, jnp.int32))), strict=True
    ):
        near = {(square[0] + down, square[1] + right) for down, right in reference.MOVES}
        expected = (near | {square}) & set(squares)
        assert set(map(tuple, np.argwhere(found).tolist())) == expected


def test_other_directions_stay():
    here = jnp.array([2, 3], jnp.int32)
    directions = jnp.array([-1, 0, 1, 2, 3, 4], jnp.int32)
    moved = jax.vmap(grids.moved, in_axes=(None, 0))(here, directions)
    expected = [(0, 0), *reference.MOVES, (0, 0)]
    np.testing.assert_array_equal(moved - here[None], expected)
