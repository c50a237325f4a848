"""Uniformly random mazes: uniform spanning trees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..grids import DOWN, LEFT, RIGHT, UP
from .cells import cells_inside, have_next, require_cells, walls_of

__all__ = ["wilson"]

Array = jax.Array

_TREE = 4  # added to the direction of a pillar whose wall is built
_UNFINISHED = 1e-6


def wilson(
    key: Array,
    cells_high: int,
    cells_wide: int,
    high: Array | None = None,
    wide: Array | None = None,
) -> Array:
    """Every maze with the same probability: uint32 [2 * cells_high + 1, words].

    The walls are grown, not the passages. As edges between pillars (the corners where four cells
    meet) they form a tree too, rooted in the outer wall, and a uniform one if the maze is; and a
    random walk hits the outer wall far sooner than a given cell. Wilson's algorithm (STOC 1996):
    from the first pillar without a wall, walk at random until a wall is met, recording at every
    pillar the direction in which it was last left; then build along those directions from the
    start of the walk.

    `_trips` iterations leave a maze unfinished with a probability below 1e-6. Its remaining pillars
    then build upward, so it is perfect all the same. Hence the total variation distance to the
    uniform distribution is below 1e-6.

    Args: those of every generator; see `envs.mazes`.

    Raises:
      ValueError: a side below 1, or more than 31 cells wide.
    """
    require_cells(cells_high, cells_wide)
    inside = cells_inside(cells_high, cells_wide, high, wide)
    # Flat: the pillar at the lower right of every cell. Those of the last row and column are part
    # of the outer wall, as are a row above and what is to the left of the first column.
    between = inside[1:, 1:]
    pillars = jnp.where(between, jnp.uint8(0), jnp.uint8(_TREE))
    pillars = jnp.pad(pillars, ((1, 1), (0, 1)), constant_values=_TREE)
    stride = cells_wide
    moves = {UP: -stride, RIGHT: 1, DOWN: stride, LEFT: -1}
    last = jnp.int32(stride * cells_high)
    trips = _trips(cells_high, cells_wide)
    draws = jax.random.bits(key, (-(-trips // 4),), jnp.uint8)
    draws = (draws[:, None] >> jnp.array([[0, 2, 4, 6]], jnp.uint8)).reshape(-1) & jnp.uint8(3)

    def trip(carry: _Walk, draw: Array) -> tuple[_Walk, None]:
        pillars, start, here, builds = carry
        known = pillars[here]
        direction = jnp.where(builds, known, draw)
        there = here
        for d, move in moves.items():
            there = jnp.where(direction == d, here + move, there)
        stood, meets = known >= _TREE, pillars[there] >= _TREE
        built = jnp.where(builds, direction + jnp.uint8(_TREE), direction)
        pillars = pillars.at[here].set(jnp.where(stood, known, built), mode="promise_in_bounds")
        # A pillar that has its wall already is skipped, which takes an iteration.
        done = stood | builds & meets
        start = jnp.minimum(start + done.astype(jnp.int32), last)
        here = jnp.where(done | meets, start, there)
        return (pillars, start, here, ~done & (builds | meets)), None

    start = jnp.int32(stride)
    first = (pillars.reshape(-1), start, start, jnp.array(False))
    (pillars, *_), _ = jax.lax.scan(trip, first, draws[:trips])
    built = pillars.reshape(cells_high + 1, stride)[1:-1, :-1]
    built = jnp.where(built < _TREE, jnp.uint8(_TREE + UP), built)

    def closed(direction: int, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
        return jnp.pad(between & (built == _TREE + direction), (rows, columns))

    # A pillar's wall separates the two cells above it, below it, on its left or on its right.
    first, second = (0, 1), (1, 0)
    right, below = have_next(inside)
    right = right & ~closed(UP, first, first) & ~closed(DOWN, second, first)
    below = below & ~closed(LEFT, first, first) & ~closed(RIGHT, first, second)
    return walls_of(inside, right, below)


# Each pillar's direction, plus `_TREE` if its wall is built, uint8 [pillars]; where the walk
# started and where it is, () int32; whether it is building, () bool.
_Walk = tuple[Array, Array, Array, Array]


def _trips(cells_high: int, cells_wide: int) -> int:
    """Iterations after which a maze is finished, except with a probability of 1e-6.

    Every pillar is skipped at most once, built once, and left for good by the walk once; N further
    moves are undone. N has the generating function det(I - P) / det(I - zP), where P is the walk
    killed at the outer wall (Marchal 2000, Electronic Communications in Probability 5, 39-50),
    whose eigenvalues λ are known. By Chernoff, P(N ≥ n) ≤ z^-n ∏ (1 - λ) / (1 - zλ) for every z
    from 1 to 1 / max λ. A smaller maze in the same grid undoes no more.
    """
    rows, columns = (np.cos(np.pi * np.arange(1, n) / n) for n in (cells_high, cells_wide))
    eigenvalues = (rows[:, None] + columns[None]).reshape(-1, 1) / 2
    if not eigenvalues.size:
        return 0
    largest = max(eigenvalues.max(), 0.1)
    z = 1 + (1 / largest - 1) * np.linspace(0.01, 0.99, 99)
    growth = np.log((1 - eigenvalues) / (1 - z * eigenvalues)).sum(axis=0)
    undone = np.min((growth - np.log(_UNFINISHED)) / np.log(z))
    return 3 * eigenvalues.size + int(np.ceil(undone))
