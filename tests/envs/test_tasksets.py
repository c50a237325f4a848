"""Sets of tasks: identity by content, splits that do not leak."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_task import anything

import envs
from envs import Gridworld, Informed, Maze, PointNavigation, TaskSet, taskfiles
from envs.point import PointTask
from envs.splits import content_hash, has_sides, sampler_of_side
from envs.tasksets import described

ENV = envs.make("point")
GRIDWORLD = envs.make("gridworld")
GOAL = jax.jit(GRIDWORLD.sample_task)(jax.random.key(0))


@pytest.fixture(scope="module")
def longer():
    """Of the same key, drawn in other chunks, and with what was drawn twice."""
    return TaskSet.make(ENV, jax.random.key(0), 3000, chunk=1000, unique=False)


@dataclasses.dataclass(frozen=True)
class Precise:
    """One task, in numpy's doubles and a number of Python's."""

    def sample_task(self, key):
        del key
        return {"gains": np.full(3, 0.1), "steps": 4}


class Keyed:
    """Its tasks hold a key, which is no number."""

    def sample_task(self, key):
        return {"key": key}


def identities(tasks):
    return {tuple(words) for words in np.asarray(tasks.hashes).tolist()}


# Drawing, sampling ------------------------------------------------------------------------------


def test_a_set_holds_what_the_environment_draws_whatever_the_count_and_the_chunk(points, longer):
    first, again = np.arange(100), longer.get(np.arange(100))
    chex.assert_trees_all_equal(again, points.get(first))
    alone = jax.jit(ENV.sample_task)(jax.random.fold_in(jax.random.key(0), 7))
    chex.assert_trees_all_equal(alone, points.get(7))


@pytest.mark.smoke
def test_equal_tasks_are_kept_once_unless_asked_for(goals):
    assert len(goals) == 21
    assert len({tuple(goal) for goal in goals.tasks.goal.tolist()}) == 21
    drawn = TaskSet.make(GRIDWORLD, jax.random.key(0), 500, unique=False)
    assert len(drawn) == 500
    chex.assert_trees_all_equal(drawn.get(0), goals.get(0))
    assert identities(drawn) == identities(goals)


@pytest.mark.smoke
def test_a_set_is_sampled_uniformly_inside_jit(goals):
    count = 4000
    keys = jax.random.split(jax.random.key(1), count)
    tasks = jax.jit(lambda tasks, keys: jax.vmap(tasks.sample)(keys))(goals, keys)
    found, counts = np.unique(np.asarray(tasks.goal), axis=0, return_counts=True)
    assert len(found) == 21
    assert np.abs(counts / count - 1 / 21).max() < 4.5 * np.sqrt(1 / 21 / count)
    _, timestep = jax.jit(lambda tasks, key: GRIDWORLD.reset(key, tasks.sample(key)))(
        goals, jax.random.key(2)
    )
    assert timestep.observation.shape == GRIDWORLD.observation_space.shape


def test_a_set_is_equal_to_itself_alone_and_may_be_a_key(goals):
    other = goals.filter(jnp.ones(21, bool))
    assert goals == goals
    assert goals != other
    assert len({goals: 0, other: 1}) == 2


def test_inside_jit_a_mask_does_what_a_split_does(goals):
    """Each task of the side is drawn as often as another, and none beside it."""

    @jax.jit
    def draw(tasks, keys):
        where = tasks.side(0.3)
        draws = jax.vmap(lambda key: content_hash(tasks.sample(key, where)))(keys)
        last = tasks.sample(keys[0], where=jnp.zeros(len(tasks), bool))
        return draws, content_hash(last)

    hashes, last = draw(goals, jax.random.split(jax.random.key(0), 2000))
    found, counts = np.unique(hashes, axis=0, return_counts=True)
    first = goals.split(0.3)[0]
    assert {tuple(words) for words in found.tolist()} == identities(first)
    assert np.abs(counts - 2000 / len(first)).max() < 4.5 * np.sqrt(2000 / len(first))
    np.testing.assert_array_equal(last, goals.hashes[-1])
    with pytest.raises(ValueError, match=r"^where: got 'bool \[20\]', expected bool \[21\]$"):
        goals.sample(jax.random.key(0), jnp.ones(20, bool))


def test_get_gives_one_task_or_several_and_refuses_what_is_not_there(goals):
    chex.assert_trees_all_equal(goals.get(-1), goals.get(20))
    chex.assert_trees_all_equal(goals.get(jnp.array([3, 3])).goal[1], goals.get(3).goal)
    with pytest.raises(ValueError, match="index: got 21, expected an integer from -21 to 20"):
        goals.get(21)


def test_a_shuffle_keeps_every_task_beside_its_hash(goals):
    shuffled = jax.jit(TaskSet.shuffle)(goals, jax.random.key(3))
    assert identities(shuffled) == identities(goals)
    assert not (shuffled.hashes == goals.hashes).all()
    np.testing.assert_array_equal(shuffled.hashes, jax.vmap(content_hash)(shuffled.tasks))


def test_a_filter_takes_a_mask_or_a_function_of_a_task(goals):
    near = goals.filter(lambda task: task.goal.sum() <= 3)
    mask = goals.tasks.goal.sum(axis=1) <= 3
    assert 0 < len(near) < 21
    chex.assert_trees_all_equal(near, goals.filter(mask))
    empty = goals.filter(jnp.zeros(21, bool))
    assert len(empty) == 0
    with pytest.raises(ValueError, match="tasks: got 0, expected a set that is not empty"):
        empty.sample(jax.random.key(0))
    for wrong in (mask[:-1], mask.astype(jnp.float32), lambda task: task.goal > 2):
        with pytest.raises(ValueError, match=r"keep: got .*, expected bool \[21\]"):
            goals.filter(wrong)


# Identity, splits -------------------------------------------------------------------------------


@pytest.mark.smoke
def test_the_hash_of_a_task_is_the_same_everywhere():
    assert content_hash(anything()).tolist() == [49298060, 99784570]
    assert jax.jit(content_hash)(anything()).tolist() == [49298060, 99784570]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Maze(size=5).from_text("#####\n#S.X#\n#####"), [3079661208, 4013056437]),
        (PointTask(jnp.array([0.5, -0.25]), jnp.int32(9)), [2112382160, 2855446680]),
    ],
    ids=["maze", "point"],
)
def test_a_task_of_ours_keeps_its_side_in_later_versions(task, expected):
    assert content_hash(task).tolist() == expected


def test_a_task_is_hashed_as_a_set_keeps_it(tmp_path):
    """In numpy or Python it falls on the side that it has when its file is read."""
    sample = Precise().sample_task
    drawn = TaskSet.make(Precise(), jax.random.key(0), 50)
    drawn.save(tmp_path / "precise.npz")
    loaded = TaskSet.load(tmp_path / "precise.npz", Precise())
    np.testing.assert_array_equal(drawn.hashes, loaded.hashes)
    np.testing.assert_array_equal(content_hash(sample(jax.random.key(0))), drawn.hashes[0])
    assert content_hash({"steps": 3}).tolist() == content_hash({"steps": np.int32(3)}).tolist()
    kept = sampler_of_side(sample, 0.5, first=bool(drawn.side(0.5)[0]))(jax.random.key(1))
    chex.assert_trees_all_equal(kept, drawn.get(0))


def test_the_hash_of_a_batch_is_that_of_each_task(points):
    for index in (0, 1, -1):
        np.testing.assert_array_equal(content_hash(points.get(index)), points.hashes[index])


def test_every_bit_of_a_task_changes_half_of_its_hash():
    task = np.random.default_rng(0).integers(2**32, size=64, dtype=np.uint32)
    flips = np.uint32(1) << np.arange(32, dtype=np.uint32)
    flipped = task ^ np.kron(np.eye(64, dtype=np.uint32), flips[:, None])
    hashes = np.asarray(jax.jit(jax.vmap(content_hash))(np.vstack([task, flipped])))
    changed = hashes[1:] ^ hashes[0]
    bits = np.unpackbits(changed.view(np.uint8), axis=1)
    assert abs(bits.mean() - 0.5) < 0.01
    # Of 2048 flips each bit of the hash: four and a half standard deviations.
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.05


def test_tasks_that_differ_little_do_not_share_a_hash():
    """All pairs of small numbers at all pairs of places: where a weak hash would collide."""
    place, other = np.triu_indices(24, 1)
    tasks = np.zeros((len(place), 16, 16, 24), np.int32)
    value = np.arange(16)
    tasks[np.arange(len(place)), :, :, place] += value[None, :, None]
    tasks[np.arange(len(place)), :, :, other] += value[None, None, :]
    tasks = np.unique(tasks.reshape(-1, 24), axis=0)
    hashes = np.asarray(jax.jit(jax.vmap(content_hash))(jnp.asarray(tasks)))
    assert len(np.unique(hashes, axis=0)) == len(tasks) > 50_000
    # Half of the bits alone are a hash of 32: some 0.4 pairs by chance.
    for half in hashes.T:
        assert len(np.unique(half)) >= len(tasks) - 5


def test_dtype_shape_and_the_sign_of_zero_are_content():
    zeros = [
        jnp.zeros((4,), jnp.int32),
        jnp.zeros((4,), jnp.uint32),
        jnp.zeros((4,), jnp.float32),
        -jnp.zeros((4,), jnp.float32),
        jnp.zeros((2, 2), jnp.int32),
        jnp.zeros((5,), jnp.int32),
        [jnp.zeros((2,), jnp.int32), jnp.zeros((2,), jnp.int32)],
    ]
    assert len({tuple(content_hash(task).tolist()) for task in zeros}) == len(zeros)


@pytest.mark.smoke
def test_a_split_does_not_leak_when_the_set_is_drawn_again_longer_shuffled_or_filtered(
    points, longer
):
    train, test = points.split(0.8)
    assert not identities(train) & identities(test)
    assert identities(train) | identities(test) == identities(points)
    assert abs(len(train) / len(points) - 0.8) < 4 * np.sqrt(0.8 * 0.2 / len(points))
    for other in (
        longer,
        points.shuffle(jax.random.key(1)),
        points.filter(np.arange(len(points)) % 3 == 0),
        TaskSet.of(ENV, points.tasks),
    ):
        again = other.split(0.8)
        assert identities(again[0]) & identities(points) <= identities(train)
        assert identities(again[1]) & identities(points) <= identities(test)


def test_a_greater_share_only_gains_and_another_salt_splits_anew(points):
    smaller, larger = (identities(points.split(share)[0]) for share in (0.3, 0.5))
    assert smaller < larger
    assert [len(part) for part in points.split(1.0)] == [len(points), 0]
    assert [len(part) for part in points.split(0)] == [0, len(points)]
    # Of the first half, another salt takes a half.
    half, _ = points.split(0.5)
    quarter, _ = half.split(0.5, salt=1)
    assert abs(len(quarter) / len(half) - 0.5) < 4 * 0.5 / np.sqrt(len(half))
    assert len(half.split(0.5)[1]) == 0


def test_a_side_is_empty_where_tasks_are_few_and_never_where_they_are_many():
    few, many = Gridworld().sample_task, PointNavigation().sample_task
    assert has_sides(few, 0.5)
    assert not has_sides(few, 0.95)  # none of its 21 goals
    assert has_sides(many, 0.9999)
    with pytest.raises(ValueError, match="share: got 1"):
        has_sides(many, 1.0)


def test_a_sampler_of_a_side_draws_what_the_split_has_there():
    env = Maze(size=5)  # 2 by 2 cells: a handful of tasks
    everything = TaskSet.make(env, jax.random.key(0), 500)
    sides = everything.split(0.6, salt=3)
    keys = jax.random.split(jax.random.key(1), 300)
    for first, side in zip((True, False), sides, strict=True):
        sample = sampler_of_side(env.sample_task, 0.6, first=first, salt=3)
        drawn = TaskSet.of(env, jax.jit(jax.vmap(sample))(keys))
        found = {tuple(row) for row in np.asarray(drawn.hashes).tolist()}
        assert found == {tuple(row) for row in np.asarray(side.hashes).tolist()}


def test_a_list_of_tasks_makes_a_set():
    env = Maze(size=5)
    rooms = [env.from_text(f"#####\n#S{way}#\n#####\n#####\n#####") for way in (".X", "X.")]
    made = TaskSet.of(env, rooms)
    assert len(made) == 2
    for index, room in enumerate(rooms):
        assert np.array_equal(made.hashes[index], content_hash(room))
    with pytest.raises(ValueError, match=r"task 1: got .*, expected .*'exit'"):
        TaskSet.of(env, [rooms[0], GOAL])
    with pytest.raises(ValueError, match=r"tasks: got \[\], expected one or more"):
        TaskSet.of(env, [])


def test_what_is_no_key_is_told():
    for key in (0, jax.random.split(jax.random.key(0), 2), jax.random.PRNGKey(0)):
        with pytest.raises(ValueError, match=r"key: got .*, expected one typed key"):
            TaskSet.make(ENV, key, 3)


def test_a_field_is_the_same_as_a_number_of_numpy_or_of_python(tmp_path):
    made = TaskSet.make(
        Maze(size=5, slip=np.float32(0.3), horizon=np.int64(9)), jax.random.key(0), 1
    )
    made.save(tmp_path / "slips")
    assert len(TaskSet.load(tmp_path / "slips", Maze(size=5, slip=0.3, horizon=9))) == 1
    with pytest.raises(ValueError, match=r"Maze with slip 0\.3, expected 0\.9"):
        TaskSet.load(tmp_path / "slips", Maze(size=5, slip=np.float32(0.9), horizon=9))


def test_functions_are_told_by_their_names():
    def half(task):
        return task.goal / 2

    def twice(task):
        return task.goal * 2

    assert len({described(Informed(ENV, tell)) for tell in (None, ENV.tell, half, twice)}) == 4


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: TaskSet.make(GRIDWORLD, jax.random.key(0), 0), "count: got 0, expected"),
        (lambda: TaskSet.make(GRIDWORLD, jax.random.key(0), 9, chunk=0), "chunk: got 0, expected"),
        (
            lambda: TaskSet.of(ENV, TaskSet.make(GRIDWORLD, jax.random.key(0), 2).tasks),
            r"tasks: got .*int32.*, expected one or more of .*'goal', 'float32', \[2, 2\]",
        ),
        (
            lambda: TaskSet.of(GRIDWORLD, jax.tree.map(lambda leaf: leaf[None][:0], GOAL)),
            r"tasks: got .*\[0, 2\].*, expected one or more of",
        ),
        (lambda: TaskSet.make(Keyed(), jax.random.key(0), 9), "task leaf key: got 'key<fry>'"),
        (lambda: has_sides(Keyed().sample_task, 0.5), "task leaf key: got 'key<fry>'"),
        (
            lambda: sampler_of_side(Keyed().sample_task, 0.5, first=True),
            "task leaf key: got 'key<fry>'",
        ),
        (lambda: content_hash({"wave": jnp.complex64(1)}), "task leaf wave: got 'complex64'"),
        (lambda: taskfiles.form_of({"a": jax.random.key(0)}), "task leaf a: got 'key<fry>'"),
        (lambda: taskfiles.form_of(None), "task: got None, expected a pytree with an array in it"),
    ],
)
def test_what_makes_no_set_is_refused_in_one_line(refused, message):
    with pytest.raises(ValueError, match=message) as refusal:
        refused()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(share=1.5), "share: got 1.5, expected a number from 0 to 1"),
        (dict(share=float("nan")), "share: got nan"),
        (dict(share=0.5, salt=-1), "salt: got -1, expected an integer from 0 to"),
    ],
)
def test_a_split_out_of_range_is_refused(goals, fields, message):
    with pytest.raises(ValueError, match=message):
        goals.split(**fields)
    with pytest.raises(ValueError, match="tasks: got 0, expected at least one to write"):
        goals.split(0)[0].save("nowhere")


@pytest.mark.parametrize("share", [0.0, 1.0, -1, 2, 1e-17, 5e-4])
def test_a_share_that_leaves_a_side_empty_has_no_sampler(share):
    with pytest.raises(ValueError, match="share: got"):
        sampler_of_side(Maze().sample_task, share, first=True)
