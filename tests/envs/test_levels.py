"""Levels as drawings, what is refused as one, and what mutation leaves of one."""

import dataclasses

import grid_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import Gridworld, Maze

LEVEL = """
    #######
    #S..#.#
    ###.#.#
    #.....#
    #.#####
    #....X#
    #######
"""


def _walls(task, size):
    return reference.walls_of(np.asarray(task.walls), size)


@pytest.mark.smoke
def test_a_drawing_is_the_task_that_it_shows_and_back():
    env = Maze(size=9, horizon=50)
    task = env.from_text(LEVEL, horizon=30)
    assert (task.start.tolist(), task.exit.tolist(), int(task.horizon)) == ([1, 1], [5, 5], 30)
    walls = _walls(task, 9)
    assert walls[7:].all()  # padded
    assert walls[:, 7:].all()
    assert walls[1].tolist() == [True, False, False, False, True, False, True, True, True]
    assert jax.jit(env.optimal_return)(task) == pytest.approx(1 - 0.9 * 12 / 30)
    drawn = env.to_text(task)
    assert drawn.split("\n")[1] == "#S..#.###"
    again = env.from_text(drawn, horizon=30)
    jax.tree.map(np.testing.assert_array_equal, again, task)


def test_a_start_that_faces_a_way_is_drawn_as_an_arrow():
    env = Maze(size=7, heading=True)
    task = env.from_text(LEVEL.replace("S", ">"))
    assert int(task.heading) == 1
    assert env.to_text(task).split("\n")[1] == "#>..#.#"
    with pytest.raises(ValueError, match="expected one start"):
        env.from_text(LEVEL)


def test_an_open_grid_is_drawn_without_a_border():
    env = Gridworld(size=3)
    task = env.from_text("S#.\n..X\n...")
    assert task.goal.tolist() == [1, 2]
    assert env.to_text(task) == "S#.\n..X\n..."
    assert env.to_text(env.from_text("  S#.\n  ..X\n  ...")) == "S#.\n..X\n..."


def test_a_space_is_a_square_within_a_border_only():
    """Spaces of an open side would be taken for indentation, and the level would be shifted."""
    assert Maze(size=5).from_text("####\n#SX#\n#  #\n####").start.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"text: line 1 has ' ', expected one of '#\.SX"):
        Gridworld(size=3).from_text("S  \n.#X\n...")
    with pytest.raises(ValueError, match="text: line 1 has"):
        Gridworld(size=4).from_text("  #S\n ..X\n  ..\n  ..")


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        ("", "text: got nothing, expected a drawing"),
        ("####\n#SX#\n###", "text: line 3 has 3 characters, expected 4"),
        ("####\n#SG#\n####", "text: line 2 has 'G', expected one of '#. SX^>v<'"),
        ("####\n#.X#\n####", "text: got 0 squares of 'S', expected one start"),
        ("####\n#SS#\n####", "text: got 2 squares of 'S', expected one start"),
        ("####\n#S.#\n####", "text: got 0 squares of 'X', expected one goal"),
        ("#####\n#S#X#\n#####", "text: no path leads from the start to the goal"),
        ("##.#\n#SX#\n####", "text: the border is open, expected walls along all four sides"),
        ("#" * 10, "text: got 1 by 10, expected at most 9 by 9"),
    ],
)
def test_what_is_no_level_is_refused(drawing, message):
    with pytest.raises(ValueError, match="text: ") as refusal:
        Maze(size=9).from_text(drawing)
    assert str(refusal.value) == message


@pytest.mark.parametrize("horizon", [0, 41])
def test_a_horizon_that_the_environment_does_not_have_is_refused(horizon):
    with pytest.raises(ValueError, match="horizon: got"):
        Maze(size=9, horizon=40).from_text(LEVEL, horizon=horizon)


def _batch(task, count=3):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"walls": jnp.zeros((9, 1), jnp.uint32)},
            "task.walls: got uint32 (9, 1), expected uint32 (7, 1) for size 7",
        ),
        (
            {"walls": jnp.zeros((7, 1), jnp.int32)},
            "task.walls: got int32 (7, 1), expected uint32 (7, 1) for size 7",
        ),
        ({"walls": jnp.zeros((7, 1), jnp.uint32)}, "task.walls: open beyond column 6"),
        (
            {"walls": jnp.full((7, 1), 0xFFFFFF80, jnp.uint32)},
            "task.walls: the border is open, expected walls along all four sides",
        ),
        (
            {"start": jnp.zeros((3,), jnp.int32)},
            "task.start: got int32 (3,), expected integer (2,)",
        ),
        (
            {"start": jnp.zeros((2,), jnp.float32)},
            "task.start: got float32 (2,), expected integer (2,)",
        ),
        (
            {"exit": jnp.array([7, 1], jnp.int32)},
            "task.exit: got [7, 1], expected a square in 0..6",
        ),
        ({"exit": jnp.array([2, 1], jnp.int32)}, "task.exit: got [2, 1], which is a wall"),
        ({"horizon": jnp.int32(41)}, "task.horizon: got 41, expected 1 to 40"),
        ({"slip": jnp.float32(1.5)}, "task.slip: got 1.5, expected 0 to 1"),
        ({"slip": jnp.float32(jnp.nan)}, "task.slip: got nan, expected 0 to 1"),
        (
            {"rewards": jnp.zeros((7, 7)).at[1, 1].set(jnp.nan)},
            "task.rewards: expected finite numbers",
        ),
        ({"start": None}, "task.start: got None, expected an array"),
        ({"horizon": None}, "task.horizon: got None, expected an array"),
        ({"exit": jnp.array([1, 1], jnp.int32)}, "task.exit: got [1, 1], which is the start"),
        (
            {"heading": jnp.int32(0)},
            "task.heading: got one, expected one if the agent turns, else None",
        ),
        (
            {"controls": jnp.array([0, 1, 1, 2], jnp.int32)},
            "task.controls: got [0, 1, 1, 2], expected a permutation",
        ),
    ],
)
def test_a_task_that_does_not_fit_is_refused_with_the_reason(change, message):
    env = Maze(size=7)
    task = env.from_text(LEVEL)
    env.check(task)
    with pytest.raises(ValueError, match="task") as refusal:
        env.check(dataclasses.replace(task, **change))
    assert str(refusal.value) == message


def test_the_first_of_a_batch_that_does_not_fit_is_named():
    env = Maze(size=7)
    tasks = _batch(env.from_text(LEVEL))
    env.check(tasks)
    exits = jnp.array([[5, 5], [2, 1], [0, 0]], jnp.int32)
    with pytest.raises(ValueError, match=r"task.exit of task 1: got \[2, 1\], which is a wall"):
        env.check(dataclasses.replace(tasks, exit=exits))
    closed = tasks.walls.at[2, 3].set(jnp.uint32(0xFFFFFFFF))
    with pytest.raises(ValueError, match=r"task.exit of task 2: .* no path leads"):
        env.check(dataclasses.replace(tasks, walls=closed))


def test_a_task_of_another_size_is_refused_while_tracing():
    task = Maze(size=9).from_text(LEVEL)
    with pytest.raises(ValueError, match=r"task.walls: got uint32 \(9, 1\)"):
        jax.eval_shape(Maze(size=7).reset, jax.random.key(0), task)
    with pytest.raises(
        ValueError, match=r"task.heading: got None, expected one if the agent turns"
    ):
        jax.eval_shape(Maze(size=9, heading=True).reset, jax.random.key(0), task)
    with pytest.raises(ValueError, match=r"task.heading: got None, expected one if the agent"):
        Maze(size=9, heading=True).check(task)


@pytest.mark.smoke
def test_mutation_changes_one_thing_and_leaves_a_path():
    env = Maze(size=9)
    task = env.from_text(LEVEL)
    walls = _walls(task, 9)
    mutated = jax.jit(jax.vmap(env.mutate, in_axes=(0, None)))(
        jax.random.split(jax.random.key(0), 400), task
    )
    env.check(mutated)
    toggled, exits = set(), set()
    for index in range(400):
        one = jax.tree.map(lambda leaf: leaf[index], mutated)  # noqa: B023
        places = np.argwhere(_walls(one, 9) != walls)
        exit = tuple(one.exit.tolist())
        assert len(places) + (exit != (5, 5)) <= 1
        toggled |= set(map(tuple, places.tolist()))
        exits |= {exit}
    reached = set(reference.distances(walls, (1, 1))) - {(1, 1)}
    assert exits == reached  # any square that a path leads to
    assert all(1 <= row <= 5 and 1 <= column <= 5 for row, column in toggled)
    assert (1, 4) in toggled  # a wall
    assert (1, 5) in toggled  # an open square off the path
    assert (3, 3) not in toggled  # one on the only path


def test_mutation_leaves_a_level_without_another_square_as_it_is():
    env = Maze(size=5)
    task = env.from_text("####\n#SX#\n####")
    keys = jax.random.split(jax.random.key(0), 16)
    mutated = jax.jit(jax.vmap(env.mutate, in_axes=(0, None)))(keys, task)
    jax.tree.map(np.testing.assert_array_equal, mutated, _batch(task, 16))
