"""Generators of perfect mazes, with exactly one path between any two cells.

A maze of `cells_high` by `cells_wide` cells is a packed grid (see `grids`) of 2 * cells_high + 1
rows and 2 * cells_wide + 1 columns: cell (i, j) is the square (2i + 1, 2j + 1), the square between
two cells is open if they are joined, and everything else is wall.

A generator returns the walls, uint32 [2 * cells_high + 1, words], and takes

- key: typed, consumed.
- cells_high, cells_wide: int, the cells of the grid; 31 wide at most, and 255 high by division.
- high, wide: () int32, the cells of this maze, at most those of the grid; the rest is wall, so that
  mazes of different sizes can share a batch. None: all of them.

The number of its iterations depends on the grid only, so no maze of a batch waits for another.

`braid` and `rooms` remove walls from a maze; `scatter` draws a level that is not a maze.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from .backtracker import recursive_backtracker
from .division import recursive_division
from .kruskal import kruskal
from .openings import braid, rooms
from .prim import prim
from .scatter import scatter
from .wilson import wilson

__all__ = [
    "GENERATORS",
    "braid",
    "kruskal",
    "prim",
    "recursive_backtracker",
    "recursive_division",
    "rooms",
    "scatter",
    "wilson",
]

GENERATORS: dict[str, Callable[..., jax.Array]] = {
    "backtracker": recursive_backtracker,
    "kruskal": kruskal,
    "wilson": wilson,
    "prim": prim,
    "division": recursive_division,
}
