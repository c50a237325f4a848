"""What the agent of MiniGrid's world observes: a (kind, colour, state) triple for each square.

Images are indexed as MiniGrid's are, [column, row, channel], column 0 at the left.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ..grids import read_rows, unpack
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

WIDEST = 15  # squares along a side; a line's walls and its lava share a word
_HIGH = np.uint32(16)  # the bit at which the second half of a word starts

# A triple is one word until it becomes channels: kind, colour << 8, state << 16.
_UNSEEN, _EMPTY, _WALL, _LAVA = (
    np.uint32(triple) for triple in (0, EMPTY, WALL | GREY << 8, LAVA | RED << 8)
)


def egocentric(
    state: MiniGridState, task: MiniGridTask, side: int, see_through: bool, compass: bool = False
) -> Array:
    """The squares ahead, uint8 [side, side, 3], as in MiniGrid's `gen_obs`.

    The agent is in the middle of the last row and looks up; its own square shows what it carries.
    Squares hidden by walls and closed doors are 0.

    The view is computed as lines of bits, a word each. Line 0 is the agent's own row of the view,
    line 1 the one ahead of it. Bits are in the order of the grid's rows or columns, so the lines of
    an agent that looks south or west are mirror images of the rows of its view.

    Args:
      state: the state of the episode.
      task: the level.
      side: squares along a side of the view: odd, at most 15.
      see_through: whether walls and closed doors hide nothing.
      compass: whether the state channel of the agent's own square is the heading.
    """
    line_of, place_of = _places(state, side)
    shut = (state.doors >= CLOSED).astype(jnp.uint32) << place_of.astype(jnp.uint32)
    seen = _seen(_lines(state, task, side), line_of, shut, side, see_through)

    # One bit per square, in as few words as possible.
    a_word = 32 // side
    low, high = ([jnp.uint32(0)] * -(-side // a_word) for _ in range(2))
    for line in range(side):
        word, shift = line // a_word, np.uint32(line % a_word * side)
        low[word] |= (seen[line] & np.uint32(2**side - 1)) << shift
        high[word] |= seen[line] >> _HIGH << shift
    mirrored = (state.heading == SOUTH) | (state.heading == WEST)
    masks = jnp.where(mirrored, *_masks(side))

    def has_bit(words: list[Array]) -> Array:
        found = words[0] & masks[0]
        for word, mask in zip(words[1:], masks[1:], strict=True):
            found |= word & mask
        return found != 0

    image = _channels(has_bit(low), has_bit(high))
    # The places of the visible objects in the image. On the agent's own square, the object it
    # carries replaces the one it stands on.
    here, outside = side // 2 * side + side - 1, side**2
    shown = (seen | seen >> _HIGH)[line_of] >> place_of.astype(jnp.uint32) & np.uint32(1)
    places = jnp.where(mirrored, side - 1 - place_of, place_of) * side + side - 1 - line_of
    places = jnp.where((line_of < 0) | (shown == 0) | (places == here), outside, places)
    held = jnp.arange(places.shape[0], dtype=jnp.int32) == state.carried
    image = _overlay(image, jnp.where(held, here, places), state, task)
    if compass:
        image = image.at[here, 2].set(state.heading.astype(jnp.uint8))
    return image.reshape(side, side, 3)


def full_grid(state: MiniGridState, task: MiniGridTask, wide: int) -> Array:
    """The whole grid of `wide` columns, uint8 [wide, H, 3], as in MiniGrid's `FullyObsWrapper`.

    The agent's square shows (AGENT, RED, heading).
    """
    high = task.walls.shape[0]
    walls, lava = (unpack(plane, wide).T.reshape(-1) for plane in (task.walls, task.lava))
    image = _channels(~walls, walls | lava)
    places = state.squares[:, 1] * high + state.squares[:, 0]
    places = jnp.where(state.squares[:, 0] < 0, wide * high, places)
    image = _overlay(image, places, state, task).reshape(wide, high, 3)
    agent = jnp.array([AGENT, RED, 0], jnp.int32).at[2].set(state.heading)
    return image.at[state.position[1], state.position[0]].set(agent.astype(jnp.uint8))


def _lines(state: MiniGridState, task: MiniGridTask, side: int) -> list[Array]:
    """The walls, and in the upper half the lava, of each line of the view: `side` () uint32."""
    row, column = state.position
    heading, half, last = state.heading, side // 2, side - 1
    upright = (heading & 1) == 1  # lines are rows of the grid, not columns
    top = row - jnp.where(upright, jnp.where(heading == SOUTH, 0, last), half)
    left = column - jnp.where(upright, half, jnp.where(heading == EAST, 0, last))
    everything = np.uint32(2**side - 1)
    walls = read_rows(task.walls, top, left, side) & everything
    lava = read_rows(task.lava, top, left, side) & everything & ~walls
    # Lava under the agent is hidden.
    under = jnp.arange(side, dtype=jnp.int32) == row - top
    lava &= ~jnp.where(under, jnp.uint32(1) << (column - left).astype(jnp.uint32), jnp.uint32(0))
    both = walls | lava << _HIGH
    rows = [both[number] for number in range(side)]
    lines = [jnp.where(upright, *pair) for pair in zip(rows, _transposed(rows), strict=True)]
    onward = (heading == SOUTH) | (heading == EAST)
    return [jnp.where(onward, *pair) for pair in zip(lines, lines[::-1], strict=True)]


def _transposed(rows: list[Array]) -> list[Array]:
    """Transposes two squares of bits, one in the lower halves of the words, one in the upper.

    Ever smaller blocks off the diagonal are swapped (Warren, Hacker's Delight, section 7-3).
    """
    block = 1 << (len(rows) - 1).bit_length()
    lines = [*rows, *[jnp.uint32(0)] * (block - len(rows))]
    while block > 1:
        block //= 2
        shift = np.uint32(block)
        mask = np.uint32(sum(1 << bit for bit in range(32) if not bit & block))
        for number in range(len(lines)):
            if not number & block:
                one, other = lines[number], lines[number + block]
                change = ((one >> shift) ^ other) & mask
                lines[number], lines[number + block] = one ^ change << shift, other ^ change
    return lines[: len(rows)]


@functools.cache
def _masks(side: int) -> np.ndarray:
    """The bit of each square of the image, mirrored and not: uint32 [2, words, side^2]."""
    a_word = 32 // side
    masks = np.zeros((2, -(-side // a_word), side**2), np.uint32)
    for square in range(side**2):
        column, row = divmod(square, side)
        word, line = divmod(side - 1 - row, a_word)
        for mirrored, place in enumerate((side - 1 - column, column)):
            masks[mirrored, word, square] = 1 << line * side + place
    return masks


def _places(state: MiniGridState, side: int) -> tuple[Array, Array]:
    """Each object's line in the view and its place on it, both int32 [K]; line -1 if outside."""
    down, right = (state.squares - state.position[None]).T
    heading = state.heading
    line = jnp.where(heading == EAST, right, jnp.where(heading == SOUTH, down, -right))
    line = jnp.where(heading == NORTH, -down, line)
    place = jnp.where((heading & 1) == 1, right, down) + side // 2
    inside = (line >= 0) & (line < side) & (place >= 0) & (place < side)
    return jnp.where(inside, line, -1), jnp.where(inside, place, 0)


def _seen(
    lines: list[Array], door_lines: Array, doors: Array, side: int, see_through: bool
) -> Array:
    """Each line of the view as the agent sees it: uint32 [side], two bits a square, `_HIGH` apart.

    The bits are 1 for empty, 2 for a wall, 3 for lava and 0 for hidden; `doors` [K] hide things as
    walls do. This is MiniGrid's `process_vis`, a whole line at a time: light spreads from a lit
    clear square to its neighbours on the same line and to the three nearest squares on the next.
    """
    everything = np.uint32(2**side - 1)

    def onward(reached: Array, line_and_number: tuple[Array, Array]) -> tuple[Array, Array]:
        line, number = line_and_number
        shut = jnp.sum(jnp.where(door_lines == number, doors, jnp.uint32(0)), dtype=jnp.uint32)
        clear = ~(line | shut) & everything
        source, forth, back = reached & clear, clear, clear
        for shift in (np.uint32(2**power) for power in range((side - 1).bit_length())):
            source |= (source << shift) & forth
            forth &= forth << shift
        for shift in (np.uint32(2**power) for power in range((side - 1).bit_length())):
            source |= (source >> shift) & back
            back &= back >> shift
        spread = (source | source << np.uint32(1) | source >> np.uint32(1)) & everything
        lit = everything if see_through else reached | spread
        return spread, (lit & ~line) | (lit & (line | line >> _HIGH)) << _HIGH

    # A loop, so that each line's result is an array over all environments. Unrolled, XLA would fuse
    # it with what follows, which goes square by square through one environment.
    numbers = jnp.arange(side, dtype=jnp.int32)
    return jax.lax.scan(onward, jnp.uint32(1 << side // 2), (jnp.stack(lines), numbers))[1]


def _channels(low: Array, high: Array) -> Array:
    """uint8 [S, 3] from two bits a square, bool [S]: 1 is empty, 2 a wall, 3 lava, 0 unseen."""
    triples = jnp.where(high, jnp.where(low, _LAVA, _WALL), jnp.where(low, _EMPTY, _UNSEEN))
    return (triples[:, None] >> np.array([[0, 8, 16]], np.uint32)).astype(jnp.uint8)


def _overlay(image: Array, places: Array, state: MiniGridState, task: MiniGridTask) -> Array:
    """`image` [S, 3] with the objects drawn at `places` [K]; S means outside."""
    objects = jnp.stack([task.kinds, task.colours, state.doors], axis=1).astype(jnp.uint8)
    return image.at[places].set(objects, mode="drop", unique_indices=True)
