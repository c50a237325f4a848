"""Flood fills find what a breadth-first search finds, on any grid."""

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import grids, solve

# high, wide, share of walls: mostly open, two words a row, a corridor
GRIDS = [(7, 9, 0.25), (6, 40, 0.45), (1, 12, 0.1)]


def _packed(seed, high, wide, share):
    walls = reference.random_walls(seed, high, wide, share)
    return walls, grids.pack(jnp.asarray(walls))


def _squares(high, wide):
    return [(row, column) for row in range(high) for column in range(wide)]


@pytest.mark.parametrize(("high", "wide", "share"), GRIDS)
def test_distance_is_that_of_breadth_first_search(high, wide, share):
    squares = _squares(high, wide)
    both = jnp.array(squares, jnp.int32)
    solved = jax.jit(jax.vmap(solve.distance, in_axes=(None, None, 0)))
    for seed in range(4):
        walls, words = _packed(seed, high, wide, share)
        source = squares[7 * seed % len(squares)]
        found = solved(words, jnp.array(source, jnp.int32), both)
        known = reference.distances(walls, source)
        np.testing.assert_array_equal(found, [known.get(s, solve.UNREACHABLE) for s in squares])


@pytest.mark.parametrize(("high", "wide", "share"), GRIDS)
def test_direction_leads_one_move_nearer(high, wide, share):
    squares = _squares(high, wide)
    solved = jax.jit(jax.vmap(solve.direction_to, in_axes=(None, 0, None)))
    for seed in range(4):
        walls, words = _packed(seed, high, wide, share)
        goal = squares[5 * seed % len(squares)]
        directions = solved(words, jnp.array(squares, jnp.int32), jnp.array(goal, jnp.int32))
        known = reference.distances(walls, goal)
        for square, direction in zip(squares, np.asarray(directions), strict=True):
            if known.get(square, 0) > 0:
                down, right = reference.MOVES[direction]
                assert known[square[0] + down, square[1] + right] == known[square] - 1


@pytest.mark.parametrize(("high", "wide", "share"), GRIDS)
def test_far_half_is_what_is_at_least_half_as_far_as_the_farthest(high, wide, share):
    squares = _squares(high, wide)
    solved = jax.jit(jax.vmap(solve.far_half, in_axes=(None, 0)))
    walls, words = _packed(3, high, wide, share)
    sets = solved(words, jnp.array(squares, jnp.int32))
    for square, far in zip(squares, np.asarray(grids.unpack(sets, wide)), strict=True):
        known = reference.distances(walls, square)
        expected = {s for s, steps in known.items() if 2 * steps >= max(known.values())}
        assert set(map(tuple, np.argwhere(far).tolist())) == expected
