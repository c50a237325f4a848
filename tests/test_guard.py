"""benchmarks/guard.py: which records it compares, and which ratios fail."""

import json
import sys
from pathlib import Path

import guard
import pytest

CPU = "AMD EPYC (cpu family 25, model 17, avx512f), 2 cores"
SIZES = {"tasks": 40, "inner_rates": [0.1, 0.025], "q": None}


def record(**fields):
    whole = {
        "hardware": CPU,
        "benchmark": "maml_vs_torch",
        "preset": "point",
        "sizes": SIZES,
        "sides": {"metajax": {"ratio": 1.0}, "torch batched": {"ratio": 3.0}},
        **fields,
    }
    return {name: value for name, value in whole.items() if value is not None}


def sides(**ratios):
    return {name: {"ratio": ratio} for name, ratio in ratios.items()}


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    def of(new, kept, *words):
        paths = [tmp_path / "new.json", tmp_path / "kept.json"]
        for path, content in zip(paths, (new, kept), strict=True):
            path.write_text(json.dumps(content))
        monkeypatch.setattr(sys, "argv", ["guard.py", *map(str, paths), *words])
        try:
            status = guard.main()
        except SystemExit as left:
            status = left.code
        out, err = capsys.readouterr()
        return status, out, err

    return of


@pytest.mark.parametrize(
    ("ratio", "status"),
    [(3.0, 0), (9.0, 0), (2.25, 0), (2.24, 1), (float("nan"), 1), (float("inf"), 1), (None, 1)],
)
def test_a_ratio_holds_if_it_is_a_number_that_fell_by_no_more_than_allowed(compare, ratio, status):
    new, kept = (record(sides=sides(metajax=1.0, torch=value)) for value in (ratio, 3.0))
    assert compare(new, kept)[0] == status


def test_a_kept_ratio_that_is_no_number_or_a_side_that_is_gone_fails(compare):
    broken = record(sides=sides(metajax=1.0, torch=float("nan")))
    status, out, _ = compare(record(sides=sides(metajax=1.0, torch=3.0)), broken)
    assert status == 1
    assert "is no number" in out
    status, out, _ = compare(record(sides=sides(metajax=1.0)), record())
    assert status == 1
    assert "is missing" in out


def test_records_of_other_days_commits_versions_and_sides_are_compared(compare):
    new = record(date="2027-01-02", commit="1234567890+", versions={"jax": "0.12"})
    new["sides"] |= sides(another=5.0)
    assert compare(new, record(date="2026-11-30", commit=None))[0] == 0


def test_older_records_name_a_processor_without_its_kind(compare):
    assert compare(record(), record(hardware="AMD EPYC, 2 cores"))[0] == 0
    assert compare(record(hardware="AMD EPYC, 2 cores"), record())[0] == 0


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"preset": "maze"}, "preset: expected point, got maze"),
        ({"benchmark": "rl2_vs_torch"}, "benchmark: expected maml_vs_torch, got rl2_vs_torch"),
        ({"benchmark": None}, "benchmark: expected maml_vs_torch, got none"),
        ({"sizes": {**SIZES, "tasks": 4}}, "sizes: expected tasks 40, got tasks 4"),
        (
            {"sizes": {**SIZES, "tasks": 4, "inner_rates": [0.1]}},
            "sizes: expected tasks 40, inner_rates [0.1, 0.025], got tasks 4, inner_rates [0.1]",
        ),
        ({"sizes": {**SIZES, "chunk": 10}}, "sizes: expected chunk none, got chunk 10"),
        ({"sizes": None}, "sizes: expected tasks 40, inner_rates"),
        ({"hardware": CPU.replace("17", "1")}, "hardware: expected AMD EPYC"),
        ({"hardware": CPU.replace("2 cores", "8 cores")}, "hardware: expected AMD EPYC"),
        ({"hardware": f"1 x NVIDIA H200; {CPU}"}, "hardware: expected AMD EPYC"),
        ({"sides": {}}, "/"),  # the path of a record without ratios
    ],
)
def test_records_of_other_things_are_refused(compare, fields, start):
    status, out, err = compare(record(**fields), record())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(start)


@pytest.mark.parametrize("within", ["1", "-0.1", "1.5", "nan"])
def test_a_share_outside_of_zero_to_one_is_refused(compare, within):
    status, _, err = compare(record(), record(), "--within", within)
    assert status == 2
    assert err.startswith("within: expected")


def test_records_that_share_no_ratio_are_refused(compare):
    status, _, err = compare(record(sides=sides(one=1.0)), record(sides=sides(other=1.0)))
    assert status == 2
    assert "expected ratios that" in err


def test_every_kept_record_with_ratios_holds_against_itself(monkeypatch, capsys):
    results = Path(guard.__file__).parent / "results"
    for path in sorted(results.glob("*_vs_torch-*.json")):
        monkeypatch.setattr(sys, "argv", ["guard.py", str(path), str(path)])
        assert guard.main() == 0, path
    capsys.readouterr()
