"""Every maze is perfect, and each comes as often as its generator's definition says."""

import collections
import functools
import itertools

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import mazes

# high, wide: a single cell, a corridor, two words a row
SHAPES = [(1, 1), (1, 4), (31, 31)]

every_generator = pytest.mark.parametrize("name", mazes.GENERATORS)


@functools.cache
def _sample(name, high, wide, count):
    """`count` mazes as bool [count, 2 * high + 1, 2 * wide + 1], true where a wall is."""
    keys = jax.random.split(jax.random.key(0), count)
    words = jax.jit(jax.vmap(lambda key: mazes.GENERATORS[name](key, high, wide)))(keys)
    return [reference.walls_of(maze, 2 * wide + 1) for maze in np.asarray(words)]


def _joined(walls):
    """The pairs of neighbouring cells with an open square between them."""
    high, wide = walls.shape[0] // 2, walls.shape[1] // 2
    cells = [(row, column) for row in range(high) for column in range(wide)]
    right = [
        ((r, c), (r, c + 1)) for r, c in cells if c + 1 < wide and not walls[2 * r + 1, 2 * c + 2]
    ]
    down = [
        ((r, c), (r + 1, c)) for r, c in cells if r + 1 < high and not walls[2 * r + 2, 2 * c + 1]
    ]
    return frozenset(right + down)


def _assert_perfect(walls, high, wide):
    cells = {(2 * row + 1, 2 * column + 1) for row in range(high) for column in range(wide)}
    reached = reference.distances(walls, (1, 1))
    # A spanning tree: all cells are connected, by one join fewer than there are cells.
    assert cells <= set(reached)
    assert len(_joined(walls)) == len(cells) - 1
    # Nothing else is open.
    assert (~walls).sum() == 2 * len(cells) - 1


@every_generator
@pytest.mark.parametrize(("high", "wide"), SHAPES)
def test_every_maze_is_perfect(name, high, wide):
    for walls in _sample(name, high, wide, 3):
        assert walls.shape == (2 * high + 1, 2 * wide + 1)
        _assert_perfect(walls, high, wide)


@pytest.mark.smoke
@every_generator
def test_mazes_of_every_size_share_a_batch(name):
    sizes = 10 * list(itertools.product(range(1, 6), range(1, 5)))
    keys = jax.random.split(jax.random.key(1), len(sizes))
    high, wide = jnp.array(sizes, jnp.int32).T
    sample = jax.vmap(lambda key, high, wide: mazes.GENERATORS[name](key, 5, 4, high, wide))
    for words, size in zip(np.asarray(jax.jit(sample)(keys, high, wide)), sizes, strict=True):
        _assert_perfect(reference.walls_of(words, 9), *size)


def _assert_as_often_as(found, expected):
    """By the chi-squared statistic, four standard deviations above its mean at most."""
    counts = collections.Counter(found)
    assert set(counts) <= set(expected)
    assert sum(expected.values()) == pytest.approx(1)
    chi_squared = sum(
        (counts[tree] - len(found) * chance) ** 2 / (len(found) * chance)
        for tree, chance in expected.items()
    )
    freedom = len(expected) - 1
    assert chi_squared < freedom + 4 * np.sqrt(2 * freedom)


def _depth_first_trees(high, wide):
    """The probability of every tree of a random depth-first walk from cell (0, 0)."""

    def grow(path, seen, tree):
        if not path:
            return {tree: 1.0}
        row, column = path[-1]
        near = [(row + down, column + right) for down, right in reference.MOVES]
        fresh = [(r, c) for r, c in near if 0 <= r < high and 0 <= c < wide and (r, c) not in seen]
        if not fresh:
            return grow(path[:-1], seen, tree)
        total = collections.Counter()
        for cell in fresh:
            edge = tuple(sorted([path[-1], cell]))
            for grown, chance in grow((*path, cell), seen | {cell}, tree | {edge}).items():
                total[grown] += chance / len(fresh)
        return total

    return grow(((0, 0),), frozenset([(0, 0)]), frozenset())


def test_backtracker_mazes_come_as_often_as_depth_first_walks():
    expected = _depth_first_trees(3, 3)
    assert len(expected) == 14
    _assert_as_often_as([_joined(w) for w in _sample("backtracker", 3, 3, 6000)], expected)


def _passages(high, wide):
    cells = itertools.product(range(high), range(wide))
    ends = [((r, c), end) for r, c in cells for end in ((r, c + 1), (r + 1, c))]
    return [(start, end) for start, end in ends if end[0] < high and end[1] < wide]


def _grown_trees(high, wide, candidates):
    """The probability of every tree that grows by one of `candidates(tree)`, all equally likely."""
    grown = {frozenset(): 1.0}
    for _ in range(high * wide - 1):
        further = collections.Counter()
        for tree, chance in grown.items():
            choices = candidates(tree)
            for passage in choices:
                further[tree | {passage}] += chance / len(choices)
        grown = further
    return grown


def _parts(high, wide, tree):
    """By cell, a cell that stands for all those it is joined to."""
    part = {cell: cell for cell in itertools.product(range(high), range(wide))}
    for start, end in tree:
        old, new = part[start], part[end]
        part = {cell: new if its == old else its for cell, its in part.items()}
    return part


def _joining(high, wide, tree):
    """Kruskal's choices: the passages between cells not joined yet."""
    part = _parts(high, wide, tree)
    return [(start, end) for start, end in _passages(high, wide) if part[start] != part[end]]


def _leading_out(high, wide, tree):
    """Prim's choices: the passages out of what cell (0, 0) is joined to."""
    part = _parts(high, wide, tree)
    return [
        (start, end)
        for start, end in _passages(high, wide)
        if (part[start] == part[0, 0]) != (part[end] == part[0, 0])
    ]


@pytest.mark.parametrize(("name", "candidates"), [("kruskal", _joining), ("prim", _leading_out)])
def test_grown_mazes_come_as_often_as_their_choices(name, candidates):
    high, wide = 2, 4
    expected = _grown_trees(high, wide, functools.partial(candidates, high, wide))
    assert len(expected) == 56
    _assert_as_often_as([_joined(walls) for walls in _sample(name, high, wide, 8000)], expected)


@pytest.mark.parametrize(("high", "wide", "trees"), [(3, 3, 192), (2, 5, 209)])
def test_wilson_mazes_are_all_equally_likely(high, wide, trees):
    sets = itertools.combinations(_passages(high, wide), high * wide - 1)
    spanning = [tree for tree in sets if len(set(_parts(high, wide, tree).values())) == 1]
    assert len(spanning) == trees
    expected = {frozenset(tree): 1 / trees for tree in spanning}
    _assert_as_often_as(
        [_joined(walls) for walls in _sample("wilson", high, wide, 20000)], expected
    )


def _divided(top, left, tall, broad):
    """The probability of every set of passages left in a chamber that is divided recursively."""
    if tall == 1 or broad == 1:
        cells = itertools.product(range(tall), range(broad))
        moved = [(top + r, left + c) for r, c in cells]
        return {frozenset(itertools.pairwise(moved)): 1.0}
    total = collections.Counter()
    ways = ["level"] * (tall >= broad) + ["upright"] * (broad >= tall)
    for way in ways:
        length, other = (tall, broad) if way == "level" else (broad, tall)
        for cut, gap in itertools.product(range(1, length), range(other)):
            if way == "level":
                parts = (top, left, cut, broad), (top + cut, left, tall - cut, broad)
                gate = ((top + cut - 1, left + gap), (top + cut, left + gap))
            else:
                parts = (top, left, tall, cut), (top, left + cut, tall, broad - cut)
                gate = ((top + gap, left + cut - 1), (top + gap, left + cut))
            for one, chance in _divided(*parts[0]).items():
                for two, other_chance in _divided(*parts[1]).items():
                    share = chance * other_chance / len(ways) / (length - 1) / other
                    total[one | two | {gate}] += share
    return total


def test_divided_mazes_come_as_often_as_their_walls():
    expected = _divided(0, 0, 3, 3)
    _assert_as_often_as([_joined(walls) for walls in _sample("division", 3, 3, 20000)], expected)


@every_generator
@pytest.mark.parametrize(("high", "wide"), [(0, 3), (3, 0), (3, 32)])
def test_impossible_sides_are_refused(name, high, wide):
    with pytest.raises(ValueError, match=f"got {high} high by {wide} wide"):
        mazes.GENERATORS[name](jax.random.key(0), high, wide)


def test_a_division_is_as_high_as_a_byte_counts():
    (walls,) = _sample("division", 255, 2, 1)
    _assert_perfect(walls, 255, 2)
    with pytest.raises(ValueError, match="cells_high: got 256, expected at most 255"):
        mazes.recursive_division(jax.random.key(0), 256, 2)
