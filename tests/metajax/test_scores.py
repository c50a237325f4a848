"""Statistics of scores against hand-computed values; the report and the table."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from metajax import scores
from metajax.scores import Adaptation


def adaptation(**changes) -> Adaptation:
    score = np.array([[1.0, 3.0], [2.0, 1.0], [3.0, 5.0], [0.0, 4.0], [9.0, 9.0]])
    fields = {"score": score, "samples": np.full(5, 20), "oracle": None}
    return Adaptation(**{**fields, **changes})


# Statistics -----------------------------------------------------------------------------------


def test_iqm_of_four_is_the_mean_of_the_middle_two():
    assert scores.iqm(np.array([100.0, 1.0, 3.0, -50.0])) == 2.0


def test_iqm_survives_tasks_that_diverged():
    values = np.arange(8.0)
    for lost in (-np.inf, np.nan):
        assert scores.iqm(np.where(values == 5, lost, values)) == 2.5  # of 1, 2, 3 and 4
    assert np.isnan(scores.iqm(np.array([-np.inf, np.inf])))


def test_iqm_weighs_the_values_at_the_edges_by_what_is_inside():
    # 5 tasks: 1.25 are cut off each end, so .75 of the second and of the fourth remain.
    expected = (0.75 * 1 + 2 + 0.75 * 3) / 2.5
    np.testing.assert_allclose(scores.iqm(np.array([2.0, 0.0, 1.0, 3.0, 9.0])), expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_iqm_lies_between_the_quartiles_and_ignores_order(values):
    ordered = scores.iqm(np.sort(values))
    np.testing.assert_allclose(scores.iqm(np.array(values)[::-1]), ordered)
    low, high = np.percentile(values, [25, 75], method="inverted_cdf")
    assert low - 1e-6 * abs(low) <= ordered <= high + 1e-6 * abs(high)


def test_bootstrap_agrees_with_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(400, 2))
    interval = scores.bootstrap_ci95(values)
    error = values.std(axis=0) / np.sqrt(400)
    expected = values.mean(axis=0)[:, None] + 1.96 * error[:, None] * np.array([-1, 1])
    np.testing.assert_allclose(interval, expected, atol=0.03)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    samples = np.random.default_rng(2).exponential(1.0, size=(200, 100))
    intervals = [scores.bootstrap_ci95(sample, resamples=400) for sample in samples]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.98


def test_bootstrap_is_the_same_every_time_and_exact_for_one_task():
    values = np.random.default_rng(3).normal(size=(50, 3))
    first, second = (scores.bootstrap_ci95(values) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(scores.bootstrap_ci95(np.array([4.0])), [4.0, 4.0])


def test_negative_adaptation_counts_the_tasks_made_worse():
    assert adaptation().negative_adaptation == 0.2
    assert adaptation().diverged == 0


def test_a_task_without_a_finite_score_is_made_worse_and_told():
    broken = adaptation(score=np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, 2.0], [1.0, 2.0]]))
    assert broken.negative_adaptation == 0.5
    assert broken.diverged == 2
    assert "maml: 2 tasks ended in no finite score" in " ".join(printed({"maml": broken}).split())


def test_scores_are_normalised_task_by_task_where_every_optimum_is_positive():
    oracle = np.array([2.0, 2.0, 5.0, 4.0, 9.0])
    share = adaptation(oracle=oracle).normalised
    np.testing.assert_allclose(share.score[:, 1], [1.5, 0.5, 1.0, 1.0, 1.0])
    assert adaptation(oracle=np.array([2.0, 2.0, 0.0, 4.0, 9.0])).normalised is None
    assert adaptation().normalised is None


# Reporting ------------------------------------------------------------------------------------


def test_the_report_has_the_contract_s_keys():
    oracle = np.full(5, 10.0)
    out = scores.report(
        adaptation(oracle=oracle),
        preset="maze",
        algorithm="maml",
        comparisons={"random initialisation": adaptation()},
    )
    assert list(out) == [
        *("preset", "algorithm", "tasks", "steps", "mean", "ci95", "iqm", "oracle"),
        *("negative_adaptation", "normalised", "comparisons"),
    ]
    assert out["steps"] == [0, 1]
    np.testing.assert_allclose(out["mean"], [3.0, 4.4])
    np.testing.assert_allclose(out["iqm"], [2.0, 4.0])
    np.testing.assert_allclose(out["normalised"]["mean"], [0.3, 0.44])
    assert np.shape(out["ci95"]) == (2, 2)
    other = out["comparisons"]["random initialisation"]
    assert list(other) == ["mean", "ci95", "iqm", "oracle", "negative_adaptation"]
    assert other["oracle"] is None
    json.dumps(out, allow_nan=False)


def test_what_is_not_finite_is_null_in_the_report():
    broken = adaptation(score=np.array([[1.0, np.nan], [2.0, np.inf]]))
    out = scores.report(broken, preset="p", algorithm="a")
    assert out["mean"] == [1.5, None]
    json.dumps(out, allow_nan=False)


def printed(rows, width=110) -> str:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(scores.table(rows, title="maze, maml"))
    return capture.get()


def test_the_table_has_a_row_per_start_and_a_column_per_step():
    oracle = np.full(5, 10.0)
    rows = {"maml": adaptation(oracle=oracle), "random": adaptation(oracle=oracle)}
    text = printed(rows)
    for words in ("0 inner steps", "1 inner step ", "4.40", "20%", "IQM", "optimal", "0.440"):
        assert words in text
    assert text.count("random") == 2  # its scores, and its shares of the optimum


def test_a_single_score_is_not_called_worse():
    text = printed({"maml": Adaptation(np.ones((4, 1)), np.zeros(4), np.full(4, 2.0))})
    assert "0 inner steps" in text
    assert "0.500" in text
    assert "worse" not in text


def test_the_table_of_many_steps_fits_a_terminal():
    score = np.random.default_rng(0).normal(size=(9, 11)) * 100
    text = printed({"maml": Adaptation(score, np.zeros(9))}, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "10 inner" in text
    assert "optimal" not in text


def test_bootstrap_of_many_tasks_is_drawn_in_blocks_as_at_once():
    values = np.random.default_rng(4).normal(size=3000)  # blocks of 1333
    drawn = np.random.default_rng(0).multinomial(3000, np.full(3000, 1 / 3000), size=2000)
    expected = np.percentile(drawn @ values / 3000, [2.5, 97.5])
    np.testing.assert_allclose(scores.bootstrap_ci95(values), expected, rtol=1e-9)


def test_a_score_of_infinity_is_made_worse():
    broken = adaptation(score=np.array([[1.0, np.inf], [1.0, 2.0]]))
    assert (broken.negative_adaptation, broken.diverged) == (0.5, 1)


def test_report_and_table_give_the_last_iqm_and_the_mean_optimum():
    found = adaptation(oracle=np.array([2.0, 4.0, 5.0, 8.0, 16.0]))
    out = found.to_json()
    assert out["oracle"] == 7.0
    share = out["normalised"]
    for (low, high), mean in zip(share["ci95"], share["mean"], strict=True):
        assert low < mean < high
    lines = printed({"m": found}).splitlines()
    cells = [[cell for cell in line.split() if cell[0].isdigit()] for line in lines]
    assert ["3.00", "4.40", "4.00", "20%"] in cells
    assert ["7.00", "5.60"] in cells  # mean and IQM of the optima
