"""What the scripts in benchmarks/ refuse: in one line, with status 2, before anything runs."""

import dataclasses
import importlib
import re
import sys
from pathlib import Path

import everything
import pytest
import report

from support import records


@dataclasses.dataclass(frozen=True)
class Options:
    name: str = "point"
    tasks: int | None = None
    counts: tuple[int, ...] = (1, 16)
    only: tuple[str, ...] = ()
    seconds: float = 0.5
    quick: bool = False
    seed: int = 0


@pytest.fixture
def refused(capsys):
    def of(call, *arguments, **named):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            call(*arguments, **named)
        assert left.value.code == records.REFUSED == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return err.strip()

    return of


def asked(monkeypatch, script, *words):
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
    return script.main()


def test_an_unknown_name_is_refused_with_the_nearest_ones_or_all(refused):
    records.check_names("presets", (), ["point"])
    records.check_names("presets", ["point", "maze"], {"point": 0, "maze": 1})
    text = refused(records.check_names, "presets", ["point", "mazes"], ["point", "maze"])
    assert text == "presets: unknown 'mazes'; nearest: maze"
    text = refused(records.check_names, "presets", ["x"], ["point", "maze"])
    assert text == "presets: unknown 'x'; there are point, maze"


def test_a_part_of_a_name_is_known_only_where_parts_are_given(refused):
    records.check_names("only", ["8x8"], ["minigrid empty 8x8"], parts=True)
    assert "'8x8'" in refused(records.check_names, "only", ["8x8"], ["minigrid empty 8x8"])
    assert "'9x9'" in refused(records.check_names, "only", ["9x9"], ["empty 8x8"], parts=True)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tasks": 0}, "tasks: expected at least 1, got 0"),
        ({"tasks": -3}, "tasks: expected at least 1, got -3"),
        ({"counts": (4, 0)}, "counts: expected at least 1, got 0"),
        ({"counts": ()}, "counts: expected at least one, got none"),
        ({"seconds": 0.0}, "seconds: expected a positive number, got 0.0"),
        ({"seconds": float("nan")}, "seconds: expected a positive number, got nan"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
    ],
)
def test_a_size_that_is_too_small_is_refused(refused, fields, text):
    assert refused(records.check_sizes, Options(**fields)) == text


def test_sizes_may_be_left_out():
    records.check_sizes(Options())


@pytest.mark.parametrize(
    ("script", "words", "text"),
    [
        ("breakdown", ("--updates", "0"), "updates: expected at least 1"),
        ("breakdown", ("point", "--algorithms", "mml"), "algorithms: unknown 'mml'"),
        ("compile_time", ("nosuch",), "preset: unknown 'nosuch'"),
        ("compile_time", ("--repeats", "0"), "repeats: expected at least 1"),
        ("derivatives", ("nosuch",), "preset: unknown 'nosuch'"),
        ("derivatives", ("--rounds", "0"), "rounds: expected at least 1"),
        ("devices", ("nosuch",), "preset: unknown 'nosuch'"),
        ("devices", ("--pairs", "0"), "pairs: expected at least 1"),
        ("environments", ("--only", "nosuch"), "only: unknown 'nosuch'"),
        ("environments", ("--counts", "0"), "counts: expected at least 1"),
        ("everything", ("folder", "--only", "nosuch"), "only: unknown 'nosuch'"),
        ("floor", ("nosuch",), "presets: unknown 'nosuch'"),
        ("floor", ("--rounds", "0"), "rounds: expected at least 1"),
        ("learning", ("nosuch",), "presets with figures: unknown 'nosuch'"),
        ("minigrid_parity", ("--steps", "0"), "steps: expected at least 1"),
        ("minigrid_parity", ("--horizon", "-1"), "horizon: expected at least 1"),
        ("reproduce", ("nosuch",), "tables: unknown 'nosuch'"),
        ("scaling", ("--only", "nosuch"), "only: unknown 'nosuch'"),
        ("scaling", ("--chunk", "-1"), "chunk: expected at least 1"),
        ("startup", ("--algorithms", "nosuch"), "algorithms: unknown 'nosuch'"),
        ("startup", ("--repeats", "0"), "repeats: expected at least 1"),
        ("tasksets", ("--count", "0"), "count: expected at least 1"),
        ("tasksets", ("--size", "8"), "size: got 8"),
        ("trainers", ("--trainers", "nosuch"), "trainers: unknown 'nosuch'"),
        ("weighting", ("--seeds", "0"), "seeds: expected at least 1"),
    ],
)
def test_scripts_refuse_names_and_sizes(monkeypatch, refused, script, words, text):
    assert text in refused(asked, monkeypatch, importlib.import_module(script), *words)


def test_the_readme_lists_the_commands_and_nothing_else_lies_beside_them():
    folder = Path(everything.__file__).parent
    text = (folder / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^\| `(\w+)\.py` \|", text)
    assert sorted(listed) == sorted(path.stem for path in folder.glob("*.py"))


@pytest.mark.parametrize("content", ["{", "[]", "3", '"text"', "\xff"])
def test_a_file_that_is_no_record_is_refused(tmp_path, monkeypatch, refused, content):
    path = tmp_path / "maml_vs_torch-point.json"
    path.write_text(content, encoding="latin-1")
    for script, *words in (
        (report, path, "--out", tmp_path / "page.html"),
        (everything, tmp_path),
        (everything, tmp_path, "--show"),
    ):
        assert refused(asked, monkeypatch, script, *words).startswith(f"{path}: expected")
    assert [*tmp_path.iterdir()] == [path]


def test_everything_refuses_a_file_in_place_of_its_folder(tmp_path, monkeypatch, refused):
    path = tmp_path / "file"
    path.touch()
    assert refused(asked, monkeypatch, everything, path).startswith("folder: expected a folder")
    assert refused(asked, monkeypatch, everything, path / "in").startswith(f"folder: {path / 'in'}")


def test_show_lists_what_is_there_and_what_would_run_and_writes_nothing(
    tmp_path, monkeypatch, capsys
):
    words = ("--only", "floor", "derivatives", "--show")
    assert asked(monkeypatch, everything, tmp_path / "none", *words) == 1
    assert not (tmp_path / "none").exists()
    (tmp_path / "floor-point.json").write_text("{}")
    capsys.readouterr()
    assert asked(monkeypatch, everything, tmp_path, *words) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [["there", "floor-point"], ["would", "run", "derivatives-point"]]
    assert [path.name for path in tmp_path.iterdir()] == ["floor-point.json"]


def test_a_page_makes_its_folder_and_is_no_folder(tmp_path, monkeypatch, refused):
    path = tmp_path / "record.json"
    path.write_text('{"rows": [{"name": "a", "ratio": 2.0}]}')
    page = tmp_path / "new" / "page.html"
    assert asked(monkeypatch, report, path, "--out", page) == 0
    assert "record" in page.read_text()
    assert refused(asked, monkeypatch, report, path, "--out", tmp_path).startswith("out: ")
