"""Fills find what a breadth-first search finds, and plans what a recursion finds, on any grid."""

import functools

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import grids, mazes, solve

# high, wide, share of walls: mostly open, two words a row, a corridor
GRIDS = [(7, 9, 0.25), (6, 40, 0.45), (1, 12, 0.1)]


def _packed(seed, high, wide, share):
    walls = reference.random_walls(seed, high, wide, share)
    return walls, grids.pack(jnp.asarray(walls))


def _squares(high, wide):
    return [(row, column) for row in range(high) for column in range(wide)]


@pytest.mark.parametrize(("high", "wide", "share"), GRIDS)
def test_distance_is_that_of_breadth_first_search(high, wide, share):
    squares = _squares(high, wide)
    both = jnp.array(squares, jnp.int32)
    solved = jax.jit(jax.vmap(solve.distance, in_axes=(None, None, 0)))
    for seed in range(4):
        walls, words = _packed(seed, high, wide, share)
        source = squares[7 * seed % len(squares)]
        found = solved(words, jnp.array(source, jnp.int32), both)
        known = reference.distances(walls, source)
        np.testing.assert_array_equal(found, [known.get(s, solve.UNREACHABLE) for s in squares])


@pytest.mark.parametrize(("high", "wide", "share"), GRIDS)
def test_direction_leads_one_move_nearer(high, wide, share):
    squares = _squares(high, wide)
    solved = jax.jit(jax.vmap(solve.direction_to, in_axes=(None, 0, None)))
    for seed in range(4):
        walls, words = _packed(seed, high, wide, share)
        goal = squares[5 * seed % len(squares)]
        directions = solved(words, jnp.array(squares, jnp.int32), jnp.array(goal, jnp.int32))
        known = reference.distances(walls, goal)
        for square, direction in zip(squares, np.asarray(directions), strict=True):
            if known.get(square, 0) > 0:
                down, right = reference.MOVES[direction]
                assert known[square[0] + down, square[1] + right] == known[square] - 1


@pytest.mark.parametrize(("high", "wide", "share"), GRIDS)
def test_far_half_is_what_is_at_least_half_as_far_as_the_farthest(high, wide, share):
    squares = _squares(high, wide)
    solved = jax.jit(jax.vmap(solve.far_half, in_axes=(None, 0)))
    walls, words = _packed(3, high, wide, share)
    sets = solved(words, jnp.array(squares, jnp.int32))
    for square, far in zip(squares, np.asarray(grids.unpack(sets, wide)), strict=True):
        known = reference.distances(walls, square)
        expected = {s for s, steps in known.items() if 2 * steps >= max(known.values())}
        assert set(map(tuple, np.argwhere(far).tolist())) == expected


@pytest.mark.smoke
@pytest.mark.parametrize(("high", "wide", "share"), [*GRIDS, (5, 5, 1.0)])
def test_distances_are_those_of_breadth_first_search(high, wide, share):
    squares = _squares(high, wide)
    solved = jax.jit(solve.distances)
    for seed in range(6):
        walls, words = _packed(seed, high, wide, share)
        goal = squares[11 * seed % len(squares)]
        known = reference.distances(walls, goal)
        found = np.asarray(solved(words, jnp.array(goal, jnp.int32)))
        expected = np.full(found.shape, solve.UNREACHABLE)
        for square, steps in known.items():
            expected[square] = steps
        np.testing.assert_array_equal(found, expected)
        assert found.shape == (high, 32 * words.shape[1])


@pytest.mark.parametrize(("cells_high", "cells_wide", "share"), [(4, 20, 0.7), (1, 1, 0)])
def test_distances_in_a_maze_of_cells_are_those_in_any_grid(cells_high, cells_wide, share):
    solved = jax.jit(jax.vmap(solve.maze_distances, in_axes=(None, 0)))
    any_grid = jax.jit(jax.vmap(solve.distances, in_axes=(None, 0)))
    goals = [(2 * r + 1, 2 * c + 1) for r in range(cells_high) for c in range(cells_wide)]
    goals = jnp.array(goals[:: 1 + len(goals) // 9], jnp.int32)

    @jax.jit
    def draw(key):
        key_maze, key_braid = jax.random.split(key)
        return mazes.braid(key_braid, mazes.kruskal(key_maze, cells_high, cells_wide), share)

    for seed in range(3):
        walls = draw(jax.random.key(seed))
        np.testing.assert_array_equal(solved(walls, goals), any_grid(walls, goals))
    # What no path leads to is out of reach.
    alone = jax.vmap(lambda goal: grids.square_set(walls, goal))(goals)
    for of in (solve.maze_distances, solve.distances):
        found = np.asarray(jax.jit(jax.vmap(of))(~alone, goals))
        assert (found == 0).sum() == len(goals)
        assert ((found == 0) | (found == solve.UNREACHABLE)).all()


@pytest.mark.parametrize("shape", [(8, 1), (9, 3)])
def test_a_grid_that_is_no_maze_of_cells_is_refused(shape):
    with pytest.raises(ValueError, match="expected an odd number of rows and 1 or 2 words"):
        solve.maze_distances(jnp.zeros(shape, jnp.uint32), jnp.array([1, 1], jnp.int32))


def _snake(high, wide):
    """One corridor that visits every other row: the longest way through a grid."""
    walls = np.ones((high, wide), bool)
    walls[1:-1:2, 1:-1] = False
    walls[2:-1:4, -2] = False
    walls[4:-1:4, 1] = False
    return walls


def test_distances_count_as_far_as_the_longest_corridor():
    walls = _snake(31, 31)
    known = reference.distances(walls, (1, 1))
    assert max(known.values()) > 16 * 25  # several blocks of trips
    found = solve.distances(grids.pack(jnp.asarray(walls)), jnp.array([1, 1], jnp.int32))
    assert {square: int(found[square]) for square in known} == known


@pytest.mark.parametrize(("high", "wide", "share"), GRIDS)
def test_shortest_path_is_made_of_as_many_moves_as_the_distance(high, wide, share):
    squares, length = _squares(high, wide), 20
    solved = jax.jit(
        jax.vmap(lambda *args: solve.shortest_path(*args, length), in_axes=(None, 0, None))
    )
    for seed in range(3):
        walls, words = _packed(seed, high, wide, share)
        goal = squares[5 * seed % len(squares)]
        known = reference.distances(walls, goal)
        both = jnp.array(squares, jnp.int32)
        paths, moves = map(np.asarray, solved(words, both, jnp.array(goal, jnp.int32)))
        for start, path, count in zip(squares, paths.tolist(), moves.tolist(), strict=True):
            assert count == known.get(start, solve.UNREACHABLE)
            if start not in known:
                assert path == [list(start)] * length
                continue
            left = [known[tuple(square)] for square in path]
            assert left == [max(count - taken, 0) for taken in range(length)]
            strides = np.abs(np.diff(np.asarray(path), axis=0)).sum(axis=1)
            assert strides.max(initial=0) <= 1


def test_solvable_is_whether_there_is_a_path():
    squares = _squares(7, 9)
    walls, words = _packed(1, 7, 9, 0.45)
    goal = next(square for square in squares if not walls[square])
    known = reference.distances(walls, goal)
    solved = jax.jit(jax.vmap(solve.solvable, in_axes=(None, 0, None)))
    found = solved(words, jnp.array(squares, jnp.int32), jnp.array(goal, jnp.int32))
    np.testing.assert_array_equal(found, [square in known for square in squares])


# An agent with a heading: a state is (row, column, heading).


def _after(walls, state, action):
    row, column, heading = state
    if action < 2:
        return (row, column, (heading + (-1, 1)[action]) % 4)
    down, right = reference.MOVES[heading]
    blocked = reference.is_wall(walls, row + down, column + right)
    return state if blocked else (row + down, column + right, heading)


def _heading_distances(walls, goal):
    """The fewest actions to `goal` from every state, by relaxation until nothing changes."""
    squares = [square for square in _squares(*walls.shape) if not walls[square]]
    states = [(*square, heading) for square in squares for heading in range(4)]
    left = {state: 0 if state[:2] == goal else np.inf for state in states}
    while True:
        after = {s: min(left[s], *(1 + left[_after(walls, s, a)] for a in range(3))) for s in left}
        if after == left:
            return left
        left = after


@pytest.mark.parametrize(("high", "wide", "share"), [(5, 6, 0.3), (3, 35, 0.3)])
def test_turns_and_moves_are_counted_and_the_first_leads_nearer(high, wide, share):
    walls, words = _packed(2, high, wide, share)
    goal = next(square for square in _squares(high, wide)[high * wide // 2 :] if not walls[square])
    known = _heading_distances(walls, goal)
    states = list(known)
    along = jnp.array(states, jnp.int32)
    arguments = (words, along[:, :2], along[:, 2], jnp.array(goal, jnp.int32))
    axes = (None, 0, 0, None)
    found = jax.jit(jax.vmap(solve.heading_distance, in_axes=axes))(*arguments)
    actions = jax.jit(jax.vmap(solve.heading_action, in_axes=axes))(*arguments)
    expected = [min(known[state], solve.UNREACHABLE) for state in states]
    np.testing.assert_array_equal(found, expected)
    for state, action in zip(states, np.asarray(actions).tolist(), strict=True):
        if 0 < known[state] < np.inf:
            assert known[_after(walls, state, action)] == known[state] - 1


# Plans against a recursion over one state at a time.

MOVE, STAY_OR_MOVE, TURN_OR_MOVE = "moves", "stay or move", "turn or move"


def _results(kind, walls, state):
    """The states that each action leads to."""
    if kind == TURN_OR_MOVE:
        return [_after(walls, state, action) for action in range(3)]
    ways = [_after(walls, (*state, heading), 2)[:2] for heading in range(4)]
    return [state, *ways] if kind == STAY_OR_MOVE else ways


@pytest.mark.parametrize("kind", [MOVE, STAY_OR_MOVE, TURN_OR_MOVE])
@pytest.mark.parametrize(("slip", "horizon", "steps"), [(0.0, 5, 0), (0.3, 7, 2), (0.3, 4, 4)])
def test_plan_is_the_optimum_of_a_recursion(kind, slip, horizon, steps):
    walls, words = _packed(5, 4, 5, 0.25)
    rewards = np.random.default_rng(0).normal(size=walls.shape).astype(np.float32)
    terminal = np.zeros(walls.shape, bool)
    terminal[1, 3] = True
    values, actions = _plan(kind)(
        words, jnp.asarray(rewards), jnp.asarray(terminal), slip, jnp.array([horizon, steps])
    )

    @functools.cache
    def worths(state, taken):
        """What each action is worth before slipping, once `taken` steps are taken."""
        found = []
        for after in _results(kind, walls, state):
            ends = terminal[after[:2]] or taken + 1 == horizon
            follows = 0.0 if ends else worth(after, taken + 1)
            found.append(rewards[after[:2]] + 0.1 * (taken + 1) * terminal[after[:2]] + follows)
        return found

    def worth(state, taken):
        found = worths(state, taken)
        return (1 - slip) * max(found) + slip * np.mean(found)

    for square in _squares(*walls.shape):
        for heading in range(4):
            turns = kind == TURN_OR_MOVE
            state, index = ((*square, heading), (heading, *square)) if turns else (square, square)
            if walls[square] or terminal[square] or steps == horizon:
                assert values[index] == 0
                continue
            np.testing.assert_allclose(values[index], worth(state, steps), rtol=1e-5, atol=1e-5)
            best = worths(state, steps)
            np.testing.assert_allclose(best[actions[index]], max(best), rtol=1e-5, atol=1e-5)


@functools.cache
def _plan(kind):
    def planned(words, rewards, terminal, slip, times):
        def arrival(t):
            return rewards + 0.1 * t.astype(jnp.float32) * terminal.astype(jnp.float32)

        arguments = (words, arrival, terminal, slip, times[0], times[1])
        if kind == TURN_OR_MOVE:
            return solve.heading_plan(*arguments)
        return solve.plan(*arguments, stay=kind == STAY_OR_MOVE)

    return jax.jit(planned)


def test_a_batch_plans_over_horizons_that_differ():
    _, words = _packed(5, 4, 5, 0.25)
    terminal = jnp.zeros((4, 5), bool).at[1, 3].set(True)

    def value(horizon):
        pays = terminal.astype(jnp.float32)
        return solve.plan(words, lambda _: pays, terminal, jnp.float32(0.1), horizon, jnp.int32(0))[
            0
        ]

    horizons = jnp.array([1, 6, 3], jnp.int32)
    batch = jax.vmap(value)(horizons)
    for horizon, values in zip(horizons, batch, strict=True):
        np.testing.assert_allclose(values, value(horizon), rtol=1e-6)
    assert (batch[1] >= batch[2]).all()
