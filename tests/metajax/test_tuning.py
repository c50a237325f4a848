"""Times of other tiles: taken once for a program, remembered, and asked for by a flag."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import types

import jax
import pytest

from metajax import cli, presets, roofline, runs, tuning

FLAGS = ["sinusoid-10", "--tasks", "4", "--hidden", "8", "--devices", "1", "--tile", "2"]
CONFIG = dataclasses.replace(
    presets.PRESETS["sinusoid-10"], tasks=4, hidden=(8,), devices=1, tile=2
)


@pytest.fixture
def timed(monkeypatch):
    """What is timed, without taking the time."""
    asked = []

    def time(config, field, planned, sizes, free):
        asked.append((field, planned, sizes))
        return {size: 1.0 / size for size in sizes}

    monkeypatch.setattr(tuning, "_time", time)
    return asked


def test_the_fastest_size_is_best_where_it_is_faster_than_noise():
    def best(**seconds):
        times = {2: 1.0} | {int(size[1:]): value for size, value in seconds.items()}
        return tuning.Tuned("tile", 2, times, remembered=False).best

    assert best(_1=1.2, _4=0.9) == 4
    assert best(_1=0.98, _4=0.99) == 2
    assert best() == 2


def test_a_program_is_timed_once(tmp_path, timed):
    first = tuning.tune(CONFIG, tmp_path)
    assert timed == [("tile", 2, [1, 2, 4])]  # nothing smaller or larger divides 4
    assert (first.best, first.remembered) == (4, False)
    again = tuning.tune(CONFIG, tmp_path)
    assert again == first._replace(remembered=True)
    assert len(timed) == 1
    other = dataclasses.replace(CONFIG, hidden=(4,))
    assert not tuning.tune(other, tmp_path).remembered
    assert len(timed) == 2


def test_a_damaged_memory_is_written_anew(tmp_path, timed):
    tuning.tune(CONFIG, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    for content in ("", "{", "[]", '{"seconds": {"two": 1}}', '{"seconds": 3}'):
        file.write_text(content)
        assert not tuning.tune(CONFIG, tmp_path).remembered, content
        assert file.read_text() == whole, content


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path, timed, caplog):
    (tmp_path / "file").write_text("")
    assert tuning.tune(CONFIG, tmp_path / "file" / "tuned").best == 4
    assert "times are not remembered" in caplog.text


def test_on_an_accelerator_chunks_are_tried(tmp_path, timed, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    tuned = tuning.tune(dataclasses.replace(CONFIG, tile=None, chunk=2), tmp_path)
    assert (tuned.field, tuned.planned, tuned.best) == ("chunk", 2, 4)


def test_a_size_that_memory_has_no_room_for_is_left_out(monkeypatch):
    monkeypatch.setattr(roofline, "peak_bytes", lambda program: 2)
    assert [*tuning.tune(CONFIG, free=1).seconds] == [2]  # the planned one, come what may


def test_memory_is_beside_the_compiled_programs(tmp_path):
    before = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    try:
        for folder, found in ((tmp_path, tmp_path / "tuned"), ("gs://bucket", None), (None, None)):
            jax.config.update("jax_compilation_cache_dir", folder and str(folder))
            assert tuning.memory() == found
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.slow
def test_updates_are_timed_with_every_size(monkeypatch, capsys):
    monkeypatch.setattr(roofline, "matrix_rate", lambda mesh: 1e9)
    monkeypatch.setattr(roofline, "copy_rate", lambda mesh: 2e9)
    monkeypatch.setattr(tuning, "memory", lambda: None)
    assert cli.run(["plan", *FLAGS, "--memory", "1", "--tune"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    name, line = last.split(maxsplit=1)
    assert name == "tuned"
    assert line.split(" with ")[0].count("an update as planned") == 1
    assert re.findall(r"--tile (\d+)", line) == ["1", "4"]


def test_a_run_has_the_tuned_tile_in_its_configuration(tmp_path, timed, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "memory", lambda: None)
    flags = ["--no-comparisons", "--evaluation-tasks", "4", "--quiet", "--tune"]
    run = tmp_path / "run"
    assert cli.run(["train", *FLAGS, "--updates", "1", *flags, "--run", str(run)]) == 0
    assert json.loads((run / "config.json").read_text())["config"]["tile"] == 4
    assert "tuned: 500 ms an update as planned, 1 s with --tile 1" in capsys.readouterr().err
    assert cli.run(["train", "--resume", str(run), "--quiet"]) == 0
    assert cli.run(["train", "--resume", str(run), "--tune"]) == 2
    assert "--tune contradicts --resume" in capsys.readouterr().err


def test_the_least_of_the_times_counts(monkeypatch):
    taken = itertools.cycle([9.0, 1.0, 5.0, 2.0, 3.0, 8.0])  # of both sizes in turn
    ticks = itertools.chain.from_iterable((100.0, next(taken)) for _ in itertools.count())
    clock = itertools.accumulate(ticks)
    monkeypatch.setattr(tuning, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    assert tuning._time(CONFIG, "tile", 2, [2, 4], None) == {2: 3.0, 4: 1.0}


def test_times_of_other_versions_are_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_time", lambda *_: {2: 1.0})
    tuning.tune(CONFIG, tmp_path)
    assert tuning.tune(CONFIG, tmp_path).remembered
    monkeypatch.setattr(runs, "versions", lambda: {"jax": "another"})
    assert not tuning.tune(CONFIG, tmp_path).remembered


def test_a_size_that_finds_no_memory_when_run_is_left_out(monkeypatch):
    trace, full = tuning.training.trace, iter((False, True))  # of sizes 2 and 4

    class Full:
        def __init__(self, program):
            self.program = program

        def __getattr__(self, name):
            return getattr(self.program, name)

        def __call__(self, *_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    class Traced:
        def __init__(self, learner):
            self.traced, self.full = trace(learner), next(full)

        def lower(self):
            return self

        def compile(self):
            program = self.traced.lower().compile()
            return Full(program) if self.full else program

    monkeypatch.setattr(tuning.training, "trace", Traced)
    assert [*tuning._time(CONFIG, "tile", 2, [2, 4], None)] == [2]
