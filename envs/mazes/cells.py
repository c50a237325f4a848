"""Cells of a maze, and the packed grid of the walls between them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..grids import pack

__all__ = ["around", "cells_inside", "have_next", "require_cells", "walls_of"]

Array = jax.Array

_MOST_CELLS_WIDE = 31


def require_cells(cells_high: int, cells_wide: int) -> None:
    """Checks the size of a grid of cells.

    Raises:
      ValueError: a side below 1, or more than 31 cells wide.
    """
    if cells_high < 1 or not 1 <= cells_wide <= _MOST_CELLS_WIDE:
        raise ValueError(
            f"cells: got {cells_high} high by {cells_wide} wide; "
            f"expected at least 1 each way and at most {_MOST_CELLS_WIDE} wide"
        )


def cells_inside(cells_high: int, cells_wide: int, high: Array | None, wide: Array | None) -> Array:
    """The cells of a maze in a grid of cells: bool [cells_high, cells_wide].

    Args:
      cells_high, cells_wide: the cells of the grid.
      high, wide: () int32, the cells of the maze; None: all of them.
    """
    rows = jnp.arange(cells_high, dtype=jnp.int32) < (cells_high if high is None else high)
    columns = jnp.arange(cells_wide, dtype=jnp.int32) < (cells_wide if wide is None else wide)
    return rows[:, None] & columns[None]


def around(cells: Array, beyond: int | np.uint32) -> tuple[Array, Array, Array, Array]:
    """The values of each cell's neighbours up, right, down and left, each shaped like `cells`.

    `cells` is [cells_high, cells_wide]; neighbours outside it have the value `beyond`.
    """
    padded = jnp.pad(cells, 1, constant_values=beyond)
    middle = slice(1, -1)
    return padded[:-2, middle], padded[middle, 2:], padded[2:, middle], padded[middle, :-2]


def have_next(inside: Array) -> tuple[Array, Array]:
    """Which cells of `inside` have another one on their right, and which have one below."""
    _, right, below, _ = around(inside, False)
    return inside & right, inside & below


def walls_of(inside: Array, right: Array, below: Array) -> Array:
    """The packed grid of the cells `inside`, joined to their neighbours on the right and below.

    All are bool [cells_high, cells_wide], the last two whether a cell is joined to that neighbour.
    Everything that is not `inside` is wall.
    """
    high, wide = inside.shape
    cell = jnp.stack([inside, right], axis=-1).reshape(high, 2 * wide)
    passage = jnp.stack([below, jnp.zeros_like(below)], axis=-1).reshape(high, 2 * wide)
    opened = jnp.stack([cell, passage], axis=1).reshape(2 * high, 2 * wide)
    return pack(~jnp.pad(opened, ((1, 0), (1, 0))))
