"""The command line: what a run leaves, and runs that are stopped and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import imageio.v3 as imageio
import jax
import numpy as np
import pytest
from command_line import GRIDWORLD, SINUSOID, everything, metrics

import metajax as mj
from metajax import catalogue, cli, compiling, experiments, judging, loggers, presets, runs

pytestmark = pytest.mark.usefixtures("compiled_once")


# What a run leaves -----------------------------------------------------------------------------


def test_a_run_folder_holds_what_the_contract_says(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "checkpoints", "multitask", "adaptation.json"),
        *("learning.png", "adaptation.png", "agent.png", "agent.gif"),
    }
    content = json.loads((trained / "config.json").read_text())
    assert list(content) == ["config", "versions", "device", "created"]
    assert presets.from_json(content["config"]).updates == 4
    assert content["versions"]["jax"]
    assert 0 < loggers.read_metrics(trained / "metrics.jsonl")[-1]["roofline"] < 1
    row = metrics(trained)[-1]
    assert list(row)[:2] == ["update", "env_steps"]
    assert {"score_before", "score_after", "outer_loss"} <= set(row)
    # The start and six steps; a GIF holds a picture that repeats itself once.
    assert 2 <= imageio.imread(trained / "agent.gif").shape[0] <= 7
    assert imageio.imread(trained / "agent.png").ndim == 3


@pytest.mark.slow
def test_a_memory_is_judged_by_the_episodes_of_a_trial(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.run([*GRIDWORLD, "--algorithm", "rl2", "--tasks", "8", "--run", str(run)]) == 0
    assert "1 episode" in capsys.readouterr().out
    report = json.loads((run / "adaptation.json").read_text())
    assert report["steps"] == [0, 1]
    assert list(report["comparisons"]) == ["random initialisation", "multi-task policy"]
    assert imageio.imread(run / "agent.gif").shape[0] > 1
    assert cli.run(["evaluate", str(run), "--steps", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["mean"]) == 3


@pytest.mark.slow
def test_programs_as_users_have_them_compute_what_those_of_the_tests_do(cheap, tmp_path):
    """The same command without what tests tell XLA to leave out, and with it."""
    told = (*cheap, "JAX_COMPILATION_CACHE_DIR")
    settings = {name: value for name, value in os.environ.items() if name not in told}
    command = [sys.executable, "-m", "metajax", *GRIDWORLD, "--no-comparisons", "--run"]
    for name, more in {"users": {}, "tests": cheap}.items():
        kept = {"XDG_CACHE_HOME": str(tmp_path / f"{name}-cache"), "JAX_NUM_CPU_DEVICES": "2"}
        subprocess.run([*command, str(tmp_path / name)], check=True, env=settings | kept | more)
    for there, here in zip(metrics(tmp_path / "users"), metrics(tmp_path / "tests"), strict=True):
        assert there == pytest.approx(here, rel=1e-3, abs=1e-5)


def test_the_adaptation_of_a_run_is_that_of_evaluate_with_json(trained, capsys):
    assert cli.run(["evaluate", str(trained), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((trained / "adaptation.json").read_text())
    assert list(report)[:4] == ["preset", "algorithm", "tasks", "steps"]
    assert (report["preset"], report["algorithm"]) == ("gridworld", "maml")
    assert list(report["comparisons"]) == ["random initialisation", "multi-task policy"]
    assert report["steps"] == [0, 1]
    assert np.shape(report["ci95"]) == (2, 2)


def test_evaluate_takes_other_tasks_and_steps(trained, capsys):
    before = everything(trained)
    assert cli.run(["evaluate", str(trained), "--tasks", "3", "--steps", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tasks"] == 3
    assert report["steps"] == [0, 1, 2]
    assert everything(trained) == before


def test_evaluate_prints_the_table(trained, capsys):
    assert cli.run(["evaluate", str(trained)]) == 0
    out = capsys.readouterr().out
    for words in ("maml", "random initialisation", "multi-task policy", "optimal", "made worse"):
        assert words in out


def test_evaluate_writes_the_score_of_each_task(trained, tmp_path, capsys):
    path = tmp_path / "scores.npz"
    assert cli.run(["evaluate", str(trained), "--json", "--scores", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    with np.load(path) as scores:
        assert set(scores) == {"maml", *report["comparisons"], "optimal"}
        assert scores["maml"].shape == (4, 2)
        np.testing.assert_allclose(scores["maml"].mean(0), report["mean"], rtol=1e-6)
        assert scores["optimal"].mean() == pytest.approx(report["oracle"])


def test_render_draws_what_was_removed(copied, capsys):
    whole = everything(copied)
    for path in [*copied.glob("*.png"), *copied.glob("*.gif")]:
        path.unlink()
    assert cli.run(["render", str(copied)]) == 0
    assert everything(copied).keys() == whole.keys()
    assert everything(copied)[copied / "agent.gif"] == whole[copied / "agent.gif"]
    written = capsys.readouterr().out.splitlines()
    assert sorted(written) == sorted(
        str(path) for path in [*copied.glob("*.png"), *copied.glob("*.gif")]
    )


def test_a_run_is_drawn_where_nobody_reads_its_table(copied, monkeypatch):
    drawn = [*copied.glob("*.png"), *copied.glob("*.gif")]
    for path in drawn:
        path.unlink()

    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr(judging, "print_table", closed)
    monkeypatch.setattr(cli.sys, "stdout", None)
    assert cli.run(["train", "--resume", str(copied), "--quiet"]) == 1
    assert all(path.exists() for path in drawn)


def test_a_report_that_is_damaged_is_made_again(copied):
    report = copied / "adaptation.json"
    report.write_text('{"preset": "gridworld"}')
    assert runs.read_report(copied) is None
    assert cli.run(["render", str(copied)]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--version"], f"metajax {mj.__version__}"),
        (["list", "--help"], "usage: metajax COMMAND"),
        (["train", "--help"], "usage: metajax train [PRESET]"),
    ],
)
def test_what_is_asked_for_is_told(capsys, arguments, words):
    assert cli.run(arguments) == 0
    assert words in capsys.readouterr().out


def test_a_narrow_window_gets_every_digit(trained, capsys, monkeypatch):
    for columns, words in ((75, "4 held-out tasks; IQM"), (140, "95% interval")):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert cli.run(["evaluate", str(trained)]) == 0
        out = capsys.readouterr().out
        assert words in out
        assert "…" not in out
        assert max(map(len, out.splitlines())) <= columns


def test_a_finished_run_resumes_to_the_same_results(copied):
    whole = everything(copied)
    assert cli.run(["train", "--resume", str(copied), "--quiet", "--devices", "2"]) == 0
    assert everything(copied) == whole


@pytest.mark.slow
def test_an_extended_run_is_what_a_longer_one_is_to_the_bit(copied, tmp_path, capsys):
    run, longer = copied, tmp_path / "longer"
    assert cli.run([*GRIDWORLD, "--updates", "6", "--run", str(longer)]) == 0
    assert cli.run(["train", "--resume", str(run), "--updates", "6", "--quiet"]) == 0
    assert len(metrics(longer)) == 3
    assert metrics(run) == metrics(longer)
    assert metrics(run / "multitask") == metrics(longer / "multitask")
    reports = [(run / "adaptation.json").read_text() for run in (run, longer)]
    assert reports[0] == reports[1]
    # For good: it is finished, and not made shorter again.
    assert cli.run(["train", "--resume", str(run), "--quiet"]) == 0
    assert len(metrics(run)) == len(metrics(longer))
    for fewer in ("5", "4"):  # of which 4 is what it began with
        assert cli.run(["train", "--resume", str(run), "--updates", fewer]) == 2
        assert "which has 6" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_seed_gives_the_same_metrics(trained, tmp_path):
    assert cli.run([*GRIDWORLD, "--no-comparisons", "--run", str(tmp_path / "again")]) == 0
    assert metrics(tmp_path / "again") == metrics(trained)
    names = json.loads((tmp_path / "again" / "adaptation.json").read_text())["comparisons"]
    assert list(names) == ["random initialisation"]


def test_scores_that_cannot_be_saved_do_not_hide_the_table(trained, tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert cli.run(["evaluate", str(trained), "--scores", str(tmp_path / "scores.npz")]) == 1
    out, err = capsys.readouterr()
    assert "maml" in out
    assert err == "metajax: failed: [Errno 28] No space left on device\n"
    assert not any(tmp_path.iterdir())


def test_overwrite_replaces_a_run_and_nothing_else(copied):
    (copied / "notes.txt").write_text("mine")
    (copied / "mine.png").write_bytes(b"a picture")
    shorter = [*SINUSOID, "--updates", "4", "--log-every", "2", "--overwrite"]
    assert cli.run([*shorter, "--run", str(copied)]) == 0
    assert {path.name for path in copied.iterdir()} == {
        *("config.json", "metrics.jsonl", "checkpoints", "adaptation.json", "notes.txt"),
        *("learning.png", "adaptation.png", "mine.png"),
    }
    assert runs.read(copied)[0].preset == "sinusoid-10"


def test_a_run_whose_checkpoints_are_a_link_is_replaced_and_the_link_alone(copied, tmp_path):
    (copied / "checkpoints").rename(tmp_path / "elsewhere")
    (copied / "checkpoints").symlink_to(tmp_path / "elsewhere")
    runs.create(copied, runs.read(copied)[0], overwrite=True)
    assert not (copied / "checkpoints").exists()
    assert any((tmp_path / "elsewhere").iterdir())


def test_what_stops_an_overwriting_leaves_a_run_to_overwrite(copied, monkeypatch):
    def failing(path):
        raise PermissionError(path)

    config = runs.read(copied)[0]
    monkeypatch.setattr("shutil.rmtree", failing)
    with pytest.raises(PermissionError):
        runs.create(copied, config, overwrite=True)
    monkeypatch.undo()
    runs.create(copied, config, overwrite=True)
    assert {path.name for path in copied.iterdir()} == {"config.json"}


def test_the_default_folder_is_named_for_the_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = presets.PRESETS["maze"]
    first, second = runs.reserve(config), runs.reserve(config)  # in the same second, perhaps
    assert first.match("runs/maze-norml-*")
    assert first != second
    assert first.is_dir()
    assert second.is_dir()


def test_compiled_programs_are_kept_unless_jax_says_otherwise(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    assert before == os.environ["JAX_COMPILATION_CACHE_DIR"]
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    compiling.keep_programs()
    assert jax.config.jax_compilation_cache_dir == before
    settings = ("dir", "max_size")
    saved = {name: getattr(jax.config, f"jax_compilation_cache_{name}") for name in settings}
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        compiling.keep_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "metajax" / "programs")
        assert jax.config.jax_compilation_cache_max_size == compiling._CACHE_BYTES
    finally:
        for name, value in saved.items():
            jax.config.update(f"jax_compilation_cache_{name}", value)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)


def test_list_names_everything(capsys):
    assert cli.run(["list"]) == 0
    out = capsys.readouterr().out
    for name in [*presets.PRESETS, *catalogue.ALGORITHMS, "bandit"]:
        assert f"  {name} " in out


def test_help_explains_every_flag(capsys):
    assert cli.run(["--help"]) == 0
    assert "train [PRESET]" in capsys.readouterr().out
    assert cli.run(["train", "point", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--run", "--seed", "--updates", "--tasks", "--algorithm", "--overwrite"):
        assert f"{flag} " in out or f"{flag}," in out
    assert "--devices" in out
    assert "--env." in out
    assert "--preset" not in out


# Stopped and resumed ---------------------------------------------------------------------------


def test_output_that_nobody_reads_on_ends_without_a_word():
    command = [sys.executable, "-m", "metajax", "list"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, env=buffered, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "metajax", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(run: Path, after: int, process: subprocess.Popen) -> int:
    deadline = time.monotonic() + 120
    while True:
        steps = [int(path.name) for path in run.glob("checkpoints/*") if path.name.isdecimal()]
        if max(steps, default=0) > after:
            return max(steps)
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_and_interrupted_and_resumed_equals_never_stopped_to_the_bit(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert cli.run([*SINUSOID, "--run", str(whole)]) == 0

    first = start(*SINUSOID, "--run", stopped)
    reached = wait_for_checkpoint(stopped, 0, first)
    first.kill()
    first.communicate()
    assert len(metrics(stopped)) < len(metrics(whole))

    second = start("train", "--resume", stopped, "--quiet")
    wait_for_checkpoint(stopped, reached + 600, second)
    second.send_signal(signal.SIGINT)
    _, said = second.communicate()
    assert second.returncode == 130
    assert f"go on with: metajax train --resume {stopped}" in said.splitlines()[-1]
    assert "Traceback" not in said

    assert cli.run(["train", "--resume", str(stopped), "--quiet"]) == 0
    assert metrics(stopped) == metrics(whole)
    assert [row["update"] for row in metrics(whole)] == [*range(100, 4001, 100)]
    chex.assert_trees_all_equal(parameters(stopped), parameters(whole), strict=True)
    assert (whole / "adaptation.json").read_text() == (stopped / "adaptation.json").read_text()


def parameters(run: Path):
    return experiments.load(run)[1].params


def test_sigterm_saves_and_leaves_with_143(tmp_path, monkeypatch, capsys):
    write = loggers.MetricsLog.write

    def stop_at_200(log, row):
        write(log, row)
        if row["update"] == 200:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loggers.MetricsLog, "write", stop_at_200)
    run = tmp_path / "run"
    assert cli.run([*SINUSOID, "--run", str(run)]) == 143
    err = capsys.readouterr().err
    assert err.endswith(f"go on with: metajax train --resume {run}\n")
    saved = [path for path in (run / "checkpoints").iterdir() if (path / "metajax.json").exists()]
    assert int(saved[0].name) == metrics(run)[-1]["update"] < 4000
