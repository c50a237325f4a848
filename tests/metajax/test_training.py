"""A run is one program, and being stopped anywhere leaves no trace in its results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from metajax import checkpoints, loggers, streams, training, updates
from metajax.mapping import Mapping, map_tasks, task_mesh

SETTINGS = {"updates": 45, "seed": 3, "log_every": 4, "checkpoint_every": 8, "progress": False}


def lines(run: Path) -> list[dict]:
    """The metrics of a run without their clock fields."""
    rows = loggers.read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in loggers.CLOCK_FIELDS} for row in rows]


def steps(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    yield from toy.compiled_once(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed: its folder and its final parameters."""
    run = tmp_path_factory.mktemp("whole")
    return run, training.train(toy.learner(), run=run, **SETTINGS).params


def assert_goes_on_to_the_same_end(run: Path, whole) -> None:
    state = training.train(toy.learner(), run=run, resume=True, **SETTINGS)
    chex.assert_trees_all_equal(state.params, whole[1], strict=True)
    assert lines(run) == lines(whole[0])
    restored, found = training.restore(toy.learner(), run)
    assert found.update == SETTINGS["updates"]
    chex.assert_trees_all_equal(restored.params, whole[1], strict=True)


def test_chunks_add_up_to_one_update_after_another(whole):
    learner = toy.learner()
    state = learner.init(streams.key_stream(SETTINGS["seed"], "training"))
    update = jax.jit(learner.update)
    rows = []
    for _ in range(SETTINGS["updates"]):
        state, metrics = update(state)
        rows.append(metrics)
    chex.assert_trees_all_close(state.params, whole[1], rtol=1e-6)
    logged = lines(whole[0])
    assert [row["update"] for row in logged] == [*range(4, 45, 4), 45]
    for row in logged:
        first = (row["update"] - 1) // 4 * 4
        chunk = rows[first : row["update"]]
        mean = np.mean([metrics["score_after"] for metrics in chunk])
        np.testing.assert_allclose(row["score_after"], mean, rtol=1e-5)
        assert row["env_steps"] == 4000 * row["update"]


def test_the_chunk_length_does_not_change_the_parameters(whole):
    settings = {**SETTINGS, "log_every": 7}
    state = training.train(toy.learner(), **settings)
    chex.assert_trees_all_equal(state.params, whole[1], strict=True)


def test_the_last_few_checkpoints_and_the_final_state_are_kept(whole):
    assert steps(whole[0]) == [32, 40, 45]


def test_environment_steps_are_counted_beyond_32_bits():
    rows = []
    learner = toy.learner()

    def update(state):
        state, metrics = learner.update(state)
        return state, {**metrics, "env_steps": jnp.int32(2**31 - 1)}

    training.train(
        learner._replace(update=update), updates=10, log_every=5, progress=False, on_log=rows.append
    )
    assert [row["env_steps"] for row in rows] == [5 * (2**31 - 1), 10 * (2**31 - 1)]


@pytest.mark.parametrize(
    ("name", "why"),
    [("bad", "training"), ("score_before", "rewards or targets are not, or training")],
)
def test_nan_and_infinity_are_null_in_the_log_and_told_once(tmp_path, caplog, name, why):
    learner = toy.learner()

    def update(state):
        state, metrics = learner.update(state)
        return state, {**metrics, name: jnp.float32(jnp.nan), "huge": jnp.float32(jnp.inf)}

    training.train(learner._replace(update=update), updates=3, run=tmp_path, progress=False)
    rows = lines(tmp_path)
    assert len(rows) == 3
    assert rows[0][name] is rows[0]["huge"] is None
    (told,) = caplog.messages
    assert told.startswith(f"{name} is not finite at update 1: {why} diverged")


def test_a_state_spread_over_devices_is_compiled_for_once(tmp_path):
    learner = toy.learner()
    mapped = map_tasks(
        lambda params, key: jnp.sum(params["w"] * jax.random.normal(key, (2,))),
        Mapping(task_mesh(2)),
    )

    def update(state):
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 4)
        shift = jnp.mean(mapped(state.params, keys))
        params = {"w": state.params["w"] * 0.9 + shift}
        return (
            type(state)(params, state.opt_state, state.step + 1, state.key),
            {"loss": shift},
        )

    spread = learner._replace(update=update)
    settings = {"updates": 6, "log_every": 2, "checkpoint_every": 2, "progress": False}
    state = training.train(spread, run=tmp_path, **settings)
    assert len(state.params["w"].sharding.device_set) == 2
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    again = training.train(spread, run=tmp_path, resume=True, **settings)
    chex.assert_trees_all_equal(again.params, state.params, strict=True)


# Stopped and resumed --------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
import toy
from metajax import training
training.train(toy.learner(work={work}), run=sys.argv[1], **{settings!r})
"""


def start(run: Path, work: int) -> subprocess.Popen:
    here = str(Path(__file__).parent)
    script = SCRIPT.format(here=here, settings=SETTINGS, work=work)
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    return subprocess.Popen([sys.executable, "-c", script, str(run)], env=environment)


def wait_for_update(run: Path, update: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not any(row["update"] >= update for row in loggers.read_metrics(run / "metrics.jsonl")):
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kill_9_and_resume_equals_never_killed_to_the_bit(tmp_path, whole):
    process = start(tmp_path, work=3000)
    wait_for_update(tmp_path, 16, process)
    time.sleep(0.05)  # somewhere in the next chunk, or in the save
    process.kill()
    process.wait()
    assert len(lines(tmp_path)) < len(lines(whole[0]))
    assert_goes_on_to_the_same_end(tmp_path, whole)


@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.77, 1.0])
def test_any_prefix_of_the_log_with_any_checkpoint_leads_to_the_same_end(tmp_path, whole, share):
    """What a kill can leave: a torn log, a half-written checkpoint, the ones before."""
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    for newest in [45, 40, 32][: 1 + int(3 * share)]:
        (run / "checkpoints" / str(newest) / checkpoints.SEAL).unlink()
    log = run / "metrics.jsonl"
    left = max((step for step in (32, 40) if checkpoint_is_whole(run, step)), default=0)
    text = log.read_bytes()
    needed = sum(len(line) for line in text.splitlines(True) if json.loads(line)["update"] <= left)
    log.write_bytes(text[: needed + int(share * (len(text) - needed))])
    assert_goes_on_to_the_same_end(run, whole)


def checkpoint_is_whole(run: Path, step: int) -> bool:
    return (run / "checkpoints" / str(step) / checkpoints.SEAL).exists()


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, whole, caplog):
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    file = next(f for f in (run / "checkpoints" / "45" / "state" / "d").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert_goes_on_to_the_same_end(run, whole)
    assert "checkpoint 45" in caplog.text
    assert "damaged" in caplog.text
    assert (run / "checkpoints-refused" / "45").is_dir()


def test_where_no_checkpoint_can_be_used_nothing_is_touched(tmp_path, whole):
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(checkpoints.CheckpointError, match="another configuration"):
        training.train(toy.learner(), run=run, resume=True, config={"x": 1}, **SETTINGS)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_without_checkpoints_begins_anew_and_says_so(tmp_path, whole, caplog):
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    assert_goes_on_to_the_same_end(run, whole)
    assert "no checkpoint to go on from" in caplog.text


def test_what_a_listener_raises_ends_a_run_that_goes_on_from_there(tmp_path, whole):
    class Pruned(Exception):
        pass

    def listen(line):
        if line["update"] >= 24:
            raise Pruned

    with pytest.raises(Pruned):
        training.train(toy.learner(), run=tmp_path / "run", on_log=listen, **SETTINGS)
    assert steps(tmp_path / "run")[-1] == 24
    assert_goes_on_to_the_same_end(tmp_path / "run", whole)


def test_a_finished_run_goes_on_to_nothing(tmp_path, whole):
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    assert_goes_on_to_the_same_end(run, whole)


def test_training_goes_on_from_a_state_in_memory(whole):
    half = training.train(toy.learner(), **(SETTINGS | {"updates": 20}))
    for _ in range(2):  # the state stays as it is
        state = training.train(toy.learner(), state=half, **SETTINGS)
        chex.assert_trees_all_equal(state.params, whole[1], strict=True)
    assert training.train(toy.learner(), state=state, **SETTINGS) is state
    with pytest.raises(ValueError, match="state: expected one of this learner"):
        training.train(toy.learner(), state=half.params, **SETTINGS)
    with pytest.raises(ValueError, match="state: a run goes on from its checkpoints"):
        training.train(toy.learner(), state=half, run=whole[0], resume=True, **SETTINGS)


def test_a_run_is_not_written_over(whole):
    with pytest.raises(FileExistsError, match="resume=True"):
        training.train(toy.learner(), run=whole[0], **SETTINGS)


def test_a_run_that_failed_to_begin_is_no_run(tmp_path, whole):
    def fails(state):
        raise RuntimeError("a mistake")

    run, wrong = tmp_path / "run", toy.learner()._replace(update=fails)
    with pytest.raises(RuntimeError, match="a mistake"):
        training.train(wrong, run=run, **SETTINGS)
    training.train(toy.learner(), run=run, **SETTINGS)
    assert lines(run) == lines(whole[0])


def test_an_address_is_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: training.train(toy.learner(), run="gs://bucket/run", **SETTINGS),
        lambda: checkpoints.save("s3://bucket/state", {"x": jnp.zeros(2)}),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=r"expected a folder, got (gs|s3):/"):
            call()
    assert not list(tmp_path.iterdir())


def test_without_a_seed_a_run_goes_on_with_its_own(tmp_path, whole):
    settings = {name: value for name, value in SETTINGS.items() if name != "seed"}
    half = tmp_path / "run"
    training.train(toy.learner(), run=half, seed=SETTINGS["seed"], **settings | {"updates": 16})
    training.train(toy.learner(), run=half, resume=True, **settings)
    assert lines(half)[-1] == lines(whole[0])[-1]


def test_there_is_no_resuming_without_a_run():
    with pytest.raises(ValueError, match="resume: expected a run"):
        training.train(toy.learner(), resume=True, **SETTINGS)


def test_without_jit_it_is_said_what_to_call():
    with jax.disable_jit(), pytest.raises(ValueError, match=r"jax_disable_jit: train .* update"):
        training.train(toy.learner(), **SETTINGS)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_and_the_run_goes_on_exactly(tmp_path, whole, signum):
    def stop_at_12(row):
        if row["update"] == 12:
            os.kill(os.getpid(), signum)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(training.Interrupted) as stopped:
        training.train(toy.learner(), run=tmp_path, on_log=stop_at_12, **SETTINGS)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert stopped.value.signum == signum
    assert stopped.value.update == steps(tmp_path)[-1] < 45
    assert lines(tmp_path)[-1]["update"] == stopped.value.update
    assert_goes_on_to_the_same_end(tmp_path, whole)


def test_a_second_signal_leaves_at_once(tmp_path):
    def press_twice(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    with pytest.raises(KeyboardInterrupt) as left:
        training.train(toy.learner(), run=tmp_path, on_log=press_twice, **SETTINGS)
    assert not isinstance(left.value, training.Interrupted)


# Arguments and keys ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        *({"updates": 0}, {"log_every": -1}, {"checkpoint_every": 0}, {"keep": 0}, {"seed": -1}),
        *({"updates": 2.5}, {"log_every": 1.5}, {"seed": 1.5}),
    ],
    ids=str,
)
def test_an_argument_out_of_range_is_named_before_anything_is_written(tmp_path, bad):
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name}: expected .*got {value}"):
        training.train(toy.learner(), run=tmp_path / "run", **{**SETTINGS, **bad})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"each": jnp.zeros(3)}, r"metric 'each': expected a scalar, got shape \(3,\)"),
        ({"update": jnp.float32(7)}, "metric 'update': expected none of update, seconds"),
    ],
)
def test_a_metric_that_has_no_place_in_a_line_is_named(metric, message):
    learner = toy.learner()

    def update(state):
        state, metrics = learner.update(state)
        return state, {**metrics, **metric}

    with pytest.raises(ValueError, match=message):
        training.train(learner._replace(update=update), updates=1, progress=False)


@pytest.mark.parametrize("kind", [np.int64, np.uint32, jnp.int32])
def test_a_seed_may_be_an_integer_of_any_library(tmp_path, kind):
    run = tmp_path / "run"
    settings = {"updates": 2, "progress": False}
    state = training.train(toy.learner(), run=run, seed=kind(3), **settings)
    plain = training.train(toy.learner(), seed=3, **settings)
    chex.assert_trees_all_equal(state.params, plain.params, strict=True)


@pytest.mark.parametrize("kind", [np.int64, jnp.int32])
def test_sizes_may_be_integers_of_any_library(tmp_path, kind):
    sizes = {"updates": kind(4), "log_every": kind(2), "checkpoint_every": kind(2)}
    run = tmp_path / "run"
    training.train(toy.learner(), run=run, keep=kind(1), progress=False, **sizes)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [2, 4]
    assert len([*(run / "checkpoints").iterdir()]) == 1


def test_a_run_does_not_go_on_with_another_seed(tmp_path, whole):
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    with pytest.raises(ValueError, match=r"seed: .* was begun with 3, got 4"):
        training.train(toy.learner(), run=run, resume=True, **{**SETTINGS, "seed": 4})


def test_progress_is_plain_lines_where_there_is_no_console(capsys):
    settings = {**SETTINGS, "progress": None}
    training.train(toy.learner(), **settings)
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    assert "\r" not in err
    assert err.startswith("training: compiling\n")
    assert "training: 45/45" in err.splitlines()[-1]
    assert "steps/s" in err
    assert "→" in err
    training.train(toy.learner(), **SETTINGS)
    assert capsys.readouterr() == ("", "")


def test_steps_that_nobody_counts_carry_nothing():
    before = (jnp.uint32(5), jnp.uint32(1))
    after = updates._add(updates.Totals({}, before), {})
    assert [*map(int, after.env_steps)] == [5, 1]
