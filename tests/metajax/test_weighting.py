"""Weights of groups of tasks: the rules by hand, and what an update makes of them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import metajax as mj
from metajax.groups import UNIFORM, Measured, by_optimum

TASKS = 8
UNCERTAINTY, GRADNORM = (
    partial(rule, best=lambda task: 0.0) for rule in (mj.uncertainty_weighting, mj.gradnorm)
)
RULES = {"uncertainty": UNCERTAINTY, "gradient norm": GRADNORM}


def group_of(task):
    return (task["centre"][0] > 1.0).astype(jnp.int32)


def build(weighting, tasks=TASKS, **layout):
    """Joint training on quadratics by plain descent, from whose step the gradient is read off."""
    return mj.multitask(
        problems.quadratic(), mj.sgd(0.1), optax.sgd(1.0), tasks, weighting=weighting, **layout
    )


def fixed(*weights):
    given = jnp.array(weights, jnp.float32)
    return UNIFORM._replace(groups=2, group_of=group_of, weights=lambda state: given)


def moved(learner):
    state = learner.init(jax.random.key(0))
    return state, state.params["theta"] - jax.jit(learner.update)(state)[0].params["theta"]


def gradients(state):
    """(TASKS, 3) of an update's tasks, in closed form, and (TASKS,) their groups."""
    keys = jax.random.split(jax.random.fold_in(state.key, 0), TASKS)
    tasks = [problems.quadratic().sample_task(jax.random.split(key)[0]) for key in keys]
    offsets = [state.params["theta"] - task["centre"] for task in tasks]
    return (
        np.array([problems.CURVATURE @ offset for offset in offsets]),
        np.array([int(group_of(task)) for task in tasks]),
    )


def test_an_update_descends_on_the_weighted_mean_over_tasks():
    state, actual = moved(build(fixed(1.0, 3.0)))
    each, groups = gradients(state)
    assert set(groups) == {0, 1}
    weights = np.where(groups == 1, 3.0, 1.0)
    np.testing.assert_allclose(actual, np.average(each, axis=0, weights=weights), rtol=1e-5)


def test_tasks_of_no_group_count_for_nothing():
    one_of_two = fixed(1.0, 1.0)._replace(group_of=lambda task: 2 * group_of(task))
    state, actual = moved(build(one_of_two))
    each, groups = gradients(state)
    np.testing.assert_allclose(actual, each[groups == 0].mean(axis=0), rtol=1e-5)


def measured(*columns):
    """An update in which every group has a task, measured so."""
    return Measured(jnp.full(2, 0.5, jnp.float32), jnp.array(columns, jnp.float32).T)


def after(rule, *updates):
    state = rule.init()
    np.testing.assert_array_equal(rule.weights(state), [1.0, 1.0])
    for update in updates:
        state = rule.update(state, update)
    return rule.weights(state)


def test_uncertainty_weighs_by_the_running_mean_of_what_is_missing():
    rule = UNCERTAINTY(2, group_of, rate=0.25)
    weights = after(rule, measured([4.0], [1.0]), measured([8.0], [2.0]))
    # The means are 4 + (8 - 4) / 4 = 5 and 1 + (2 - 1) / 4 = 1.25.
    np.testing.assert_allclose(weights[1] / weights[0], 5.0 / 1.25, rtol=1e-6)


def test_gradient_norms_are_weighed_to_how_much_of_the_loss_is_left():
    rule = GRADNORM(2, group_of, asymmetry=2.0, rate=0.5)
    weights = after(rule, measured([4.0, 1.0], [2.0, 1.0]), measured([2.0, 3.0], [2.0, 1.0]))
    # Of the first loss 3/4 is left, of the second all; the norms are 2 and 1.
    norms = np.asarray(weights) * np.array([2.0, 1.0])
    np.testing.assert_allclose(norms[0] / norms[1], 0.75**2, rtol=1e-6)


def test_a_group_that_began_with_nothing_to_lose_does_not_decide_over_the_others():
    rule = GRADNORM(2, group_of)
    began = (1e-5, 0.0, -1e-5)
    more, none, less = (after(rule, measured([first, 1.0], [4.0, 50.0])) for first in began)
    np.testing.assert_allclose(more, none, rtol=1e-5)
    np.testing.assert_allclose(less, none, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_score_that_is_no_number_is_not_remembered(rule):
    weighting = rule(2, group_of)
    rows = weighting.init().mean.shape[0]
    good, bad = (measured([2.0] * rows, [value] * rows) for value in (1.0, np.nan))
    for updates in ([good, bad, good], [bad, good, good]):
        state = weighting.init()
        for update in updates:
            state = weighting.update(state, update)
        assert np.isfinite(state.mean).all()
        assert weighting.weights(state)[0] != weighting.weights(state)[1]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_task_and_no_loss_leave_weights_finite(rule):
    weighting = rule(2, group_of)
    state = weighting.init()
    columns = state.mean.shape[0]
    none = Measured(jnp.array([1.0, 0.0]), jnp.zeros((columns, 2)))
    for _ in range(2):
        state = weighting.update(state, none)
        np.testing.assert_array_equal(weighting.weights(state), [1.0, 1.0])
    assert list(state.seen) == [True, False]


def test_weights_learned_over_updates_do_not_depend_on_the_layout():
    weighting = GRADNORM(2, group_of, asymmetry=3.0, rate=0.5)

    def run(**layout):
        learner = build(weighting, mapping=mj.Mapping(**layout))
        state = learner.init(jax.random.key(0))
        state = jax.jit(
            lambda state: jax.lax.fori_loop(0, 3, lambda _, s: learner.update(s)[0], state)
        )(state)
        return weighting.weights(state.weighting), state.params["theta"]

    whole, parted = run(), run(mesh=mj.task_mesh(2), chunk=3)
    assert abs(whole[0][0] - whole[0][1]) > 0.02
    for a, b in zip(whole, parted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_weights_are_kept_with_the_learner(tmp_path):
    learner = build(GRADNORM(2, group_of), tasks=4)
    settings = dict(updates=4, checkpoint_every=2, log_every=2, progress=False)
    whole = mj.train(learner, **settings)
    mj.train(learner, run=tmp_path, **{**settings, "updates": 2})
    resumed = mj.train(learner, run=tmp_path, resume=True, **settings)
    for a, b in zip(
        jax.tree.leaves(dataclasses.replace(whole, key=())),
        jax.tree.leaves(dataclasses.replace(resumed, key=())),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", RULES)
def test_a_state_as_it_begins_can_be_donated(rule):
    learner = build(RULES[rule](2, group_of))
    state, _ = jax.jit(learner.update, donate_argnums=0)(learner.init(jax.random.key(0)))
    assert state.step == 1


def test_groups_by_optimum_have_as_many_tasks_each():
    optimum, sample_task = jnp.exp, jax.random.normal
    groups, group_of = by_optimum(optimum, sample_task, 5)
    drawn = jax.vmap(lambda key: group_of(sample_task(key)))(
        jax.random.split(jax.random.key(1), 4096)
    )
    assert groups == 5
    np.testing.assert_allclose(np.bincount(drawn) / 4096, 0.2, atol=0.04)


def test_groups_of_equal_optima_are_one():
    groups, group_of = by_optimum(lambda task: jnp.round(task), jax.random.uniform, 9)
    assert groups == 2
    assert [int(group_of(jnp.float32(task))) for task in (0.2, 0.7)] == [0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNCERTAINTY(1, group_of), "groups: expected at least 2, got 1"),
        (
            lambda: UNCERTAINTY(2, group_of, rate=0.0),
            "rate: expected above 0 and up to 1",
        ),
        (lambda: GRADNORM(2, group_of, asymmetry=-1.0), "asymmetry: expected at least 0"),
        (
            lambda: moved(build(UNCERTAINTY(2, lambda task: task["centre"]))),
            "group_of: expected",
        ),
    ],
)
def test_what_cannot_weigh_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("best", "left"), [(lambda task: 0.0, 3.0), (lambda task: task, 5.0)])
def test_what_is_measured_is_the_shortfall_and_the_norm(best, left):
    score, gradient = jnp.float32(-3.0), {"w": jnp.array([3.0, 4.0])}
    for rule, expected in ((mj.uncertainty_weighting, [left]), (mj.gradnorm, [left, 5.0])):
        found = rule(2, group_of, best=best).measure(jnp.float32(2.0), score, gradient)
        np.testing.assert_allclose(found, expected)
