"""The distances of all squares of a packed grid to one of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..grids import DOWN, LEFT, RIGHT, UP, moved, unpack

__all__ = ["UNREACHABLE", "distances", "maze_distances", "shortest_path"]

Array = jax.Array

UNREACHABLE = 2**31 - 1  # the distance where there is no path
_FAR = 2**29  # likewise, but adding to it does not overflow


def distances(walls: Array, goal: Array) -> Array:
    """The fewest moves to `goal` (2,) from every square, int32 [H, 32 * words].

    UNREACHABLE at walls and where there is no path.

    Coloured like a chessboard, every move changes colour. The squares of the goal's colour are an
    even number of moves away, so only they are filled, by two moves per iteration and with half as
    many bits. A square of the other colour is one move from one of them.
    """
    high, words = walls.shape
    wide = 32 * words
    row = jnp.arange(high, dtype=jnp.int32)
    # Columns come in pairs; in a `late` row the second of each pair has the goal's colour.
    late = (row + goal[0] + goal[1]) & 1 == 1
    first, second = _halves(~walls)
    same = jnp.where(late[:, None], second, first)
    other = jnp.where(late[:, None], first, second)
    bits = same.dtype.itemsize * 8
    late_bits = jnp.where(late, ~same.dtype.type(0), same.dtype.type(0))[:, None]

    def two_moves(filled: Array) -> Array:
        # `filled |` keeps an isolated square, which has no neighbour to come back from.
        return filled | _beside(_beside(filled, late_bits) & other, ~late_bits) & same

    pair = goal[1] >> 1
    here = (row == goal[0])[:, None] & (jnp.arange(same.shape[1]) == pair // bits)[None]
    first = jnp.where(here, same.dtype.type(1) << (pair % bits).astype(same.dtype), 0) & same
    even = _moves_by_twos(two_moves, first)
    far = jnp.full_like(even, _FAR)
    pairs = jnp.where(late[:, None], far, even), jnp.where(late[:, None], even, far)
    return _all_squares(walls, jnp.stack(pairs, axis=-1).reshape(high, -1)[:, :wide])


def maze_distances(walls: Array, goal: Array) -> Array:
    """`distances` for a maze of cells, at half the cost.

    A maze of cells is what a generator of `mazes` draws, braided or not: its open squares are
    cells, on odd rows and columns, and passages between two neighbouring cells. The fill then
    covers cells only, which are two moves apart.

    Args:
      walls: uint32 [2 * cells_high + 1, words], of at most 2 words.
      goal: (2,) int32, a cell.

    Raises:
      ValueError: an even number of rows, or more than 2 words.
    """
    high, words = walls.shape
    if high % 2 == 0 or words > 2:
        raise ValueError(
            f"walls: got {walls.shape}, expected an odd number of rows and 1 or 2 words"
        )
    between, cells = _halves(~walls[1::2])
    below = _halves(~walls[2::2])[1]
    one = cells.dtype.type(1)
    right = between >> one  # whether a cell is open to the one on its right

    def two_moves(filled: Array) -> Array:
        across = (filled & right) << one | filled >> one & right
        padded = jnp.pad(filled, ((0, 1), (0, 0)))[1:] & below
        return filled | across | padded | jnp.pad(filled & below, ((1, 0), (0, 0)))[:-1]

    row = jnp.arange(cells.shape[0], dtype=jnp.int32)[:, None]
    bit = one << (goal[1] >> 1).astype(cells.dtype)
    first = jnp.where(row == goal[0] >> 1, bit, cells.dtype.type(0)) & cells
    steps = _moves_by_twos(two_moves, first)[:, : 16 * words]
    even = jnp.full((high, 32 * words), _FAR, jnp.int32).at[1::2, 1::2].set(steps)
    return _all_squares(walls, even)


def _all_squares(walls: Array, even: Array) -> Array:
    """All distances, int32 [H, W], from those of every second square; the others are _FAR."""
    padded = jnp.pad(even, 1, constant_values=_FAR)
    beside = jnp.minimum(
        jnp.minimum(padded[:-2, 1:-1], padded[2:, 1:-1]),
        jnp.minimum(padded[1:-1, :-2], padded[1:-1, 2:]),
    )
    found = jnp.minimum(even, beside + 1)
    is_open = ~unpack(walls, even.shape[1])
    return jnp.where((found < _FAR) & is_open, found, jnp.int32(UNREACHABLE))


def _moves_by_twos(two_moves: Callable[[Array], Array], first: Array) -> Array:
    """How many moves it takes to fill each square, int32 [H, bits]; _FAR if it is never filled.

    `two_moves` grows a set of squares, uint [H, words], by those two moves away, starting from
    `first`. Each square counts the iterations in which it is not filled yet. The counters are in
    Gray code, one bit plane per digit, so that each count changes one digit only.
    """
    none = first.dtype.type(0)

    def trip(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        filled, low = carry
        digit = jnp.asarray(_DIGIT_CHANGED)[number]
        low = low.at[digit].set(low[digit] ^ ~filled, mode="promise_in_bounds")
        return two_moves(filled), low

    # The higher digits change only once per block of iterations.
    def block(carry: _Counters) -> _Counters:
        filled, low, high_planes, blocks, _ = carry
        filled, low = jax.lax.fori_loop(0, len(_DIGIT_CHANGED), trip, (filled, low))
        blocks = blocks + 1
        changes = (blocks & -blocks) >> jnp.arange(len(high_planes), dtype=jnp.int32) == 1
        flips = jnp.where(changes[:, None, None], ~filled[None], none)
        further = two_moves(filled)
        return further, low, high_planes ^ flips, blocks, jnp.any(further != filled)

    squares = first.size * first.dtype.itemsize * 8
    digits = max(squares.bit_length(), _LOW_DIGITS + 1)
    planes = jnp.zeros((digits, *first.shape), first.dtype)
    start = (first, planes[:_LOW_DIGITS], planes[_LOW_DIGITS:], jnp.int32(0), jnp.array(True))
    filled, low, high_planes, _, _ = jax.lax.while_loop(lambda carry: carry[-1], block, start)

    filled_bits = _unpacked(filled)
    steps, digit = jnp.zeros_like(filled_bits), jnp.zeros_like(first)
    for plane in reversed([*low, *high_planes]):
        digit = digit ^ plane
        steps = 2 * steps + _unpacked(digit)
    return jnp.where(filled_bits == 1, 2 * steps, _FAR)


_LOW_DIGITS = 4
# Counting to n in Gray code changes the digit whose number is how often 2 divides n.
_DIGIT_CHANGED = [(n & -n).bit_length() - 1 for n in range(1, 2**_LOW_DIGITS)]

# Filled squares, planes of the low and high digits, number of blocks, whether the last one grew.
_Counters = tuple[Array, Array, Array, Array, Array]


def shortest_path(walls: Array, start: Array, goal: Array, length: int) -> tuple[Array, Array]:
    """A shortest path between two squares.

    Args:
      walls: uint32 [H, words], packed rows.
      start: (2,) int32.
      goal: (2,) int32.
      length: how many positions are returned.

    Returns:
      The positions after 0, 1, ... length - 1 moves, int32 [length, 2], which stay on the goal once
      it is reached; and the number of moves of the whole path, () int32. Without a path, the start
      throughout and UNREACHABLE.
    """
    far = distances(walls, goal)
    high, wide = far.shape

    def step(position: Array, _: None) -> tuple[Array, Array]:
        directions = (UP, RIGHT, DOWN, LEFT)
        near = jnp.stack([position, *(moved(position, jnp.int32(d)) for d in directions)])
        inside = jnp.all((near >= 0) & (near < jnp.array([[high, wide]])), axis=-1)
        left = jnp.where(inside, far[near[:, 0], near[:, 1]], jnp.int32(UNREACHABLE))
        # A start in a wall stays there, even if a neighbour has a path.
        chosen = jnp.where(left[0] == UNREACHABLE, 0, jnp.argmin(left))
        return near[chosen], position

    _, path = jax.lax.scan(step, start, length=length)
    return path, far[start[0], start[1]]


def _halves(words: Array) -> tuple[Array, Array]:
    """The even and the odd columns of packed rows, uint32 [H, words].

    Both are uint16 [H, 1] for one word, else uint32 [H, ceil(words / 2)].
    """
    both = []
    for bits in (words, words >> jnp.uint32(1)):
        # Keep every second bit, then close the gaps by 1, 2, 4 and 8.
        for gap, kept in zip(
            (0, 1, 2, 4, 8), (0x55555555, 0x33333333, 0x0F0F0F0F, 0x00FF00FF, 0xFFFF), strict=True
        ):
            bits = (bits | bits >> jnp.uint32(gap)) & jnp.uint32(kept)
        if words.shape[1] == 1:
            both.append(bits.astype(jnp.uint16))
        else:
            bits = jnp.pad(bits, ((0, 0), (0, words.shape[1] % 2)))
            both.append(bits[:, 0::2] | bits[:, 1::2] << jnp.uint32(16))
    return both[0], both[1]


def _beside(squares: Array, late: Array) -> Array:
    """The neighbours, all of the other colour, of a set of squares of one colour.

    In a row where `late` is set the squares are the second of their pair of columns, with one
    neighbour in their own pair and one in the next; elsewhere, in their own and in the one before.
    """
    one = squares.dtype.type(1)
    last = squares.dtype.type(squares.dtype.itemsize * 8 - 1)
    later, earlier = squares << one, squares >> one
    if squares.shape[1] > 1:
        later = later | jnp.pad(squares[:, :-1] >> last, ((0, 0), (1, 0)))
        earlier = earlier | jnp.pad(squares[:, 1:] << last, ((0, 0), (0, 1)))
    padded = jnp.pad(squares, ((1, 1), (0, 0)))
    return squares | padded[:-2] | padded[2:] | later & late | earlier & ~late


def _unpacked(pairs: Array) -> Array:
    """Packed bits [H, words] as int32 [H, bits], 0 or 1."""
    place = jnp.arange(pairs.dtype.itemsize * 8, dtype=pairs.dtype)
    bits = (pairs[:, :, None] >> place[None, None]) & pairs.dtype.type(1)
    return bits.reshape(pairs.shape[0], -1).astype(jnp.int32)
