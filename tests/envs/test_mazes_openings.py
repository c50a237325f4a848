"""Openings join what they should and nothing else; scattered walls leave a path."""

import functools

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import Maze, grids, mazes

SIZE = 11
CELLS = SIZE // 2
COUNT = 400


def _unpacked(batch, wide=SIZE):
    return np.asarray(grids.unpack(batch, wide))


@functools.cache
def _sizes():
    """Cells along each side, all smaller than the grid in some mazes."""
    drawn = np.random.default_rng(0).integers(2, CELLS + 1, (COUNT, 2))
    return jnp.asarray(drawn, jnp.int32)


@functools.cache
def _mazes():
    keys = jax.random.split(jax.random.key(0), COUNT)
    sample = jax.vmap(lambda key, size: mazes.recursive_backtracker(key, CELLS, CELLS, *size))
    return jax.jit(sample)(keys, _sizes())


def _exits(walls):
    """How many open neighbours every open square has; -1 at walls."""
    free = np.pad(~walls, [(0, 0)] * (walls.ndim - 2) + [(1, 1), (1, 1)])
    near = [free[..., :-2, 1:-1], free[..., 2:, 1:-1], free[..., 1:-1, :-2], free[..., 1:-1, 2:]]
    return np.where(walls, -1, np.sum(near, axis=0))


@functools.cache
def _braided(share):
    keys = jax.random.split(jax.random.key(1), COUNT)
    braid = jax.jit(jax.vmap(mazes.braid, in_axes=(0, 0, None)))
    return _unpacked(braid(keys, _mazes(), jnp.float32(share)))


def _assert_inside(walls):
    """Nothing is open but the squares inside the outer wall of each maze."""
    for grid, (high, wide) in zip(walls, np.asarray(_sizes()), strict=True):
        inner = np.zeros_like(grid)
        inner[1 : 2 * high, 1 : 2 * wide] = True
        assert not (~grid & ~inner).any()


def test_no_share_of_the_dead_ends_opened_is_the_maze_itself():
    np.testing.assert_array_equal(_braided(0.0), _unpacked(_mazes()))


def test_all_dead_ends_are_opened_but_in_a_maze_without_another_way():
    walls, before = _braided(1.0), _unpacked(_mazes())
    assert not (walls & ~before).any()
    assert not (_exits(walls) == 1).any()
    _assert_inside(walls)


def test_an_opening_takes_one_wall_between_two_open_squares():
    walls, before = _braided(0.5), _unpacked(_mazes())
    # Two cells that were no neighbours in the tree: the square is open on two opposite sides.
    free = ~np.pad(before, [(0, 0), (1, 1), (1, 1)], constant_values=True)
    upright = free[:, :-2, 1:-1] & free[:, 2:, 1:-1]
    level = free[:, 1:-1, :-2] & free[:, 1:-1, 2:]
    assert ((upright | level) | ~(before & ~walls)).all()
    _assert_inside(walls)


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_the_share_of_dead_ends_opened_is_as_asked(share):
    # Teeth that end above a corridor: each is a dead end with one wall that may be opened.
    comb = np.ones((7, 31), bool)
    comb[[1, 5], 1:-1] = False
    comb[1:4, 5:-5:4] = False
    words = grids.pack(jnp.asarray(comb))
    keys = jax.random.split(jax.random.key(2), 500)
    walls = _unpacked(
        jax.jit(jax.vmap(mazes.braid, in_axes=(0, None, None)))(keys, words, jnp.float32(share)),
        31,
    )
    opened = ~walls[:, 4, 5:-5:4]
    np.testing.assert_allclose(opened.mean(axis=0), share, atol=4 * np.sqrt(0.25 / 500))
    assert opened.shape == (500, 6)


def test_rooms_are_open_and_join_what_was_joined():
    keys = jax.random.split(jax.random.key(3), COUNT)
    carve = jax.vmap(lambda key, walls, size: mazes.rooms(key, walls, 1, 2, 3, *size))
    walls, before = _unpacked(jax.jit(carve)(keys, _mazes(), _sizes())), _unpacked(_mazes())
    assert not (walls & ~before).any()
    _assert_inside(walls)
    sides = set()
    for grid in walls:
        # The only places where four squares around a pillar are open are in the room.
        pillars = np.argwhere(~grid[2:-1:2, 2:-1:2])
        first, last = pillars.min(axis=0), pillars.max(axis=0)
        sides.add(tuple(last - first + 2))
        room = grid[2 * first[0] + 1 : 2 * last[0] + 4, 2 * first[1] + 1 : 2 * last[1] + 4]
        assert not room.any()
    assert sides == {(2, 2), (2, 3), (3, 2), (3, 3)}


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, 0, 0, 0))
def _scatter(key, density, start, exit, size):
    return mazes.scatter(key, SIZE, SIZE, density, start, exit, *size)


@functools.cache
def _scattered(density):
    """Levels from (1, 1) to the last inner square of the level."""
    sizes = np.random.default_rng(1).integers(5, SIZE + 1, (COUNT, 2))
    keys = jax.random.split(jax.random.key(4), COUNT)
    along = jnp.asarray(sizes, jnp.int32)
    levels = _scatter(keys, jnp.float32(density), jnp.ones_like(along), along - 2, along)
    return sizes, _unpacked(levels)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_scattered_walls_leave_a_path(density):
    detours = 0
    for (high, wide), walls in zip(*_scattered(density), strict=True):
        distances = reference.distances(walls, (1, 1))
        moves = distances[high - 2, wide - 2]
        detours += moves > high + wide - 6
        assert walls[0].all()
        assert walls[high - 1 :].all()
        assert walls[:, 0].all()
        assert walls[:, wide - 1 :].all()
        if density == 1:
            assert (~walls).sum() == high + wide - 5
    assert (detours > 0) == (density == 0.3)


def test_scattered_walls_are_as_dense_as_asked():
    sizes, walls = _scattered(0.1)
    inner = (sizes - 2).prod(axis=1).sum() - 2 * len(sizes)
    outer = walls[0].size * len(sizes) - (sizes - 2).prod(axis=1).sum()
    share = (walls.sum() - outer) / inner
    # A little below: where no path was left one was opened.
    assert 0.1 - 0.015 < share < 0.1 + 4 * np.sqrt(0.09 / inner)


def test_the_path_that_is_opened_is_any_of_the_shortest():
    keys = jax.random.split(jax.random.key(5), COUNT)
    start, exit, size = (jnp.full((COUNT, 2), jnp.array(at)) for at in ([3, 1], [1, 3], [5, 5]))
    walls = _unpacked(_scatter(keys, jnp.float32(1), start, exit, size))
    kinds, counts = np.unique(walls.reshape(COUNT, -1), axis=0, return_counts=True)
    assert len(kinds) == 6
    assert ((counts - COUNT / 6) ** 2 / (COUNT / 6)).sum() < 5 + 4 * np.sqrt(10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: mazes.rooms(key, _mazes()[0], -1, 1, 2, 5, 5), "count: got -1"),
        (lambda key: mazes.rooms(key, _mazes()[0], 1, 0, 2, 5, 5), "smallest: got 0"),
        (lambda key: mazes.rooms(key, _mazes()[0], 1, 3, 2, 5, 5), "largest: got 2"),
        (lambda key: mazes.scatter(key, 2, 5, 0.1, *jnp.ones((2, 2), int)), "squares_high: got 2"),
    ],
)
def test_impossible_openings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0))


def _drawn(**fields):
    draw = jax.jit(jax.vmap(lambda key: Maze(size=SIZE, **fields).sample_task(key).walls))
    return _unpacked(draw(jax.random.split(jax.random.key(0), 50)))


def test_a_maze_is_opened_as_its_fields_say():
    assert not (_exits(_drawn(braid=1.0)) == 1).any()
    walls = _drawn(generator="scatter", density=0.1)[:, 1:-1, 1:-1]
    assert walls.mean() == pytest.approx(0.1, abs=0.02)
    blocks = np.lib.stride_tricks.sliding_window_view(~_drawn(rooms=1), (5, 5), axis=(1, 2))
    assert blocks.all(axis=(-1, -2)).any()  # three cells a side


def test_a_dead_end_is_opened_on_each_side_as_often():
    walls = np.ones((7, 7), bool)
    walls[1::2, 1::2] = False
    walls[3, 4] = False  # the middle cell is a dead end, with walls on three sides
    keys = jax.random.split(jax.random.key(6), 3000)
    braid = jax.jit(jax.vmap(mazes.braid, in_axes=(0, None, None)))
    opened = ~_unpacked(braid(keys, grids.pack(jnp.asarray(walls)), jnp.float32(1)), 7)
    shares = [opened[:, row, column].mean() for row, column in ((2, 3), (4, 3), (3, 2))]
    np.testing.assert_allclose(shares, 1 / 3, atol=4.5 * np.sqrt(2 / 9 / 3000))


def test_rooms_of_each_size_are_in_each_place_as_often():
    solid = jnp.full((SIZE, 1), 0xFFFFFFFF, jnp.uint32)
    carve = jax.jit(jax.vmap(lambda key: mazes.rooms(key, solid, 1, 1, 2, CELLS, CELLS)))
    room = ~_unpacked(carve(jax.random.split(jax.random.key(6), 4000)))
    for line in (room.any(axis)[:, 1:-1:2] for axis in (2, 1)):
        kinds, counts = np.unique(line, axis=0, return_counts=True)
        assert len(kinds) == 9  # five places of one cell, four of two
        expected = np.where(kinds.sum(axis=1) == 1, 1 / 10, 1 / 8)
        np.testing.assert_allclose(counts / 4000, expected, atol=4.5 * np.sqrt(0.11 / 4000))
