"""What an agent sees of a packed grid: a window around or ahead of it, with or without occlusion.

A view is a flat bool [length] that is false beyond its own squares, so that the parts of an
observation are combined by OR: on a CPU several times as fast as a concatenation.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .grids import read_rows

__all__ = ["place_in_view", "walls_in_view"]

Array = jax.Array

_WORD = 32


def walls_in_view(
    walls: Array, position: Array, heading: Array | None, side: int, occlusion: bool, length: int
) -> Array:
    """The walls in the `side` by `side` squares that the agent sees, row by row from the far left.

    Args:
      walls: uint32 [H, words], packed rows.
      position: (2,) int32, where the agent is.
      heading: () int32, the direction that is ahead; the agent is in the middle of the window's
        last row. None: north is ahead, and the agent is in the middle of the window.
      side: odd, at most 31.
      occlusion: whether walls hide what is behind them. What is hidden looks like a wall.
      length: of the returned array; at least side^2.

    Returns:
      bool [length], true at walls and outside the grid; false from side^2 on.
    """
    words = _words(walls, position + _corner(heading, side), side)
    masks = _masks(side, heading is not None, occlusion, length)
    hits = words[0] & _pick(heading, masks[:, 0])
    for number, word in enumerate(words[1:], start=1):
        hits |= word & _pick(heading, masks[:, number])
    return hits != 0


def place_in_view(
    target: Array, position: Array, heading: Array | None, side: int
) -> tuple[Array, Array]:
    """Where the window shows a square, whether or not walls hide it.

    Args:
      target: (2,) int32, the square.
      position, heading, side: as in `walls_in_view`.

    Returns:
      The square's index in the window, () int32, and whether it is inside, () bool.
    """
    down, right = target - position
    if heading is None:
        row, column = down + side // 2, right + side // 2
    else:
        ahead = jnp.stack([-down, right, down, -right])[heading]
        aside = jnp.stack([right, down, -right, -down])[heading]
        row, column = side - 1 - ahead, aside + side // 2
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    return row * side + column, inside


@functools.cache
def _masks(side: int, turns: bool, occlusion: bool, length: int) -> np.ndarray:
    """The bits that make a square of a view a wall if any is set: uint32 [headings, words, length].

    They refer to the block of squares with north up: the square itself and, with `occlusion`, every
    square that would hide it. No bits from side^2 on.
    """
    rows_a_word = _WORD // side

    def bit(row: int, column: int) -> tuple[int, np.uint32]:
        return row // rows_a_word, np.uint32(1 << row % rows_a_word * side + column)

    # By heading, from (row, column) in the view to the square of the block with north up.
    last = side - 1
    turned = [
        lambda row, column: (row, column),
        lambda row, column: (column, last - row),
        lambda row, column: (last - row, last - column),
        lambda row, column: (last - column, row),
    ][: 4 if turns else 1]
    agent = (last, side // 2) if turns else (side // 2, side // 2)
    masks = np.zeros((len(turned), -(-side // rows_a_word), length), np.uint32)
    for heading, turn in enumerate(turned):
        for index in range(side**2):
            square = divmod(index, side)
            for place in [square, *(_line(agent, square) if occlusion else ())]:
                word, mask = bit(*turn(*place))
                masks[heading, word, index] |= mask
    return masks


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The squares strictly between two, on the line that joins their centres (Bresenham's)."""
    down, right = end[0] - start[0], end[1] - start[1]
    steps = max(abs(down), abs(right))
    # Halves are rounded towards the start, so that mirroring a grid mirrors its view.
    along = [(_nearest(step * down, steps), _nearest(step * right, steps)) for step in range(steps)]
    return [(start[0] + d, start[1] + r) for d, r in along[1:]]


def _nearest(numerator: int, denominator: int) -> int:
    sign = 1 if numerator >= 0 else -1
    return sign * ((2 * abs(numerator) + denominator - 1) // (2 * denominator))


def _corner(heading: Array | None, side: int) -> Array:
    """The offset from the agent to the top left square of the block it sees, (2,) int32."""
    half, last = side // 2, side - 1
    if heading is None:
        return jnp.array([-half, -half], jnp.int32)
    corners = jnp.array([[-last, -half], [-half, 0], [0, -half], [-half, -last]], jnp.int32)
    return corners[heading]


def _pick(heading: Array | None, tables: np.ndarray) -> Array:
    """The row of `tables` [headings, length] for this heading."""
    chosen = jnp.asarray(tables[0])
    for direction in range(1, len(tables)):
        assert heading is not None
        chosen = jnp.where(heading == direction, tables[direction], chosen)
    return chosen


def _words(walls: Array, corner: Array, side: int) -> list[Array]:
    """The `side` by `side` squares from `corner` (2,) on, as many rows to a word as fit."""
    rows_a_word = _WORD // side
    rows = read_rows(walls, corner[0], corner[1], side) & jnp.uint32(2**side - 1)
    words = [jnp.uint32(0)] * -(-side // rows_a_word)
    for index in range(side):
        word, place = divmod(index, rows_a_word)
        words[word] |= rows[index] << jnp.uint32(place * side)
    return words
