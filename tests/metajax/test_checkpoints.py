"""Checkpoints come back to the bit, or are refused with the reason."""

from __future__ import annotations

import gc
import json
import random
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metajax import checkpoints, seals
from metajax.types import MetaState

CONFIG = checkpoints.fingerprint({"preset": "toy"})


def make_state(seed: int = 0, width: int = 8) -> MetaState:
    key_params, key = jax.random.split(jax.random.key(seed))
    params = {
        "layer": {"kernel": jax.random.normal(key_params, (4, width)), "bias": jnp.zeros(width)},
        "empty": jnp.zeros((0, 3)),
    }
    return MetaState(params, optax.adam(1e-3).init(params), jnp.int32(seed), key)


def abstract(state):
    return jax.eval_shape(lambda: state)


def assert_equal(left: MetaState, right: MetaState) -> None:
    chex.assert_trees_all_equal(dataclass_of_arrays(left), dataclass_of_arrays(right), strict=True)


def dataclass_of_arrays(state: MetaState) -> tuple:
    return state.params, state.opt_state, state.step, jax.random.key_data(state.key)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A directory with checkpoints of updates 10, 20 and 30."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    with checkpoints.Keeper(directory, config=CONFIG, keep=3) as keeper:
        for update in (10, 20, 30):
            keeper.save(update, make_state(update), {"env_steps": update * 100})
    return directory


@pytest.fixture
def directory(kept, tmp_path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "checkpoints"))


def newest(directory: Path, like=None, config: str = CONFIG):
    return checkpoints.newest(directory, abstract(make_state()) if like is None else like, config)


@pytest.mark.parametrize("name", ["seeds=[0]", "a*", "what?", "back\\slash"])
def test_a_path_that_would_be_taken_for_a_pattern_is_refused(tmp_path, name):
    # Orbax would lose what it wrote there, if it stops doing so, this may go.
    with pytest.raises(checkpoints.CheckpointError, match="may not have"):
        checkpoints.save(tmp_path / name / "state", make_state())
    with pytest.raises(checkpoints.CheckpointError, match="may not have"):
        checkpoints.Keeper(tmp_path / name, config=CONFIG)
    assert not any(tmp_path.iterdir())


@pytest.mark.smoke
def test_a_state_comes_back_to_the_bit_with_its_typed_key(tmp_path):
    state = make_state(3)
    checkpoints.save(tmp_path / "state", state)
    for like in (state, abstract(state)):
        loaded = checkpoints.load(tmp_path / "state", like)
        assert_equal(loaded, state)
        assert jax.tree.structure(loaded) == jax.tree.structure(state)
        assert not any(leaf.committed for leaf in jax.tree.leaves(loaded))


def test_an_existing_path_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "state"
    checkpoints.save(path, make_state(1))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        checkpoints.save(path, make_state(2))
    assert_equal(checkpoints.load(path, make_state()), make_state(1))
    checkpoints.save(path, make_state(2), overwrite=True)
    assert_equal(checkpoints.load(path, make_state()), make_state(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_crash_while_overwriting_leaves_a_state_and_the_next_save_repairs(tmp_path):
    path, old, new = (tmp_path / name for name in ("state", "state.old", "state.new"))
    checkpoints.save(path, make_state(1))
    path.rename(old)  # between the two renames, before the new one was whole
    assert_equal(checkpoints.load(path, make_state()), make_state(1))
    checkpoints.save(new, make_state(2))  # ... and after
    assert_equal(checkpoints.load(path, make_state()), make_state(2))
    new.rename(path)  # before the old one was removed
    for seed in (3, 4):
        checkpoints.save(path, make_state(seed), overwrite=True)
        assert_equal(checkpoints.load(path, make_state()), make_state(seed))
        assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("left", ["state.new", "state.old"])
def test_what_a_crash_left_is_neither_in_the_way_nor_lost(tmp_path, left, monkeypatch):
    path = tmp_path / "state"
    checkpoints.save(tmp_path / left, make_state(1))  # between the two renames
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        checkpoints.save(path, make_state(2))
    assert_equal(checkpoints.load(path, make_state()), make_state(1))

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoints, "_to_write", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(path, make_state(2), overwrite=True)
    assert_equal(checkpoints.load(path, make_state()), make_state(1))


def test_a_tree_without_arrays_is_refused(tmp_path):
    with pytest.raises(checkpoints.CheckpointError, match="no array to save"):
        checkpoints.save(tmp_path / "state", {"a": jnp.zeros((0,)), "b": None})
    assert not (tmp_path / "state").exists()


def test_a_checkpoint_loads_onto_another_topology(tmp_path):
    state = {"x": jnp.arange(8.0), "key": jax.random.key(1)}
    checkpoints.save(tmp_path / "state", state)
    mesh = jax.make_mesh((2,), ("tasks",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("tasks"))
    everywhere = jax.NamedSharding(mesh, jax.P())
    like = {
        "x": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=split),
        "key": jax.ShapeDtypeStruct((), state["key"].dtype, sharding=everywhere),
    }
    loaded = checkpoints.load(tmp_path / "state", like)
    assert loaded["x"].sharding.is_equivalent_to(split, 1)
    assert loaded["key"].sharding.is_equivalent_to(everywhere, 0)
    np.testing.assert_array_equal(loaded["x"], state["x"])
    # ... and back onto one device.
    checkpoints.save(tmp_path / "split", loaded)
    back = checkpoints.load(tmp_path / "split", jax.eval_shape(lambda: state))
    np.testing.assert_array_equal(back["x"], state["x"])


def test_the_newest_is_found_with_its_progress(directory):
    found = newest(directory)
    assert found is not None
    assert (found.update, found.progress, found.refused) == (30, {"env_steps": 3000}, {})
    assert_equal(checkpoints.load(found.path, make_state()), make_state(30))


def test_a_directory_without_checkpoints_has_no_newest(tmp_path):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "missing") is None


def test_only_the_last_few_are_kept(directory):
    with checkpoints.Keeper(directory, config=CONFIG, keep=2) as keeper:
        keeper.save(40, make_state(40), {})
    assert sorted(path.name for path in directory.iterdir()) == ["30", "40"]


def test_there_is_a_whole_checkpoint_while_the_next_is_not_sealed(directory, monkeypatch):
    with checkpoints.Keeper(directory, config=CONFIG, keep=1) as keeper:
        keeper.save(40, make_state(40), {})
    monkeypatch.setattr(seals, "seal", lambda *_: None)  # killed before
    with checkpoints.Keeper(directory, config=CONFIG, keep=1) as keeper:
        keeper.save(50, make_state(50), {})
    assert newest(directory).update == 40


def flip(file: Path, where: float) -> None:
    data = bytearray(file.read_bytes())
    data[min(int(where * len(data)), len(data) - 1)] ^= 1 << random.Random(where).randrange(8)
    file.write_bytes(data)


DAMAGE = {
    "flipped": lambda file: flip(file, 0.6),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damaged_file_is_noticed_and_the_one_before_is_used(directory, damage):
    files = [file for file in (directory / "30").rglob("*") if file.is_file()]
    files = [file for file in files if file.stat().st_size]
    assert len(files) >= 6
    for file in files:
        whole = file.read_bytes()
        DAMAGE[damage](file)
        found = newest(directory)
        assert found is not None
        assert found.update == 20
        assert "damaged" in found.refused["30"] or "no seal" in found.refused["30"]
        with pytest.raises(checkpoints.CheckpointError):
            checkpoints.load(directory / "30", make_state())
        file.write_bytes(whole)
    assert newest(directory).update == 30


def test_a_half_written_checkpoint_is_passed_over(directory):
    (directory / "30" / checkpoints.SEAL).unlink()
    (directory / "40.orbax-checkpoint-tmp").mkdir()
    found = newest(directory)
    assert found.update == 20
    assert "half-written" in found.refused["30"]


def test_of_a_run_the_newest_whole_checkpoint_is_loaded(directory):
    run = directory.parent / "run"
    run.mkdir()
    directory.rename(run / "checkpoints")
    (run / "checkpoints" / "30" / checkpoints.SEAL).unlink()
    for folder in (run, run / "checkpoints"):
        loaded = checkpoints.load(folder, make_state(0))
        chex.assert_trees_all_equal(loaded.params, make_state(20).params)
    with pytest.raises(checkpoints.CheckpointError, match=r"no usable checkpoint in .*structure"):
        checkpoints.load(run, {"another": jnp.zeros(2)})


def test_where_nothing_was_ever_finished_there_is_nothing_to_refuse(directory):
    for name in ("10", "20", "30"):
        (directory / name / checkpoints.SEAL).unlink()
    assert newest(directory) is None


def test_where_every_checkpoint_is_damaged_each_reason_is_given(directory):
    for name in ("10", "20", "30"):
        flip(directory / name / checkpoints.SEAL, 0.5)
    before = sorted(directory.rglob("*"))
    with pytest.raises(checkpoints.CheckpointError, match=r"30: .*damaged.*20: .*damaged"):
        newest(directory)
    assert sorted(directory.rglob("*")) == before


def test_another_configuration_is_refused(directory):
    with pytest.raises(checkpoints.CheckpointError, match="another configuration"):
        newest(directory, config=checkpoints.fingerprint({"preset": "other"}))


def test_another_structure_is_refused_and_named(directory):
    like = abstract(make_state(width=9))
    with pytest.raises(checkpoints.CheckpointError, match=r"bias: float32\[8\], expected .*9"):
        newest(directory, like)
    with pytest.raises(checkpoints.CheckpointError, match=r"expected nothing"):
        checkpoints.load(directory / "30", {"params": abstract(make_state()).params})


def test_a_foreign_seal_is_refused(directory):
    sealed = json.loads((directory / "30" / checkpoints.SEAL).read_text())
    sealed["record"]["config"] = "forged"
    (directory / "30" / checkpoints.SEAL).write_text(json.dumps(sealed))
    assert "was changed" in newest(directory).refused["30"]


def test_refused_checkpoints_are_moved_out_of_the_way_not_deleted(directory):
    for _ in range(2):
        flip(directory / "30" / checkpoints.SEAL, 0.5)
        with checkpoints.Keeper(directory, config=CONFIG) as keeper:
            keeper.set_aside(20)
            assert newest(directory).update == 20
            keeper.save(30, make_state(31), {})
        assert newest(directory).update == 30
    aside = directory.with_name("checkpoints-refused")
    assert sorted(path.name for path in aside.iterdir()) == ["30", "30.1"]


def test_two_processes_cannot_keep_one_directory(directory):
    first = checkpoints.Keeper(directory, config=CONFIG)
    with pytest.raises(checkpoints.CheckpointError, match="another process"):
        checkpoints.Keeper(directory, config=CONFIG)
    first.close()
    checkpoints.Keeper(directory, config=CONFIG).close()


def test_what_every_device_has_is_written_by_one(tmp_path):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere, parted = (jax.NamedSharding(mesh, spec) for spec in (jax.P(), jax.P("i")))
    state = {
        "w": jax.device_put(jnp.arange(4.0), everywhere),
        "key": jax.device_put(jax.random.key(3), everywhere),
        "parts": jax.device_put(jnp.arange(4.0), parted),
    }
    written = checkpoints._to_write(state)
    devices = {name: len(leaf.sharding.device_set) for name, leaf in written.items()}
    assert devices == {"w": 1, "key": 1, "parts": 2}
    checkpoints.save(tmp_path / "one", state)
    loaded = checkpoints.load(tmp_path / "one", state)
    for name, leaf in state.items():
        assert loaded[name].sharding == leaf.sharding
        assert jnp.array_equal(loaded[name], leaf)


def test_a_failed_save_is_reported_by_the_next_call(directory, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seals, "seal", full)
    keeper = checkpoints.Keeper(directory, config=CONFIG)
    keeper.save(40, make_state(40), {})
    with pytest.raises(OSError, match="No space left"):
        keeper.close()
    assert newest(directory).update == 30


def test_a_failed_save_is_reported_by_the_next_save(directory, monkeypatch):
    whole = seals.seal

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seals, "seal", full)
    with checkpoints.Keeper(directory, config=CONFIG) as keeper:
        keeper.save(40, make_state(40), {})
        with pytest.raises(OSError, match="No space left"):
            keeper.save(50, make_state(50), {})
        monkeypatch.setattr(seals, "seal", whole)
        keeper.save(50, make_state(50), {})
    assert newest(directory).update == 50


# Orbax's threads leave event loops behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_error_and_loses_nothing(directory):
    resource = pytest.importorskip("resource")  # a limit on files stands for a disk's
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save():
        with checkpoints.Keeper(directory, config=CONFIG) as keeper:
            keeper.save(40, make_state(40), {})

    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OSError, match=r"^could not write a checkpoint: .*File too large"):
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    gc.collect()
    assert newest(directory).update == 30
    save()
    assert newest(directory).update == 40


def test_checkpoints_are_in_the_order_of_their_numbers(directory):
    (directory / "30").rename(directory / "100")
    assert newest(directory).update == 100


def test_a_fingerprint_does_not_depend_on_the_order():
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert checkpoints.fingerprint(one) == checkpoints.fingerprint(other)


def test_what_would_have_another_fingerprint_in_another_process_is_refused():
    plain = {"rates": [0.1, 0.2], "folder": "runs"}
    arrays = {"rates": np.array([0.1, 0.2]), "folder": Path("runs")}
    assert checkpoints.fingerprint(arrays) == checkpoints.fingerprint(plain)
    with pytest.raises(ValueError, match="config: expected numbers, text, lists and dicts, got a"):
        checkpoints.fingerprint({"activation": jnp.tanh})


# Orbax's threads leave event loops behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_fails_is_one_error(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        checkpoints.save(tmp_path / "file" / "state", make_state(1))
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OSError, match=r"^could not write a checkpoint: .*File too large"):
            checkpoints.save(tmp_path / "state", make_state(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    gc.collect()
    assert not caplog.messages


def test_another_format_is_refused(directory, monkeypatch):
    monkeypatch.setattr(seals, "FORMAT", 2)
    with pytest.raises(checkpoints.CheckpointError, match="it has format 1, this version reads 2"):
        newest(directory)


def test_what_is_set_aside_takes_the_place_of_nothing(directory):
    aside = directory.with_name(f"{directory.name}-refused")
    for place in ("30.1", "300"):
        (aside / place).mkdir(parents=True)
    with checkpoints.Keeper(directory, config=CONFIG) as keeper:
        for expected in ("30", "30.2"):
            if not (directory / "30").exists():
                shutil.copytree(directory / "20", directory / "30")
            keeper.set_aside(20)
            assert (aside / expected).is_dir()
    assert {path.name for path in aside.iterdir()} == {"30", "30.1", "30.2", "300"}
