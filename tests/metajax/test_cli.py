"""The command line: runs, folders, and one clear line for everything that is wrong."""

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
import imageio.v3 as imageio
import jax
import numpy as np
import pytest
import toy

from metajax import catalogue, cli, experiments, loggers, presets, runs, training

# Sizes of no use but to run through everything quickly.
GRIDWORLD = [
    *("train", "gridworld", "--updates", "4", "--tasks", "2", "--episodes", "2", "--hidden", "4"),
    *("--log-every", "2", "--checkpoint-every", "2", "--env.size", "4", "--env.horizon", "6"),
    *("--evaluation-tasks", "4", "--evaluation-steps", "1", "--quiet"),
]
SINUSOID = [
    *("train", "sinusoid-10", "--updates", "4000", "--tasks", "4", "--hidden", "8"),
    *("--log-every", "100", "--checkpoint-every", "300", "--evaluation-tasks", "8"),
    *("--evaluation-steps", "2", "--no-comparisons", "--quiet"),
]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("programs")
    yield from toy.compiled_once(directory, jax_disable_most_optimizations=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of a tiny gridworld, with everything in it. Not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "grid"
    assert cli.run([*GRIDWORLD, "--run", str(run)]) == 0
    return run


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "grid"))


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metrics(run: Path) -> list[dict]:
    rows = loggers.read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in loggers.CLOCK_FIELDS} for row in rows]


def refused(capsys, *arguments: object) -> str:
    """The one line that a command line is refused with."""
    assert cli.run([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("metajax: ")
    assert "Traceback" not in err
    return err


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


def test_a_finished_run_resumes_to_the_same_results(copied):
    whole = everything(copied)
    assert cli.run(["train", "--resume", str(copied), "--quiet", "--devices", "2"]) == 0
    assert everything(copied) == whole


def test_the_same_seed_gives_the_same_metrics(trained, tmp_path):
    assert cli.run([*GRIDWORLD, "--no-comparisons", "--run", str(tmp_path / "again")]) == 0
    assert metrics(tmp_path / "again") == metrics(trained)
    names = json.loads((tmp_path / "again" / "adaptation.json").read_text())["comparisons"]
    assert list(names) == ["random initialisation"]


def test_overwrite_replaces_a_run_and_nothing_else(copied):
    (copied / "notes.txt").write_text("mine")
    shorter = [*SINUSOID, "--updates", "4", "--log-every", "2", "--overwrite"]
    assert cli.run([*shorter, "--run", str(copied)]) == 0
    assert {path.name for path in copied.iterdir()} == {
        *("config.json", "metrics.jsonl", "checkpoints", "adaptation.json", "notes.txt"),
        *("learning.png", "adaptation.png"),
    }
    assert runs.read(copied)[0].preset == "sinusoid-10"


def test_the_default_folder_is_named_for_the_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = presets.PRESETS["maze"]
    folder = runs.default_folder(config)
    assert folder.match("runs/maze-norml-*")
    folder.mkdir(parents=True)
    assert runs.default_folder(config) != folder


def test_compiled_programs_are_kept_unless_jax_says_otherwise(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    assert before == os.environ["JAX_COMPILATION_CACHE_DIR"]
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    cli._keep_programs()
    assert jax.config.jax_compilation_cache_dir == before
    settings = ("dir", "max_size")
    saved = {name: getattr(jax.config, f"jax_compilation_cache_{name}") for name in settings}
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        cli._keep_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "metajax" / "programs")
        assert jax.config.jax_compilation_cache_max_size == cli._CACHE_BYTES
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
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
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
    config, _ = runs.read(run)
    learner = experiments.build(config).learner
    return training.restore(learner, run, runs.described(config))[0].params


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


# Bad input -------------------------------------------------------------------------------------


def joining(coordinator: str, processes: int, process_id: int) -> list[str]:
    numbers = ["--processes", str(processes), "--process-id", str(process_id)]
    return ["train", "--coordinator", coordinator, *numbers, "--run", "run"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "expected one of list, plan, train, evaluate, render, got 'trian'"),
        (["list", "x"], "list takes no arguments"),
        (["train", "mazes"], "preset: unknown 'mazes'; nearest: maze"),
        (["train", "--algorithm", "mamll"], "algorithm: unknown 'mamll'; nearest: maml"),
        (["train", "--updates", "0"], "updates: expected at least 1, got 0"),
        (["train", "--tasks", "-4"], "tasks: expected at least 1, got -4"),
        (["train", "--log-every", "0"], "log_every: expected at least 1, got 0"),
        (["train", "--checkpoint-every", "-1"], "checkpoint_every: expected at least 1, got -1"),
        (["train", "--evaluation-tasks", "0"], "evaluation_tasks: expected at least 1, got 0"),
        (["train", "--episodes", "0"], "episodes: expected at least 1, got 0"),
        (["train", "--hidden", "0"], "hidden: expected widths of at least 1"),
        (["train", "--seed", "-1"], "seed: expected 0 to"),
        (["train", "--devices", "0"], "devices: expected at least 1, got 0"),
        (["train", "--devices", "2", "--tasks", "3"], "tasks: 3 is not a multiple of the 2"),
        (["train", "--processes", "2"], "--processes: expected --coordinator, --process-id beside"),
        (joining("host:1", 0, 0), "--processes: expected at least 1, got 0"),
        (joining("host:1", 2, 2), "--process-id: expected 0 to 1, got 2"),
        (joining("host", 2, 0), "--coordinator: expected HOST:PORT, got 'host'"),
        (joining("host:1", 2, 0)[:-2], "--run: expected a folder, the same for all processes"),
        ([*joining("host:1", 2, 0), "--distributed"], "--coordinator contradicts --distributed"),
        (["train", "--run", "run", "--distributed"], "several processes: could not meet"),
        (["train", "--env.size", "-9"], "size: got -9, expected"),
        (["train", "--env.horizon", "0"], "horizon: got 0, expected"),
        (["train", "--updates", "many"], "--updates: invalid literal"),
        (["train", "--update", "3"], "Unrecognized options: --update, 3; nearest: --updates"),
        (["train", "--resume"], "Missing value for argument '--resume'"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder (it does not exist)"),
        (["plan", "mazes"], "preset: unknown 'mazes'; nearest: maze"),
        (["plan", "--memory", "0"], "--memory: expected above 0, got 0"),
        (["plan", "--tasks", "0"], "tasks: expected at least 1, got 0"),
        (["plan", "--run", "somewhere"], "Unrecognized options: --run"),
        (["evaluate"], "Missing"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["evaluate", "nowhere", "--tasks", "0"], "--tasks: expected at least 1, got 0"),
        (["evaluate", "nowhere", "--steps", "-1"], "--steps: expected at least 0, got -1"),
        (["render", "nowhere"], "nowhere is not a run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_line_and_write_nothing(
    arguments, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_exists_is_not_written_over(copied, capsys):
    before = everything(copied)
    assert "exists; --overwrite replaces it" in refused(capsys, *GRIDWORLD, "--run", copied)
    bad = refused(capsys, *GRIDWORLD, "--run", copied, "--overwrite", "--updates", "0")
    assert "updates: expected" in bad
    assert everything(copied) == before


def test_overwrite_is_refused_where_there_is_no_run(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    said = refused(capsys, *GRIDWORLD, "--run", tmp_path, "--overwrite")
    assert "is not a run folder" in said
    assert (tmp_path / "thesis.tex").exists()
    assert "is a file" in refused(capsys, *GRIDWORLD, "--run", tmp_path / "thesis.tex")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--updates", "9"], "--updates: 9 contradicts {run}, which has 4"),
        (["--env.size", "5"], "--env.size: 5 contradicts {run}, which has 4"),
        (["--algorithm", "fomaml"], "--algorithm: fomaml contradicts {run}, which has maml"),
        (["--run", "elsewhere"], "--run: elsewhere contradicts --resume {run}"),
        (["--overwrite"], "--overwrite contradicts --resume {run}"),
        (["--shots", "3"], "Unrecognized options: --shots, 3"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_flag_that_contradicts_the_resumed_run_is_named(trained, capsys, flags, words):
    before = everything(trained)
    said = refused(capsys, "train", "--resume", trained, *flags)
    assert words.format(run=trained) in said
    assert everything(trained) == before


def test_a_preset_that_contradicts_the_resumed_run_is_named(trained, capsys):
    said = refused(capsys, "train", "point", "--resume", trained)
    assert f"preset: point contradicts {trained}, which is of gridworld" in said


def damage(checkpoint: Path) -> None:
    file = max((f for f in checkpoint.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 16
    file.write_bytes(data)


def test_a_damaged_checkpoint_is_passed_over_with_the_reason(copied, capfd, caplog):
    damage(copied / "checkpoints" / "4")
    before = everything(copied)
    assert cli.run(["evaluate", str(copied), "--json"]) == 0
    json.loads(capfd.readouterr().out)
    assert "checkpoint 4" in caplog.text
    assert "damaged" in caplog.text
    assert everything(copied) == before


def test_where_all_checkpoints_are_damaged_the_run_is_refused(copied, capsys):
    for checkpoint in (copied / "checkpoints").iterdir():
        damage(checkpoint)
    before = everything(copied)
    for command in (["evaluate"], ["render"], ["train", "--resume"]):
        said = refused(capsys, *command, copied)
        assert "no usable checkpoint" in said
        assert "damaged" in said
    assert everything(copied) == before


def test_a_run_without_a_whole_checkpoint_is_refused_by_evaluate(copied, capsys):
    for checkpoint in (copied / "checkpoints").iterdir():
        (checkpoint / "metajax.json").unlink()
    assert "has no whole checkpoint yet" in refused(capsys, "evaluate", copied)


def test_a_checkpoint_of_another_configuration_is_refused(copied, capsys):
    content = json.loads((copied / "config.json").read_text())
    content["config"]["seed"] = 1
    (copied / "config.json").write_text(json.dumps(content))
    for command in (["evaluate"], ["train", "--resume"]):
        assert "it is from another configuration" in refused(capsys, *command, copied)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is damaged (it is not JSON)"),
        ("{}", "cannot be used"),
        ("[]", "cannot be used"),
        ('{"config": {"preset": "mars"}}', "preset: unknown 'mars'"),
        ('{"config": {"preset": "maze", "updates": 3}}', "unknown or missing"),
    ],
)
def test_a_damaged_config_is_refused(copied, capsys, text, words):
    (copied / "config.json").write_text(text)
    assert words in refused(capsys, "evaluate", copied)


def test_a_damaged_log_is_refused_and_kept(copied, capsys):
    log = copied / "metrics.jsonl"
    log.write_bytes(b"\xff" + log.read_bytes())
    before = everything(copied)
    for command in (["train", "--resume"], ["render"]):
        assert "line 1 is not a line of metrics" in refused(capsys, *command, copied)
    assert everything(copied) == before


def test_a_run_that_another_process_trains_is_refused(copied, capsys):
    from metajax import checkpoints

    keeper = checkpoints.Keeper(copied / "checkpoints", config="")
    said = refused(capsys, "train", "--resume", copied)
    assert "another process is training" in said
    keeper.close()
