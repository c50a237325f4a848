"""Files of task sets: whole, to the bit, or refused."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_task import anything
from hypothesis import given
from hypothesis import strategies as st

import envs
from envs import TaskSet, taskfiles
from envs.taskfiles import read_tasks

ENV = envs.make("point")
GRIDWORLD = envs.make("gridworld")
FORM = jax.eval_shape(ENV.sample_task, jax.random.key(0))


@pytest.fixture
def file(points, tmp_path):
    points.save(tmp_path / "points.npz")
    return tmp_path / "points.npz"


@pytest.mark.smoke
def test_a_set_comes_back_from_its_file_to_the_bit(points, file):
    for like in (ENV, FORM, points.get(0)):
        chex.assert_trees_all_equal(TaskSet.load(file, like), points)
    assert TaskSet.load(file, ENV).environment == points.environment
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_tasks_of_any_kind_come_back_to_the_bit(tmp_path):
    stacked = jax.vmap(anything)(jnp.arange(19))
    taskfiles.write_tasks(tmp_path / "any", stacked, "{}")
    loaded, _ = read_tasks(tmp_path / "any", anything(), None)
    assert jax.tree.structure(loaded) == jax.tree.structure(stacked)
    for found, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(stacked), strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


def test_a_file_holds_only_the_bits_that_differ(goals, tmp_path):
    """A row and a column of three bits each; walls, start and horizon are the same for all."""
    goals.save(tmp_path / "goals.npz")
    with np.load(tmp_path / "goals.npz", allow_pickle=False) as archive:
        assert archive["planes"].shape == (6, 3)


@pytest.fixture(scope="module")
def whole(points, tmp_path_factory):
    """A small file: its path, its bytes, its tasks."""
    path = tmp_path_factory.mktemp("files") / "small"
    tasks = points.get(jnp.arange(5))
    taskfiles.write_tasks(path, tasks, points.environment)
    return path, path.read_bytes(), tasks


def test_a_file_cut_short_anywhere_is_refused(whole):
    path, content, _ = whole
    for length in range(0, len(content), 7):
        path.with_name("short").write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a task set") as refusal:
            read_tasks(path.with_name("short"), FORM, None)
        assert "\n" not in str(refusal.value)


@given(st.data())
def test_a_damaged_file_is_refused_or_the_damage_is_outside_its_content(whole, data):
    path, content, tasks = whole
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[place] ^= data.draw(st.integers(1, 255))
    path.with_name("damaged").write_bytes(damaged)
    try:
        found, _ = read_tasks(path.with_name("damaged"), FORM, None)
    except ValueError as error:
        found, refusal = tasks, str(error)
    else:
        refusal = "not needed"
    assert "\n" not in refusal
    chex.assert_trees_all_equal(found, tasks)


def rewritten(file, **changes):
    """The archive with members changed, and no seal to match."""
    with np.load(file) as archive:
        content = {**archive, **changes}
    np.savez(file, **content)


def test_what_is_not_a_task_set_of_ours_is_refused_with_the_reason(file):
    with np.load(file) as archive:
        header = json.loads(archive["header"].tobytes())
    header["format"] += 1
    rewritten(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8))
    with pytest.raises(ValueError, match=r"points.npz: of format 2, expected 1$"):
        TaskSet.load(file, ENV)
    header.update(format=1, count=1)
    rewritten(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8))
    with pytest.raises(ValueError, match=r"damaged \(its SHA-256 does not match\)"):
        TaskSet.load(file, ENV)
    np.savez(file, walls=np.zeros(3))
    with pytest.raises(ValueError, match=r"not a task set, or damaged .*header"):
        TaskSet.load(file, ENV)
    file.write_text("walls")
    with pytest.raises(ValueError, match="not a task set, or cut short"):
        TaskSet.load(file, ENV)
    with pytest.raises(FileNotFoundError):
        TaskSet.load(file.with_name("nothing"), ENV)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(count=10_000), r"planes has shape \(\d+, 1\), expected \(\d+, 1250\) for 10000"),
        (dict(count=-1), "count: got -1, expected an integer of at least 1"),
        (dict(leaves=None), "leaves: got None, expected a list"),
        (dict(leaves=[3, "horizon"]), r"a task has 3, expected goal float32\[2\]"),
        (dict(environment=None), "environment: got None, expected a description"),
        (dict(environment={}), "tasks of None, expected PointNavigation"),
        (dict(environment={"class": "PointNavigation", "fields": 3}), "with horizon no such field"),
        (dict(planes=lambda planes: planes[:-1]), r"planes has shape .* for 5 tasks"),
        (dict(first=lambda first: first[:-1]), r"first has shape \(11,\), expected \(12,\)"),
        (dict(differs=lambda differs: differs.astype(float)), "differs: got 'float64'"),
    ],
)
def test_what_contradicts_itself_is_refused_though_its_digest_fits(whole, changes, message):
    path = whole[0]
    with np.load(path) as archive:
        content = dict(archive)
    header = json.loads(content["header"].tobytes())
    for name, change in changes.items():
        if callable(change):
            content[name] = change(content[name])
        else:
            header[name] = change
    content["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    content["sha256"] = taskfiles._digest(content)
    with open(path.with_name("forged"), "wb") as file:
        np.savez(file, **content)
    with pytest.raises(ValueError, match=message) as refusal:
        TaskSet.load(path.with_name("forged"), ENV)
    assert str(refusal.value).startswith(str(path.with_name("forged")))
    assert "\n" not in str(refusal.value)


def test_what_is_no_file_or_no_environment_is_refused(file):
    with pytest.raises(ValueError, match=r": a directory, expected a file$"):
        TaskSet.load(file.parent, ENV)
    with pytest.raises(ValueError, match="task: got 3, expected an array"):
        TaskSet.load(file, 3)


def test_pickled_content_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    trap = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "trap.npz", **dict.fromkeys(("header", "first", "sha256"), trap))
    with pytest.raises(ValueError, match="not a task set"):
        TaskSet.load(tmp_path / "trap.npz", ENV)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (GRIDWORLD, "tasks of PointNavigation, expected Gridworld"),
        (envs.make("point", horizon=7), "of PointNavigation with horizon 100, expected 7"),
        (
            dataclasses.replace(FORM, goal=jnp.zeros(3, jnp.int8)),
            r"a task has goal float32\[2\], expected goal int8\[3\]",
        ),
        (dataclasses.replace(FORM, horizon=None), "a task has 2 leaves, expected 1"),
    ],
)
def test_tasks_of_another_environment_are_refused(file, like, message):
    with pytest.raises(ValueError, match=message) as refusal:
        TaskSet.load(file, like)
    assert str(refusal.value).startswith(f"{file}: ")


class Bare:
    """An environment that is no dataclass: its class alone describes it."""

    def sample_task(self, key):
        return ENV.sample_task(key)


def test_tasks_of_an_environment_without_fields_come_back(tmp_path):
    tasks = TaskSet.make(Bare(), jax.random.key(0), 5)
    tasks.save(tmp_path / "bare.npz")
    chex.assert_trees_all_equal(TaskSet.load(tmp_path / "bare.npz", Bare()), tasks)
    with pytest.raises(ValueError, match="tasks of Bare, expected PointNavigation"):
        TaskSet.load(tmp_path / "bare.npz", ENV)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(goals, file, monkeypatch):
    before = file.read_bytes()

    def full(file, **content):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        goals.save(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
