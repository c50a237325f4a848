"""Presets of a user's own, MODULE:NAME on the command line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

from envs import Gridworld
from metajax import cli, configs, experiments, presets, programs, runs

CART = Path(__file__).parent.parent.parent / "examples" / "cart.py"
SMALL = ["--updates", "2", "--tasks", "2", "--episodes", "2", "--hidden", "4", "--quiet"]
SMALL += ["--env.max-horizon", "3", "--evaluation-tasks", "4", "--evaluation-steps", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the example's module, which no other test has imported."""
    shutil.copy(CART, tmp_path / "cart.py")
    (tmp_path / "broken.py").write_text("CART = = 1")
    (tmp_path / "empty_handed.py").write_text("open('data.txt')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("cart", None)


def refused(capsys, *arguments):
    assert cli.run([*map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_preset_of_ones_own_is_trained_and_opened(folder, capsys):
    command = ["train", "cart:CART", *SMALL, "--no-comparisons"]
    assert cli.run(command) == 0
    (run,) = (folder / "runs").iterdir()
    assert run.name.startswith("cart.CART-maml-")
    config, _ = runs.read(run)
    assert (config.preset, config.env.max_horizon) == ("cart:CART", 3)
    capsys.readouterr()
    assert cli.run(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] == "cart:CART"


def test_a_mistake_in_it_is_one_line_and_costs_no_run(folder, capsys):
    source = (folder / "cart.py").read_text()
    wrong = source.replace("reward = -jnp.abs(state[0] - task)", "reward = -state[:1]")
    (folder / "cart.py").write_text(wrong)
    runs.create(folder / "run", presets.preset("gridworld"), overwrite=False)
    (folder / "run" / "adaptation.json").write_text("{}")
    for flags in ([], ["--run", "run", "--overwrite"]):
        assert "reward: " in refused(capsys, "train", "cart:CART", *SMALL, *flags)
    assert not (folder / "runs").exists()
    assert runs.read(folder / "run")[0].preset == "gridworld"
    assert (folder / "run" / "adaptation.json").exists()


@pytest.mark.parametrize("algorithm", ["imaml", "fomaml", "multitask"])
def test_what_it_learns_is_refused_where_the_algorithm_cannot(folder, algorithm, monkeypatch):
    config = presets.preset("cart:CART")
    learning = dataclasses.replace(config, learn=("learning_rate",))
    monkeypatch.setattr(sys.modules["cart"], "CART", learning)
    config = dataclasses.replace(presets.preset("cart:CART"), algorithm=algorithm)
    with pytest.raises(ValueError, match=f"learn: is .* {algorithm}"):
        experiments.build(config)
    experiments.build(dataclasses.replace(config, algorithm="maml"))


def test_its_optimum_is_shown_if_it_says_one_and_acts_by_none(folder):
    config = presets.preset("cart:CART")
    assert experiments.build(config).oracle is None

    class Solved(type(config.env)):
        def optimal_return(self, task):
            return -task

    solved = dataclasses.replace(config, env=Solved())
    assert experiments.build(solved).oracle(2.0) == -2.0


@dataclasses.dataclass(frozen=True)
class Loose(configs.PolicyConfig):
    env: Gridworld = Gridworld()
    gravity: int = 9.8  # type: ignore[assignment]
    label: str = None  # type: ignore[assignment]


def test_a_field_whose_default_is_of_another_type_than_it_says_is_as_it_is():
    known = {field.name for field in dataclasses.fields(configs.PolicyConfig)}
    settings = dataclasses.asdict(presets.preset("gridworld", "maml"))
    config = Loose(**{name: value for name, value in settings.items() if name in known})
    content = json.loads(json.dumps(dataclasses.asdict(config)))
    assert configs.restore(Loose, content) == config


def test_its_programs_are_not_kept_for_its_code_may_change(folder):
    assert experiments.shelf(presets.preset("cart:CART")) == programs.NOWHERE


def test_a_run_of_it_is_refused_where_its_module_is_not(folder, capsys, monkeypatch):
    runs.create(folder / "run", presets.preset("cart:CART"), overwrite=False)
    del sys.modules["cart"]
    (folder / "cart.py").unlink()
    said = refused(capsys, "evaluate", "run")
    assert "preset: cart:CART cannot be imported from here (No module named 'cart')" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cart", "preset: unknown 'cart'; there are maze, "),
        ("cart:", "preset: unknown 'cart:'; there are maze, "),
        ("cart:NONE", "has no attribute 'NONE'"),
        ("nowhere_at_all:CART", "No module named 'nowhere_at_all'"),
        (":CART", "cannot be imported from here"),
        (".cart:CART", "cannot be imported from here"),
        ("broken:CART", "cannot be imported from here (invalid syntax"),
        ("empty_handed:CART", "cannot be imported from here ([Errno 2] No such file"),
        ("cart:Cart", "expected cart:Cart to be a configuration"),
    ],
)
def test_what_is_no_configuration_is_refused(folder, capsys, name, words):
    assert words in refused(capsys, "train", name)


@dataclasses.dataclass(frozen=True)
class Odd(Gridworld):
    odd: object = None


@dataclasses.dataclass(frozen=True)
class OddConfig(configs.PolicyConfig):
    env: Odd = Odd()


@pytest.mark.parametrize("odd", [len, float("nan"), {1: 2}])
def test_what_a_run_folder_cannot_hold_is_refused(monkeypatch, odd):
    sizes = dict(updates=1, tasks=1, inner_learning_rate=(0.1,), outer_learning_rate=0.1)
    config = OddConfig(preset="odd", hidden=(), env=Odd(odd=odd), **sizes)
    monkeypatch.setitem(globals(), "ODD", config)
    monkeypatch.setitem(sys.modules, "odd_presets", sys.modules[__name__])
    with pytest.raises(ValueError, match="a field that JSON cannot hold"):
        presets.preset("odd_presets:ODD")
