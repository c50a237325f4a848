"""The levels that MiniGrid's families draw, the oracle, and what an agent is shown besides."""

from __future__ import annotations

import dataclasses
import functools

import grid_reference as reference
import jax
import jax.numpy as jnp
import minigrid_parity as parity
import numpy as np
import pytest

from envs import MiniGrid, SolvedEnvironment
from envs.core import provides
from envs.grids import pack
from envs.minigrid import NOWHERE, convert, fetch, oracle, world
from envs.minigrid.obstacles import walk
from envs.solve import UNREACHABLE

# An environment of ours and the same of minigrid's.
LEVELS = {
    "doorkey": (MiniGrid("doorkey", size=6), "DoorKeyEnv", {"size": 6}),
    "unlockpickup": (MiniGrid("unlockpickup"), "UnlockPickupEnv", {}),
    "keycorridor": (
        MiniGrid("keycorridor", count=2),
        "KeyCorridorEnv",
        {"room_size": 3, "num_rows": 2},
    ),
    "lavacrossing": (
        MiniGrid("lavacrossing", count=3),
        "CrossingEnv",
        {"size": 9, "num_crossings": 3},
    ),
    "multiroom": (
        MiniGrid("multiroom", size=6, count=3),
        "MultiRoomEnv",
        {"minNumRooms": 3, "maxNumRooms": 3, "maxRoomSize": 6},
    ),
    "memory-random": (
        MiniGrid("memory-random", size=11),
        "MemoryEnv",
        {"size": 11, "random_length": True},
    ),
}


@functools.cache
def _drawn(name, count):
    keys = jax.random.split(jax.random.key(2), count)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(LEVELS[name][0].sample_task))(keys))


def test_a_task_may_permute_its_controls_slip_and_pay_by_square():
    plain = MiniGrid("empty-random", size=5)
    env = dataclasses.replace(
        plain, shuffle_controls=True, rewards=0.5, slip=0.9, shortest_horizon=50
    )
    keys = jax.random.split(jax.random.key(0), 64)
    tasks = jax.jit(jax.vmap(env.sample_task))(keys)
    assert (np.sort(tasks.controls, axis=1) == np.arange(7)).all()
    assert len(np.unique(tasks.controls, axis=0)) > 32
    assert 0.3 < np.asarray(tasks.slip).mean() < 0.6
    assert set(np.asarray(tasks.horizon).tolist()) <= set(range(50, 101))
    task = dataclasses.replace(_some(tasks, 0), slip=jnp.float32(0))
    same = dataclasses.replace(task, controls=None, slip=None, rewards=None)
    step, plain_step = jax.jit(env.step), jax.jit(plain.step)
    state, _ = jax.jit(env.reset)(keys[0], task)
    for action in [2, 1, 2, 0, 2, 2, 1, 2]:
        sent = int(np.argmax(np.asarray(task.controls) == action))
        expected, timestep = plain_step(keys[0], state, jnp.int32(action), same)
        state, paid = step(keys[0], state, jnp.int32(sent), task)
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        square = tuple(np.asarray(state.position).tolist())
        assert paid.reward == pytest.approx(timestep.reward + task.rewards[square])
        np.testing.assert_array_equal(paid.observation, timestep.observation)
    # A step that surely slips does each of the seven actions as often.
    sure = dataclasses.replace(task, slip=jnp.float32(1))
    start, _ = jax.jit(env.reset)(keys[0], sure)
    turned = jax.jit(jax.vmap(lambda key: env.step(key, start, jnp.int32(0), sure)[0].heading))(
        jax.random.split(jax.random.key(1), 2800)
    )
    counts = np.bincount((np.asarray(turned) - int(start.heading)) % 4, minlength=4)
    assert (np.abs(counts[[1, 3]] - 400) < 4 * np.sqrt(400)).all()
    with pytest.raises(ValueError, match=r"task.slip: .*, expected none where a level is to be"):
        plain.optimal_return(task)


def _some(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


@pytest.mark.parametrize("name", LEVELS)
def test_levels_are_legal_and_all_that_matters_can_be_reached(name):
    """Through the doors, over what can be picked up."""
    env, tasks = LEVELS[name][0], _drawn(name, 400)
    high, wide = env.shape
    assert tasks.walls.shape[1:] == (high, -(-wide // 32))
    for index in range(0, 400, 8):
        task = _some(tasks, index)
        solid = reference.walls_of(task.walls | task.lava, wide)
        there = task.kinds != 0
        squares = list(map(tuple, task.squares[there].tolist()))
        assert len({*squares, tuple(task.start)}) == len(squares) + 1
        assert (task.squares[~there] == NOWHERE).all()
        # A wrong answer is the only thing that one must not walk on.
        wanted = squares if task.answers[0, 0] == NOWHERE else [tuple(task.answers[0])]
        assert not solid[tuple(task.start)]
        assert set(wanted) <= set(reference.distances(solid, tuple(task.start)))


@pytest.mark.slow
@pytest.mark.parametrize("name", LEVELS)
def test_levels_are_distributed_as_those_of_minigrid(name):
    """Where each kind of thing is, by colour and state, and the agent: within standard errors."""
    env, family, fields = LEVELS[name]
    count, tasks = 4000, _drawn(name, 4000)
    state = jax.vmap(world.first_state)(tasks)
    view = dataclasses.replace(env, full=True)
    ours = np.asarray(jax.jit(jax.vmap(view.observe))(state, tasks))
    theirs = getattr(parity.reference, family)(**fields)
    whole = parity.FullyObsWrapper(theirs)
    seen = np.stack(
        [whole.observation(theirs.reset(seed=seed)[0])["image"] for seed in range(count)]
    )

    def shares(images):
        code = images.astype(int) @ [32, 4, 1]
        return np.stack([(code == value).mean(axis=0) for value in range(11 * 32)])

    a, b = shares(ours), shares(seen)
    spread = np.sqrt((a + b) * (2 - a - b) / 2 / count + 1 / count**2)
    assert np.abs((a - b) / spread).max() < 5.5
    assert ((a > 0) & (a < 1)).sum() > 40


SOLVED = {
    "Empty-Random-5x5": 3,
    "DoorKey-5x5": 6,
    "Unlock": 3,
    "LavaGapS5": 3,
    "LavaCrossingS9N2": 3,
    "SimpleCrossingS9N3": 2,
    "MultiRoom-N4-S5": 2,
    "MemoryS7": 4,
    "DistShift2": 1,
}


@functools.cache
def _expand():
    def every_action(state, task):
        actions = jnp.arange(6, dtype=jnp.int32)
        return jax.vmap(lambda action: world.transition(state, action, task))(actions)

    return jax.jit(jax.vmap(every_action, in_axes=(0, None)))


def _fewest_steps(task):
    """Breadth first over whole states of the world."""
    frontier = jax.tree.map(lambda leaf: np.asarray(leaf)[None], world.first_state(task))
    seen, chunk = set(), 512
    for steps in range(1, 60):
        count = frontier.steps.shape[0]
        assert count <= chunk
        padded = jax.tree.map(lambda leaf: np.resize(leaf, (chunk, *leaf.shape[1:])), frontier)
        states, success, failure = jax.device_get(_expand()(padded, task))
        if success[:count].any():
            return steps
        each = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states)
        flat = _some(each, slice(6 * count))
        flat = dataclasses.replace(flat, steps=np.zeros_like(flat.steps))
        rows = np.concatenate(
            [leaf.reshape(6 * count, -1) for leaf in jax.tree.leaves(flat)], axis=1
        )
        new = []
        for index in np.flatnonzero(~failure[:count].reshape(-1)):
            row = rows[index].tobytes()
            if row not in seen:
                seen.add(row)
                new.append(index)
        frontier = _some(flat, new)
    return UNREACHABLE


@pytest.mark.smoke
def test_the_oracle_takes_as_many_steps_as_a_search_of_all_states():
    """Levels of nine families in one batch."""
    tasks = []
    for name, count in SOLVED.items():
        env = parity.make(name)
        for seed in range(count):
            env.reset(seed=seed)
            tasks.append(convert.padded(convert.from_minigrid(env), 25, 32, 5))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    state = jax.vmap(world.first_state)(batch)
    steps, _ = jax.jit(jax.vmap(oracle.plan))(state, batch)
    assert steps.tolist() == [_fewest_steps(task) for task in tasks]


@pytest.mark.parametrize(
    "env",
    [
        MiniGrid("keycorridor", size=3, count=1),
        pytest.param(MiniGrid("unlockpickup", size=4), marks=pytest.mark.slow),
    ],
)
def test_an_object_is_fetched_in_as_few_steps_as_a_search_of_all_states_finds(env):
    """The key is put down first; in a corridor a room is left by the door that was opened."""
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(5), 3))
    plan = jax.jit(jax.vmap(lambda state, task: fetch.plan(state, task, env.shape[1])))
    step = jax.jit(jax.vmap(world.transition))
    state = jax.vmap(world.first_state)(tasks)
    steps, action = plan(state, tasks)
    assert steps.tolist() == [_fewest_steps(_some(tasks, index)) for index in range(3)]
    # Led astray, it says how many steps are left from there, and takes no more.
    for wrong in (world.LEFT, world.FORWARD, world.DROP):
        state, _, _ = step(state, jnp.full((3,), wrong, jnp.int32), tasks)
    left, action = plan(state, tasks)
    for taken in range(int(left.max())):
        state, success, _ = step(state, action, tasks)
        assert success[left == taken + 1].all()
        _, action = plan(state, tasks)


def test_what_has_no_oracle_says_so():
    for env, message in (
        (MiniGrid("dynamic-obstacles"), "got family 'dyn.*one without moving obstacles"),
        (MiniGrid("empty", slip=0.1), "got slip 0.1, expected 0"),
        (MiniGrid("empty", rewards=0.5), "got rewards 0.5, expected 0"),
        (MiniGrid("keycorridor", size=16), "got size 16, expected one solved in 16777216 words"),
    ):
        for name in ("optimal_return", "optimal_action"):
            with pytest.raises(AttributeError, match=f"^{name}: {message}"):
                getattr(env, name)
        assert not provides(env, SolvedEnvironment)
    assert provides(MiniGrid("keycorridor", size=6), SolvedEnvironment)
    task = _some(_drawn("unlockpickup", 400), 0)
    assert not oracle.is_exact(task)
    assert fetch.is_exact(task)
    door = dataclasses.replace(task, target=jnp.int32(1))
    assert not fetch.is_exact(door)
    assert not fetch.is_exact(dataclasses.replace(door, kinds=door.kinds * [1, 1, 0]))


@pytest.mark.parametrize(
    ("kinds", "fixed", "exact"),
    [
        ([world.DOOR, world.DOOR, world.GOAL], False, True),
        ([world.KEY, world.DOOR, world.GOAL], False, True),
        ([world.KEY, world.BALL, world.GOAL], True, True),
        ([world.KEY, world.KEY, world.DOOR], False, False),
        ([world.KEY, world.DOOR, world.DOOR], False, False),  # the key may be behind one
        ([world.GOAL, world.BALL, 0], False, False),  # it can be picked up
        ([world.GOAL, world.BOX, 0], True, False),  # it can be opened
    ],
)
def test_a_level_in_which_more_can_be_done_has_no_known_optimum(kinds, fixed, exact):
    task = dataclasses.replace(
        _some(_drawn("doorkey", 400), 0),
        kinds=jnp.array(kinds, jnp.int32),
        fixed=jnp.array(fixed),
    )
    assert bool(oracle.is_exact(task)) == exact


def test_of_a_corridor_that_a_ball_blocks_no_optimum_is_claimed():
    env = MiniGrid("empty", size=5)
    task = convert.padded(env.sample_task(jax.random.key(0)), 5, 5, 2)
    rows = jnp.zeros((5, 5), bool).at[1, 1:4].set(True)
    task = dataclasses.replace(
        task,
        walls=pack(~rows),
        kinds=jnp.array([world.GOAL, world.BALL], jnp.int32),
        squares=jnp.array([[1, 3], [1, 2]], jnp.int32),
    )
    assert _fewest_steps(task) == 3
    assert jnp.isnan(jax.jit(env.optimal_return)(task))


def test_the_compass_is_the_heading_and_else_the_view_is_the_same():
    plain = MiniGrid("doorkey", size=6)
    tasks = _drawn("doorkey", 400)
    state = jax.vmap(world.first_state)(tasks)
    views = [
        np.array(jax.jit(jax.vmap(env.observe))(state, tasks))
        for env in (plain, dataclasses.replace(plain, compass=True))
    ]
    assert (views[1][:, 3, 6, 2] == tasks.heading).all()
    views[1][:, 3, 6, 2] = 0
    np.testing.assert_array_equal(*views)


def test_balls_walk_to_each_free_square_next_to_them_as_often():
    """One in the middle of a 5 by 5 grid; the agent and another ball are next to it."""
    env = MiniGrid("dynamic-obstacles", size=5, count=2)
    task = jax.jit(env.sample_task)(jax.random.key(0))
    task = dataclasses.replace(task, squares=jnp.array([[3, 3], [2, 2], [1, 2]], jnp.int32))
    state, _ = jax.jit(env.reset)(jax.random.key(0), task)
    count = 6000
    keys = jax.random.split(jax.random.key(1), count)
    squares = np.asarray(jax.jit(jax.vmap(walk, in_axes=(0, None, None)))(keys, state, task))
    places, counts = np.unique(squares[:, 1], axis=0, return_counts=True)
    assert places.tolist() == [[1, 3], [2, 1], [2, 3], [3, 1], [3, 2]]
    assert np.abs(counts / count - 0.2).max() < 4.5 * np.sqrt(0.16 / count)
    assert (squares[:, 0] == [3, 3]).all()
    # The second ball moves after the first one, and never onto it.
    assert (squares[:, 1] != squares[:, 2]).any(axis=1).all()


@pytest.mark.parametrize("family", ["memory", "memory-random"])
def test_the_answer_is_beside_the_object_that_matches(family):
    env = MiniGrid(family, size=9)
    tasks = jax.jit(jax.vmap(env.sample_task))(jax.random.split(jax.random.key(0), 64))
    kinds, squares, answers = map(np.asarray, (tasks.kinds, tasks.squares, tasks.answers))
    matches = kinds[:, 1:] == kinds[:, :1]  # above, below
    assert (matches.sum(axis=1) == 1).all()
    assert 0 < matches[:, 0].mean() < 1
    wanted = squares[:, 1:][matches]
    np.testing.assert_array_equal(np.abs(answers[:, 0] - wanted), np.tile([1, 0], (64, 1)))
    assert (np.abs(answers[:, 1] - wanted)[:, 0] > 1).all()


def test_rewards_are_padded_with_their_level():
    task = jax.jit(MiniGrid("empty", size=5, rewards=1.0).sample_task)(jax.random.key(0))
    rewards = convert.padded(task, 7, 32, 3).rewards
    np.testing.assert_array_equal(rewards, np.pad(task.rewards, ((0, 2), (0, 27))))
