"""Shortest paths and best plans on packed grids.

The fills grow a set of squares by a move a trip, a row of squares to a machine word. Under `vmap` a
fill makes as many trips as the longest of the batch needs, and so does a plan; they are meant for
drawing tasks and for oracles, never for a step.

An agent without a heading moves up, right, down or left; one with a heading () int32, one of the
directions, turns left (0), turns right (1) or moves forward (2).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .grids import DOWN, LEFT, RIGHT, UP, is_wall, moved, spread, square_set, unpack

__all__ = [
    "UNREACHABLE",
    "direction_to",
    "distance",
    "distances",
    "far_half",
    "heading_action",
    "heading_distance",
    "heading_plan",
    "plan",
    "shortest_path",
    "solvable",
]

Array = jax.Array

UNREACHABLE = 2**31 - 1  # the distance where there is no path

_DIRECTIONS = (UP, RIGHT, DOWN, LEFT)


def distance(walls: Array, start: Array, goal: Array) -> Array:
    """The fewest moves from `start` (2,) to `goal` (2,), () int32; UNREACHABLE without a path."""
    target = square_set(walls, goal)
    filled, trips = _grow(_neighbours(walls), square_set(walls, start) & ~walls, target)
    return jnp.where(_meet(filled, target), trips, jnp.int32(UNREACHABLE))


def solvable(walls: Array, start: Array, goal: Array) -> Array:
    """Whether a path leads from `start` (2,) to `goal` (2,), () bool."""
    return distance(walls, start, goal) != UNREACHABLE


def distances(walls: Array, goal: Array) -> Array:
    """The fewest moves to `goal` (2,) from every square, int32 [H, 32 * words].

    UNREACHABLE at walls and where there is no path.

    Squares whose colour on a chessboard is the goal's are an even number of moves away, so a trip
    makes two moves and each square counts the trips for which it is not yet filled. The counters
    are in Gray code, a plane of bits a digit: of any count only one digit changes.
    """
    high, words = walls.shape
    wide = 32 * words
    digits = max((high * wide // 2).bit_length(), _LOW_DIGITS + 1)

    def two_moves(filled: Array) -> Array:
        return spread(spread(filled) & ~walls) & ~walls

    def trip(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        filled, low = carry
        digit = jnp.asarray(_DIGIT_CHANGED)[number]
        low = low.at[digit].set(low[digit] ^ ~filled, mode="promise_in_bounds")
        return two_moves(filled), low

    # The higher digits change once a block of trips only.
    def block(carry: _Counters) -> _Counters:
        filled, low, high_planes, blocks, _ = carry
        filled, low = jax.lax.fori_loop(0, len(_DIGIT_CHANGED), trip, (filled, low))
        blocks = blocks + 1
        place = jnp.arange(digits - _LOW_DIGITS, dtype=jnp.int32)
        changes = (blocks & -blocks) >> place == 1
        flips = jnp.where(changes[:, None, None], ~filled[None], jnp.uint32(0))
        further = two_moves(filled)
        return further, low, high_planes ^ flips, blocks, jnp.any(further != filled)

    filled = spread(square_set(walls, goal) & ~walls) & ~walls
    low = jnp.zeros((_LOW_DIGITS, high, words), jnp.uint32)
    high_planes = jnp.zeros((digits - _LOW_DIGITS, high, words), jnp.uint32)
    first = (filled, low, high_planes, jnp.int32(0), jnp.array(True))
    filled, low, high_planes, _, _ = jax.lax.while_loop(lambda carry: carry[-1], block, first)

    rows, columns = jnp.arange(high, dtype=jnp.int32), jnp.arange(wide, dtype=jnp.int32)
    odd = (rows[:, None] + columns[None] + goal[0] + goal[1]) & 1
    steps, digit = jnp.zeros((high, wide), jnp.int32), jnp.zeros_like(walls)
    for plane in reversed([*low, *high_planes]):
        digit = digit ^ plane
        steps = 2 * steps + unpack(digit, wide).astype(jnp.int32)
    return jnp.where(unpack(filled, wide), 2 * steps + odd, jnp.int32(UNREACHABLE))


_LOW_DIGITS = 4
# Counting from n to n + 1 in Gray code changes the digit that is the number of factors 2 in n + 1.
_DIGIT_CHANGED = [(n & -n).bit_length() - 1 for n in range(1, 2**_LOW_DIGITS)]

# Squares filled, planes of the low and of the high digits, blocks counted, whether any was filled.
_Counters = tuple[Array, Array, Array, Array, Array]


def shortest_path(walls: Array, start: Array, goal: Array, length: int) -> tuple[Array, Array]:
    """A shortest path from `start` (2,) to `goal` (2,).

    Returns:
      Where the agent is after 0, 1, ... length - 1 moves, int32 [length, 2], the goal from the
      arrival on; and the moves of the whole path, () int32. Without a path, the start all along
      and UNREACHABLE.
    """
    far = distances(walls, goal)
    high, wide = far.shape

    def step(position: Array, _: None) -> tuple[Array, Array]:
        near = jnp.stack([position, *(moved(position, jnp.int32(d)) for d in _DIRECTIONS)])
        inside = jnp.all((near >= 0) & (near < jnp.array([[high, wide]])), axis=-1)
        left = jnp.where(inside, far[near[:, 0], near[:, 1]], jnp.int32(UNREACHABLE))
        # A start in a wall stays there, though a neighbour may have a path.
        chosen = jnp.where(left[0] == UNREACHABLE, 0, jnp.argmin(left))
        return near[chosen], position

    _, path = jax.lax.scan(step, start, length=length)
    return path, far[start[0], start[1]]


def direction_to(walls: Array, position: Array, goal: Array) -> Array:
    """The direction, () int32, of the first move of a shortest path from `position` to `goal`.

    Some direction where `position` is the goal or there is no path.
    """
    near = spread(square_set(walls, position)) & ~walls
    # Grown from the goal, the fill first meets a neighbour on a shortest path.
    filled, _ = _grow(_neighbours(walls), square_set(walls, goal) & ~walls, near)

    def leads(direction: int) -> Array:
        square = moved(position, jnp.int32(direction))
        return _meet(filled, square_set(walls, square)) & ~is_wall(walls, square)

    return jnp.argmax(jnp.stack([leads(d) for d in _DIRECTIONS])).astype(jnp.int32)


def far_half(walls: Array, start: Array) -> Array:
    """The open squares at least half as far from `start` (2,) as the farthest one.

    Two fills race: when the one that grows by two moves a trip has filled the grid, the other holds
    the nearer half.

    Returns:
      A set of squares, uint32 [H, words] like `walls`, of those that a path leads to.
    """
    first = square_set(walls, start) & ~walls

    def trip(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        fast, slow, _ = carry
        further = spread(spread(fast) & ~walls) & ~walls
        grew = jnp.any(further != fast)
        # The slow fill starts a trip late: after trip k it holds what is less than k moves away.
        return further, jnp.where(grew, first | (spread(slow) & ~walls), slow), grew

    fast, slow, _ = jax.lax.while_loop(
        lambda carry: carry[2], trip, (first, jnp.zeros_like(first), jnp.array(True))
    )
    return fast & ~slow


def heading_distance(walls: Array, start: Array, heading: Array, goal: Array) -> Array:
    """The fewest turns and moves from `start` (2,), facing `heading` (), to `goal` (2,), () int32.

    UNREACHABLE without a path. The way the agent faces at the goal does not matter.
    """
    target = _facing(walls, start, heading)
    filled, trips = _grow(_predecessors(walls), _facing_any(walls, goal), target)
    return jnp.where(_meet(filled, target), trips, jnp.int32(UNREACHABLE))


def heading_action(walls: Array, position: Array, heading: Array, goal: Array) -> Array:
    """The first action, () int32, of a quickest way from `position`, facing `heading`, to `goal`.

    Forward where that is as quick as a turn; some action at the goal or without a path.
    """
    ahead = moved(position, heading)
    open_ahead = jnp.where(is_wall(walls, ahead), jnp.uint32(0), jnp.uint32(2**32 - 1))
    results = jnp.stack(
        [
            _facing(walls, ahead, heading) & open_ahead,
            _facing(walls, position, (heading - 1) & 3),
            _facing(walls, position, (heading + 1) & 3),
        ]
    )
    target = results[0] | results[1] | results[2]
    filled, _ = _grow(_predecessors(walls), _facing_any(walls, goal), target)
    leads = jnp.stack([_meet(filled, result) for result in results])
    return jnp.array([2, 0, 1], jnp.int32)[jnp.argmax(leads)]


def plan(
    walls: Array,
    arrival: Callable[[Array], Array],
    terminal: Array,
    slip: Array,
    horizon: Array,
    steps: Array,
    stay: bool = False,
) -> tuple[Array, Array]:
    """The greatest expected return and the best action on every square, by backward induction.

    An action is replaced, with probability `slip`, by one drawn uniformly from all of them. A move
    into a wall stays. Every step pays for the square that the agent is on after it.

    Args:
      walls: uint32 [H, words], packed rows.
      arrival: from t, () int32 in 1..horizon, to float32 [H, W]: what step t pays on each square.
      terminal: bool [H, W], the squares on which an episode ends.
      slip: () float32.
      horizon: () int32, the steps of an episode.
      steps: () int32, how many of them have been taken.
      stay: whether staying is an action too.

    Returns:
      The return from here on, float32 [H, W], 0 on walls and where the episode has ended; and the
      action, int32 [H, W]: a direction or, with `stay`, 0 to stay and 1 + direction to move.
    """
    move = _mover(walls, terminal.shape[-1])

    def results(worth: Array) -> list[Array]:
        return [worth] * stay + [move(worth, direction) for direction in _DIRECTIONS]

    ended = terminal | unpack(walls, terminal.shape[-1])
    return _induce(results, arrival, ended, slip, horizon, steps)


def heading_plan(
    walls: Array,
    arrival: Callable[[Array], Array],
    terminal: Array,
    slip: Array,
    horizon: Array,
    steps: Array,
) -> tuple[Array, Array]:
    """`plan` for an agent with a heading: float32 and int32 [4, H, W], by heading and square.

    The arguments are those of `plan`, `arrival` and `terminal` [H, W] as there.
    """
    move = _mover(walls, terminal.shape[-1])

    def results(worth: Array) -> list[Array]:
        forward = jnp.stack([move(worth[d], d) for d in _DIRECTIONS])
        return [jnp.roll(worth, 1, axis=0), jnp.roll(worth, -1, axis=0), forward]

    ended = jnp.broadcast_to(terminal | unpack(walls, terminal.shape[-1]), (4, *terminal.shape))
    return _induce(results, lambda t: arrival(t)[None], ended, slip, horizon, steps)


def _induce(
    results: Callable[[Array], list[Array]],
    arrival: Callable[[Array], Array],
    ended: Array,
    slip: Array,
    horizon: Array,
    steps: Array,
) -> tuple[Array, Array]:
    """Values and best actions, shaped as `ended`; `results`: what each action's result is worth."""

    def trip(back: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        values, _ = carry
        worth = jnp.stack(results(arrival(horizon - back) + values))
        best = (1 - slip) * jnp.max(worth, axis=0) + slip * jnp.mean(worth, axis=0)
        return jnp.where(ended, jnp.float32(0), best), jnp.argmax(worth, axis=0).astype(jnp.int32)

    first = jnp.zeros(ended.shape, jnp.float32), jnp.zeros(ended.shape, jnp.int32)
    return jax.lax.fori_loop(jnp.int32(0), horizon - steps, trip, first)


def _mover(walls: Array, wide: int) -> Callable[[Array, int], Array]:
    """From what squares are worth, [H, W], to what moving from each in a direction is worth."""
    is_open = ~unpack(walls, wide)

    def shifted(squares: Array, direction: int) -> Array:
        padded = jnp.pad(squares, 1)
        down, right = {UP: (0, 1), RIGHT: (1, 2), DOWN: (2, 1), LEFT: (1, 0)}[direction]
        return padded[down : down + squares.shape[0], right : right + squares.shape[1]]

    def move(worth: Array, direction: int) -> Array:
        return jnp.where(shifted(is_open, direction), shifted(worth, direction), worth)

    return move


def _grow(more: Callable[[Array], Array], first: Array, target: Array) -> tuple[Array, Array]:
    """Grows the set `first` by a trip of `more` until it meets `target` or is whole: it, trips."""

    def trip(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        filled, trips, _ = carry
        further = more(filled)
        return further, trips + 1, jnp.any(further != filled)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        filled, _, grew = carry
        return grew & ~_meet(filled, target)

    filled, trips, _ = jax.lax.while_loop(unfinished, trip, (first, jnp.int32(0), jnp.array(True)))
    return filled, trips


def _neighbours(walls: Array) -> Callable[[Array], Array]:
    return lambda squares: spread(squares) & ~walls


def _predecessors(walls: Array) -> Callable[[Array], Array]:
    """Grows a set of squares by heading, uint32 [4, H, words], by all states an action before."""

    def more(states: Array) -> Array:
        # Whoever faces up and has come to a square was below it; and so on around.
        shifted = [_shift(states[d], (d + 2) & 3) for d in _DIRECTIONS]
        turned = jnp.roll(states, 1, axis=0) | jnp.roll(states, -1, axis=0)
        return states | turned | (jnp.stack(shifted) & ~walls[None])

    return more


def _shift(squares: Array, direction: int) -> Array:
    """The set `squares`, uint32 [H, words], every square moved by one in `direction`."""
    if direction == UP:
        return jnp.pad(squares[1:], ((0, 1), (0, 0)))
    if direction == DOWN:
        return jnp.pad(squares[:-1], ((1, 0), (0, 0)))
    if direction == RIGHT:
        carried = jnp.pad(squares[:, :-1] >> jnp.uint32(31), ((0, 0), (1, 0)))
        return squares << jnp.uint32(1) | carried
    carried = jnp.pad(squares[:, 1:] << jnp.uint32(31), ((0, 0), (0, 1)))
    return squares >> jnp.uint32(1) | carried


def _facing(walls: Array, position: Array, heading: Array) -> Array:
    """The set that holds one square and heading only: uint32 [4, H, words]."""
    faced = jnp.arange(4, dtype=jnp.int32) == heading
    square = square_set(walls, position) & ~walls
    return jnp.where(faced[:, None, None], square[None], jnp.uint32(0))


def _facing_any(walls: Array, position: Array) -> Array:
    square = square_set(walls, position) & ~walls
    return jnp.broadcast_to(square[None], (4, *walls.shape))


def _meet(squares: Array, others: Array) -> Array:
    return jnp.any(squares & others != 0)
