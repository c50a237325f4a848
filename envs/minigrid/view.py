"""What the agent of MiniGrid's world observes: a (kind, colour, state) triple for each square.

Images are indexed as MiniGrid's are, [column, row, channel], column 0 at the left.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..grids import read, unpack
from .world import (
    AGENT,
    CLOSED,
    EAST,
    EMPTY,
    GREY,
    LAVA,
    NORTH,
    RED,
    SOUTH,
    WALL,
    WEST,
    MiniGridState,
    MiniGridTask,
)

__all__ = ["WIDEST", "egocentric", "full_grid"]

Array = jax.Array

WIDEST = 15  # squares along a side: a line of walls and one of lava share a word
_LAVA_BITS = np.uint32(16)  # the place of the line of lava in that word

# A triple is one word until it becomes channels: kind, colour << 8, state << 16.
_UNSEEN, _EMPTY, _WALL, _LAVA = (
    np.uint32(triple) for triple in (0, EMPTY, WALL | GREY << 8, LAVA | RED << 8)
)


def egocentric(
    state: MiniGridState, task: MiniGridTask, side: int, see_through: bool, compass: bool = False
) -> Array:
    """The squares ahead: the agent is in the middle of the last row and looks up.

    uint8 [side, side, 3], as MiniGrid's `gen_obs`: 0 where walls and closed doors hide a square,
    unless it may `see_through` them; the agent's own square shows what it carries, and with
    `compass` its state channel the heading.

    The view is computed as lines of bits, a word each. Line 0 is the agent's own row of the view,
    line 1 the one ahead of it. Bits are in the order of the grid's rows or columns, so that the
    lines of an agent that looks south or west are mirror images of the rows of its view.
    """
    everything = np.uint32(2**side - 1)
    lines = _lines(state, task, side)
    walls = [line & everything for line in lines]
    lava = [line >> _LAVA_BITS for line in lines]
    lava[0] &= ~np.uint32(1 << side // 2)  # hidden under the agent
    line_of, place_of = _places(state, side)

    lit = [jnp.asarray(everything)] * side
    if not see_through:
        shut = (state.doors >= CLOSED).astype(jnp.uint32) << place_of.astype(jnp.uint32)
        number = jnp.arange(side, dtype=jnp.int32)[:, None]
        doors = jnp.where(line_of[None] == number, shut[None], jnp.uint32(0))
        doors = jnp.sum(doors, axis=1, dtype=jnp.uint32)
        lit = _lit([~(wall | doors[line]) & everything for line, wall in enumerate(walls)], side)

    # Two bits a square, 1 for empty, 2 for a wall and 3 for lava, in as few words as hold them.
    a_word = 32 // side
    low, high = ([jnp.uint32(0)] * -(-side // a_word) for _ in range(2))
    for line in range(side):
        word, shift = line // a_word, np.uint32(line % a_word * side)
        low[word] |= (lit[line] & ~walls[line]) << shift
        high[word] |= (lit[line] & (walls[line] | lava[line])) << shift
    mirrored = (state.heading == SOUTH) | (state.heading == WEST)
    column, row = _indices(side, side)
    line = side - 1 - row
    mask = np.uint32(1) << (line % a_word * side + column).astype(np.uint32)

    def has_bit(words: list[Array]) -> Array:
        words = [jnp.where(mirrored, _reversed(word, side), word) for word in words]
        found = words[0]
        for word in range(1, len(words)):
            found = jnp.where(line // a_word == word, words[word], found)
        return found & mask != 0

    is_low, is_high = has_bit(low), has_bit(high)
    triples = jnp.where(
        is_high, jnp.where(is_low, _LAVA, _WALL), jnp.where(is_low, _EMPTY, _UNSEEN)
    )
    # Where the objects are in the image, -1 outside: what the agent stands on gives way to what it
    # carries.
    places = jnp.where(mirrored, side - 1 - place_of, place_of) * side + side - 1 - line_of
    places = jnp.where(line_of >= 0, places, -1)
    here = side // 2 * side + side - 1
    held = jnp.arange(places.shape[0], dtype=jnp.int32) == state.carried
    places = jnp.where(held, here, jnp.where(places == here, -1, places))
    triples = _overlay(triples, column * side + row, places, state, task)
    if compass:
        direction = state.heading.astype(jnp.uint32) << np.uint32(16)
        triples |= jnp.where(column * side + row == here, direction, np.uint32(0))
    return _channels(triples)


def full_grid(state: MiniGridState, task: MiniGridTask, wide: int) -> Array:
    """The whole grid of `wide` columns, uint8 [wide, H, 3], as MiniGrid's `FullyObsWrapper`.

    The agent's square shows (AGENT, RED, heading).
    """
    column, row = _indices(wide, task.walls.shape[0])
    walls, lava = (unpack(plane, wide).T[..., None] for plane in (task.walls, task.lava))
    triples = jnp.where(walls, _WALL, jnp.where(lava, _LAVA, _EMPTY))
    high = task.walls.shape[0]
    places = jnp.where(
        state.squares[:, 0] >= 0, state.squares[:, 1] * high + state.squares[:, 0], -1
    )
    triples = _overlay(triples, column * high + row, places, state, task)
    agent = np.uint32(AGENT | RED << 8) | state.heading.astype(jnp.uint32) << np.uint32(16)
    here = (column == state.position[1]) & (row == state.position[0])
    return _channels(jnp.where(here, agent, triples))


def _indices(wide: int, high: int) -> np.ndarray:
    """Column and row of every square of an image, int32 [2, wide, high, 1]."""
    return np.indices((wide, high), np.int32)[..., None]


def _lines(state: MiniGridState, task: MiniGridTask, side: int) -> list[Array]:
    """Walls, and lava in the upper half, of each line of the view: `side` words, () uint32."""
    row, column = state.position
    upright = (state.heading & 1) == 1  # lines are rows of the grid, not columns
    down = (state.heading == SOUTH).astype(jnp.int32) - (state.heading == NORTH).astype(jnp.int32)
    east = state.heading == EAST
    first_row = jnp.where(upright, row, row - side // 2)
    left = jnp.where(upright, column - side // 2, jnp.where(east, column, column - side + 1))
    everything = np.uint32(2**side - 1)
    rows = []
    for number in range(side):
        row = first_row + number * jnp.where(upright, down, 1)
        walls = read(task.walls, row, left) & everything
        lava = read(task.lava, row, left) & everything & ~walls
        rows.append(walls | lava << _LAVA_BITS)

    both = np.uint32(1 | 1 << _LAVA_BITS)
    columns = [jnp.uint32(0)] * side
    for number in range(side):
        for bit, line in enumerate(rows):
            columns[number] |= ((line >> np.uint32(number)) & both) << np.uint32(bit)
    onward = [jnp.where(east, *pair) for pair in zip(columns, columns[::-1], strict=True)]
    return [jnp.where(upright, *pair) for pair in zip(rows, onward, strict=True)]


def _places(state: MiniGridState, side: int) -> tuple[Array, Array]:
    """The line of the view and the place in it of each object: int32 [K]; line -1 if in none."""
    down, right = (state.squares - state.position[None]).T
    heading = state.heading
    line = jnp.where(heading == EAST, right, jnp.where(heading == SOUTH, down, -right))
    line = jnp.where(heading == NORTH, -down, line)
    place = jnp.where((heading & 1) == 1, right, down) + side // 2
    inside = (line >= 0) & (line < side) & (place >= 0) & (place < side)
    return jnp.where(inside, line, -1), jnp.where(inside, place, 0)


def _lit(clear: list[Array], side: int) -> list[Array]:
    """What the agent sees of each line, where `clear` are the squares that one can see through.

    MiniGrid's `process_vis`, a whole line at a time. Light spreads from a lit clear square to its
    neighbours on the same line, and to the three squares next to it on the line after.
    """
    everything = np.uint32(2**side - 1)
    reached, lit = jnp.uint32(1 << side // 2), []
    for line in clear:
        source, onward, back = reached & line, line, line
        for shift in (np.uint32(2**power) for power in range((side - 1).bit_length())):
            source |= (source << shift) & onward
            onward &= onward << shift
        for shift in (np.uint32(2**power) for power in range((side - 1).bit_length())):
            source |= (source >> shift) & back
            back &= back >> shift
        spread = (source | source << np.uint32(1) | source >> np.uint32(1)) & everything
        lit.append(reached | spread)
        reached = spread
    return lit


def _reversed(word: Array, side: int) -> Array:
    """Each of the lines of `side` bits in a word, () uint32, from its other end."""
    ends = sum(1 << line * side for line in range(32 // side))
    result = word & np.uint32(ends << side // 2)
    for bit in range(side // 2):
        mask, shift = np.uint32(ends << bit), np.uint32(side - 1 - 2 * bit)
        result |= (word & mask) << shift | (word >> shift) & mask
    return result


def _overlay(
    triples: Array, index: np.ndarray, places: Array, state: MiniGridState, task: MiniGridTask
) -> Array:
    """`triples` with the objects at `places` [K] among the squares `index`, where one is seen."""
    objects = task.kinds | task.colours << 8 | state.doors << 16
    shown = triples
    for number, triple in enumerate(objects.astype(jnp.uint32)):
        shown = jnp.where(index == places[number], triple, shown)
    return jnp.where(triples == _UNSEEN, _UNSEEN, shown)


def _channels(triples: Array) -> Array:
    """uint32 [..., 1] to uint8 [..., 3]."""
    shift = np.array([0, 8, 16], np.uint32).reshape((1,) * (triples.ndim - 1) + (3,))
    return (triples >> shift).astype(jnp.uint8)
