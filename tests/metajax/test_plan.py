"""A plan says what the program takes, and what would fit where it does not."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from metajax import cli, plan, presets, roofline

CONFIG = dataclasses.replace(presets.PRESETS["sinusoid-10"], tasks=64, hidden=(8,), devices=1)
FLAGS = ["sinusoid-10", "--tasks", "64", "--hidden", "8", "--devices", "1", "--tile", "4"]


def test_a_plan_has_the_layout_the_cost_and_the_time(monkeypatch):
    monkeypatch.setattr(roofline, "matrix_rate", lambda mesh: 1e9)
    monkeypatch.setattr(roofline, "copy_rate", lambda mesh: 2e9)
    whole = plan.plan(dataclasses.replace(CONFIG, tile=4), memory=1.0)
    assert (whole.devices, whole.chunk, whole.tile) == (1, 64, 4)
    assert whole.fits
    assert whole.fitting is None
    least = whole.cost.flops / 1e9
    assert whole.seconds == (least, least + whole.cost.bytes / 2e9)
    # 10 examples through 1-8-1: support and query forward and backward at the least, and what
    # forward over reverse adds at the most.
    forward = 64 * 10 * 2 * (1 * 8 + 8 * 1)
    assert 4 * forward < whole.cost.flops < 16 * forward


@pytest.mark.parametrize("fixed", [0, 4096])
@pytest.mark.parametrize("free", [1, 5000, 6000, 12_000, 50_000])
def test_a_chunk_is_found_that_fits_where_one_does(monkeypatch, fixed, free):
    def taken(chunk):
        return fixed + 1000 * chunk

    monkeypatch.setattr(plan.experiments, "build", lambda config: SimpleNamespace(learner=config))
    seen, compiled = [], SimpleNamespace(compile=lambda: None)
    stages = SimpleNamespace(lower=lambda: compiled)
    monkeypatch.setattr(plan.training, "trace", lambda config: seen.append(config) or stages)
    monkeypatch.setattr(roofline, "peak_bytes", lambda _: taken(seen[-1].chunk))
    found = plan._fitting_chunk(CONFIG, 64, taken(64), free)
    if found is None:
        assert taken(1) > free
    else:
        assert taken(found) <= free
        assert 1 <= found < 64


def test_the_command_prints_it_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["plan", *FLAGS, "--chunk", "1", "--memory", "1e-9"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "sinusoid-10, maml: 64 tasks, 1 device\n  chunk        1 tasks of a device"
    )
    assert "of 1 B a device" in out
    assert out.endswith("it will not fit, whatever the chunk; fewer samples of a task may\n")
    assert err == ""
    assert list(tmp_path.iterdir()) == []
