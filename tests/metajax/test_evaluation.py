"""Statistics against hand-computed values; held-out tasks; the report and the table."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import metajax as mj
from metajax import evaluation, streams, training
from metajax.evaluation import Adaptation
from metajax.mapping import Mapping, task_mesh
from metajax.types import Trace


def adaptation(**changes) -> Adaptation:
    score = np.array([[1.0, 3.0], [2.0, 1.0], [3.0, 5.0], [0.0, 4.0], [9.0, 9.0]])
    fields = {"score": score, "samples": np.full(5, 20), "oracle": None}
    return Adaptation(**{**fields, **changes})


# Statistics -----------------------------------------------------------------------------------


def test_iqm_of_four_is_the_mean_of_the_middle_two():
    assert evaluation.iqm(np.array([100.0, 1.0, 3.0, -50.0])) == 2.0


def test_iqm_survives_tasks_that_diverged():
    scores = np.arange(8.0)
    for lost in (-np.inf, np.nan):
        assert evaluation.iqm(np.where(scores == 5, lost, scores)) == 2.5  # of 1, 2, 3 and 4
    assert np.isnan(evaluation.iqm(np.array([-np.inf, np.inf])))


def test_iqm_weighs_the_values_at_the_edges_by_what_is_inside():
    # 5 tasks: 1.25 are cut off each end, so .75 of the second and of the fourth remain.
    expected = (0.75 * 1 + 2 + 0.75 * 3) / 2.5
    np.testing.assert_allclose(evaluation.iqm(np.array([2.0, 0.0, 1.0, 3.0, 9.0])), expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_iqm_lies_between_the_quartiles_and_ignores_order(values):
    ordered = evaluation.iqm(np.sort(values))
    np.testing.assert_allclose(evaluation.iqm(np.array(values)[::-1]), ordered)
    low, high = np.percentile(values, [25, 75], method="inverted_cdf")
    assert low - 1e-6 * abs(low) <= ordered <= high + 1e-6 * abs(high)


def test_bootstrap_agrees_with_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=(400, 2))
    interval = evaluation.bootstrap_ci95(values)
    error = values.std(axis=0) / np.sqrt(400)
    expected = values.mean(axis=0)[:, None] + 1.96 * error[:, None] * np.array([-1, 1])
    np.testing.assert_allclose(interval, expected, atol=0.03)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    samples = np.random.default_rng(2).exponential(1.0, size=(200, 100))
    intervals = [evaluation.bootstrap_ci95(sample, resamples=400) for sample in samples]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.98


def test_bootstrap_is_the_same_every_time_and_exact_for_one_task():
    values = np.random.default_rng(3).normal(size=(50, 3))
    first, second = (evaluation.bootstrap_ci95(values) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(evaluation.bootstrap_ci95(np.array([4.0])), [4.0, 4.0])


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


# Adapting -------------------------------------------------------------------------------------


def evaluate(**changes):
    learner, problem = toy.learner(steps=2), toy.problem()
    params = {"w": jnp.array([0.3, -0.2])}
    settings = {"tasks": 6, "seed": 5, **changes}
    return evaluation.evaluate(learner, params, problem, **settings)


@pytest.mark.smoke
def test_scores_are_those_of_adapting_each_task_alone():
    result = evaluate(oracle=lambda task: 1.0 + jnp.sum(task**2))
    key_tasks, _ = jax.random.split(streams.key_stream(5, "heldout"), 2)
    goals = np.stack([toy.problem().sample_task(key) for key in jax.random.split(key_tasks, 6)])
    distance = np.sum((np.array([0.3, -0.2]) - goals) ** 2, axis=1)
    shrink = 0.8 ** (2 * np.arange(3))  # each step takes 2 * 0.1 of the way
    np.testing.assert_allclose(result.score, -distance[:, None] * shrink, rtol=1e-5)
    np.testing.assert_allclose(result.oracle, 1 + np.sum(goals**2, axis=1), rtol=1e-6)
    assert result.steps == [0, 1, 2]
    assert result.tasks == 6
    assert result.negative_adaptation == 0.0


def test_inner_steps_alone_adapt_as_the_learner_made_of_them():
    problem, inner = problems.quadratic(), mj.sgd(0.1, steps=2)
    learner = mj.maml(problem, inner, optax.sgd(0.1), 2)
    params = problem.init(jax.random.key(0))
    by_learner, by_steps = (
        mj.evaluate(by, params, problem, tasks=3) for by in (learner, mj.adaptation(problem, inner))
    )
    np.testing.assert_array_equal(by_learner.score, by_steps.score)
    longer = mj.evaluate(mj.adaptation(problem, mj.sgd(0.1, steps=4)), params, problem, tasks=3)
    np.testing.assert_allclose(longer.score[:, :3], by_steps.score, rtol=1e-6)
    with pytest.raises(ValueError, match="inner steps: expected at least 0, got -1"):
        mj.adaptation(problem, mj.sgd(0.1, steps=-1))


def test_a_task_is_the_same_however_many_there_are_and_whoever_adapts():
    mesh = Mapping(task_mesh(2))
    few, many, odd = evaluate(tasks=2), evaluate(tasks=8), evaluate(tasks=5, mapping=mesh)
    np.testing.assert_allclose(few.score, many.score[:2], rtol=1e-6)
    np.testing.assert_allclose(odd.score, many.score[:5], rtol=1e-6)


def test_another_seed_means_other_tasks():
    assert not np.any(evaluate(seed=5).score == evaluate(seed=6).score)


def test_held_out_tasks_are_none_of_those_trained_on():
    seen = []
    problem = toy.problem()

    def sample_task(key):
        task = problem.sample_task(key)
        jax.debug.callback(lambda goal: seen.append(tuple(np.asarray(goal).ravel())), task)
        return task

    recording = problem._replace(sample_task=sample_task)
    training.train(toy.learner(of=recording), updates=20, seed=5, progress=False)
    jax.effects_barrier()
    trained = set(seen)
    seen.clear()
    evaluation.evaluate(toy.learner(), {"w": jnp.zeros(2)}, recording, tasks=80, seed=5)
    jax.effects_barrier()
    assert len(trained) == len(set(seen)) == 80
    assert not trained & set(seen)


def test_parameters_from_anywhere_go_through_one_program():
    traces = []
    learner = toy.learner()

    def adapt(*args):
        traces.append(1)
        return learner.adapt(*args)

    run = evaluation.evaluator(
        learner._replace(adapt=adapt), toy.problem(), tasks=4, mapping=Mapping(task_mesh(2))
    )
    here = {"w": jnp.ones(2)}
    there = jax.device_put(here, jax.devices()[1])
    np.testing.assert_array_equal(run(here).score, run(there).score)
    assert len(traces) == 1


@pytest.mark.parametrize(("name", "value"), [("tasks", 0), ("tasks", -3), ("seed", -1)])
def test_an_argument_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected .*got {value}"):
        evaluate(**{name: value})


# Reporting ------------------------------------------------------------------------------------


def test_the_report_has_the_contract_s_keys():
    oracle = np.full(5, 10.0)
    out = evaluation.report(
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
    out = evaluation.report(broken, preset="p", algorithm="a")
    assert out["mean"] == [1.5, None]
    json.dumps(out, allow_nan=False)


def printed(rows, width=110) -> str:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(evaluation.table(rows, title="maze, maml"))
    return capture.get()


def test_the_table_has_a_row_per_start_and_a_column_per_step():
    oracle = np.full(5, 10.0)
    rows = {"maml": adaptation(oracle=oracle), "random": adaptation(oracle=oracle)}
    text = printed(rows)
    for words in ("0 inner steps", "1 inner step ", "4.40", "20%", "IQM", "optimal", "0.440"):
        assert words in text
    assert text.count("random") == 2  # its scores, and its shares of the optimum


def test_the_table_of_many_steps_fits_a_terminal():
    score = np.random.default_rng(0).normal(size=(9, 11)) * 100
    text = printed({"maml": Adaptation(score, np.zeros(9))}, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "10 inner" in text
    assert "optimal" not in text


def test_a_task_is_drawn_and_adapted_to_with_keys_of_their_own():
    problem = toy.problem()._replace(sample_task=lambda key: jax.random.key_data(key))

    def adapt(params, task, key):
        both = jnp.concatenate([task, jax.random.key_data(key)])
        return params, Trace(both, jnp.int32(1))

    found = mj.evaluate(adapt, {"w": jnp.zeros(2)}, problem, tasks=4, seed=3).score
    expected = [
        jax.random.key_data(jax.random.split(key, 4)) for key in streams.heldout_keys(3)[:2]
    ]
    np.testing.assert_array_equal(found, np.concatenate(expected, axis=1))
