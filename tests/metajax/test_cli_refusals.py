"""The command line: one clear line for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import GRIDWORLD, everything, refused

from metajax import cli, runs
from metajax.arguments import parse_train

pytestmark = pytest.mark.usefixtures("compiled_once")


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
        (["train", "--hidden", "0"], "hidden: expected at least 1, got 0"),
        (["train", "--seed", "-1"], "seed: expected 0 to"),
        (["train", "--devices", "0"], "devices: expected 1 to 1024, got 0"),
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
        (["train", "m" * 300], "preset: unknown 'mmm"),
        (["train", "minigrid"], "preset: minigrid is an environment without one, for Python;"),
        (["train", "gridworld", "--held-out", "0.05"], "held_out: expected a share that leaves"),
        (
            ["train", "gridworld", "--held-out", "1.5"],
            "held_out: expected at least 0 and below 1, got 1.5",
        ),
        (["train", "--env.generator", "scatter", "--env.rooms", "1"], "rooms: got 1, expected 0"),
        (["train", "point", "--inner-learning-rate", "nan"], "expected above 0, got nan"),
        (["train", "point", "--entropy", "inf"], "entropy: expected a finite number, got inf"),
        (["train", "gridworld", "--minibatches", "0"], "minibatches: expected at least 1, got 0"),
        (["train", "gridworld", "--minibatches", "2"], "minibatches: is for rl2, not maml"),
        (
            ["train", "maze", "--algorithm", "reptile", "--outer-learning-rate", "1"],
            "outer_learning_rate: is not for reptile",
        ),
        (
            ["train", "point", "--algorithm", "maml-trpo", "--gradient-clip", "1"],
            "gradient_clip: is not for maml-trpo",
        ),
        (
            ["train", "maze", "--algorithm", "imaml", "--proximal", "0.1"],
            "proximal: expected below 2 / inner_learning_rate, 0.1, where",
        ),
        (["train", "maze-q", "--algorithm", "rl2"], "algorithm: rl2 is for policies, got maze-q"),
        (
            ["train", "maze", "--algorithm", "rl2", "--baseline", "none"],
            "baseline: is not for rl2",
        ),
        (["train", "maze", "--algorithm", "rl2", "--tasks", "6"], "tasks: 6 is not a multiple of"),
        (
            ["train", "maze", "--algorithm", "rl2", "--activation", "relu"],
            "activation: is of the layers before the memory",
        ),
        (["train", "--updates", "many"], "--updates: expected an integer, got 'many'"),
        (["train", "--update", "3"], "Unrecognized options: --update, 3; nearest: --updates"),
        (["train", "--resume"], "Missing value for argument '--resume'"),
        (["train", "--resume", "nowhere"], "nowhere is not a run folder (it does not exist)"),
        (["plan", "mazes"], "preset: unknown 'mazes'; nearest: maze"),
        (
            ["train", "gridworld", "fomaml"],
            "unexpected fomaml; as an algorithm: --algorithm fomaml",
        ),
        (["train", "--resume", "--updates", "3"], "Missing value for argument '--resume'"),
        (["plan", "--memory", "0"], "--memory: expected above 0 and below 2^30 GiB, got 0"),
        (["plan", "--memory", "inf"], "--memory: expected above 0 and below 2^30 GiB, got inf"),
        (["train", "--run", "seeds=[0]"], "a path of checkpoints may not have [ in it"),
        (["train", "--run", "gs://bucket/run"], "--run: expected a folder, got gs:/bucket/run"),
        (["train", "--tasks", "9999999999"], "tasks: expected 1 to 2147483647, got 9999999999"),
        (["train", "--evaluation-tasks", "9" * 20], "evaluation_tasks: expected 1 to 2147483647"),
        (["train", "--devices", "100000"], "devices: expected 1 to 1024, got 100000"),
        (["train", "--resume", "a", "--resume", "b"], "--resume: expected once, got 2 times"),
        (["plan", "--tasks", "0"], "tasks: expected at least 1, got 0"),
        (["plan", "--run", "somewhere"], "Unrecognized options: --run"),
        (["evaluate"], "Missing"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["evaluate", "nowhere", "--tasks", "seven"], "--tasks: expected an integer, got 'seven'"),
        (["train", "--tasks", "seven"], "--tasks: expected an integer, got 'seven'"),
        (["train", "--final-rate", "x"], "--final-rate: expected a number, got 'x'"),
        (["evaluate", "nowhere", "--tasks", "0"], "--tasks: expected at least 1, got 0"),
        (["evaluate", "nowhere", "--steps", "-1"], "--steps: expected at least 0, got -1"),
        (["evaluate", "nowhere", "--scores", "x.csv"], "name of an .npz file, got x.csv"),
        (["evaluate", "nowhere", "--scores", "a/x.npz"], "in a folder that exists, got a/x.npz"),
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
    for flags in ([], ["--overwrite"]):
        said = refused(capsys, *GRIDWORLD, "--run", tmp_path, *flags)
        assert "holds something else than a run" in said
    assert (tmp_path / "thesis.tex").exists()
    assert "is a file" in refused(capsys, *GRIDWORLD, "--run", tmp_path / "thesis.tex")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--updates", "3"], "--updates: 3 contradicts {run}, which has 4"),
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


def test_a_run_whose_rate_has_decayed_to_nothing_is_not_extended(copied, capsys):
    content = json.loads((copied / "config.json").read_text())
    content["config"]["final_rate"] = 0.0
    (copied / "config.json").write_text(json.dumps(content))
    said = refused(capsys, "train", "--resume", copied, "--updates", 9)
    assert "its rate is 0 after 4" in said
    arguments = ["--resume", str(copied), "--updates", "4"]  # no more than it has
    assert parse_train(arguments)[2][runs.EXTENDED] == 4


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
        ("{}", "cannot be used (it holds no config)"),
        ("[]", "cannot be used (it holds no config)"),
        ('{"config": {}, "extended_to": "x"}', "(extended_to: expected int, got 'x')"),
        ('{"config": {}, "versions": 3}', "(versions: expected dict, got 3)"),
        ('{"config": {"preset": "mars"}}', "preset: unknown 'mars'"),
        ('{"config": {"preset": "maze", "updates": 3}}', "unknown or missing"),
    ],
)
def test_a_damaged_config_is_refused(copied, capsys, text, words):
    (copied / "config.json").write_text(text)
    assert words in refused(capsys, "evaluate", copied)


def test_a_run_that_is_not_gone_on_with_is_not_extended(copied, capsys):
    for checkpoint in (copied / "checkpoints").iterdir():
        (checkpoint / "metajax.json").write_text("{}")
    before = everything(copied)
    said = refused(capsys, "train", "--resume", copied, "--updates", 9)
    assert "no usable checkpoint" in said
    assert everything(copied) == before


def test_a_log_with_words_for_numbers_is_refused(copied, capsys):
    log = copied / "metrics.jsonl"
    log.write_text(log.read_text().replace('"score_after": ', '"score_after": "high", "x": ', 1))
    assert "line 1 is not a line of metrics" in refused(capsys, "render", copied)


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


def test_a_run_that_is_trained_or_judged_is_not_replaced(copied, capsys):
    before = everything(copied)
    with runs.holding(copied):
        for how in ([*GRIDWORLD, "--overwrite", "--run"], ["train", "--resume"]):
            assert "another process is training" in refused(capsys, *how, copied)
    assert everything(copied) == before


def test_a_run_of_python_is_said_to_be_one(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    for command in ("evaluate", "render", "train --resume"):
        said = refused(capsys, *command.split(), tmp_path)
        assert "it has no config.json; `metajax.load` reads what was trained in Python" in said
