"""A learner is traced and compiled once in a process, and no longer kept than it is."""

from __future__ import annotations

import dataclasses
import functools
import gc
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

import envs
import metajax as mj
from metajax import programs, training

SETTINGS = {"updates": 45, "seed": 3, "log_every": 4, "checkpoint_every": 8, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    yield from toy.compiled_once(tmp_path_factory.mktemp("programs"))


@pytest.mark.smoke
def test_a_learner_is_traced_once_over_a_whole_run(tmp_path):
    traces = []

    def update(state):
        traces.append(1)
        return learner.update(state)

    learner = toy.learner()
    counted = learner._replace(update=update)
    training.train(counted, run=tmp_path, **SETTINGS)  # 11 whole chunks and a last one of 1
    assert len(traces) == 1


def counted() -> tuple[list[str], mj.MetaLearner]:
    """A learner, and what of it was traced."""
    learner, traced = toy.learner(), []

    def noting(name):
        def function(*args):
            traced.append(name)
            return getattr(learner, name)(*args)

        return function

    return traced, mj.MetaLearner(*(noting(name) for name in mj.MetaLearner._fields))


def test_a_learner_is_compiled_once_in_a_process():
    traced, learner = counted()
    problem = toy.problem()
    state = training.train(learner, **SETTINGS)
    longer = training.train(learner, **{**SETTINGS, "updates": 60}, state=state)
    mj.evaluate(learner, state.params, problem, tasks=4)
    again = mj.evaluate(learner, longer.params, problem, tasks=4, seed=1)
    assert (traced.count("update"), traced.count("adapt")) == (1, 1)
    chex.assert_trees_all_equal(training.train(learner, **{**SETTINGS, "updates": 60}), longer)
    # Not where the program is another one.
    mj.evaluate(learner, longer.params, problem, tasks=8)
    with jax.default_matmul_precision("highest"):
        precise = mj.evaluate(learner, longer.params, problem, tasks=4, seed=1)
    assert traced.count("adapt") == 3
    np.testing.assert_allclose(precise.mean, again.mean, rtol=1e-5)


def test_problems_of_one_environment_have_one_evaluation():
    env, traced = envs.make("bandit", arms=2, horizon=2), []
    network = mj.networks.mlp_policy(env.action_space, ())
    one, other = (mj.policy_gradient(env, network, episodes=2) for _ in range(2))
    adaptation = mj.adaptation(one, mj.sgd(0.1))

    def adapt(*args):
        traced.append("adapt")
        return adaptation(*args)

    params = one.init(jax.random.key(0))
    scores = [mj.evaluate(adapt, params, each, tasks=3).score for each in (one, other)]
    assert len(traced) == 1
    np.testing.assert_array_equal(*scores)

    @functools.wraps(one.sample_task)
    def better(key):
        return dataclasses.replace(env.sample_task(key), probability=jnp.ones(2))

    found = mj.evaluate(adapt, params, one._replace(sample_task=better), tasks=3).score
    assert len(traced) == 2
    assert (found > scores[0]).any()


def test_programs_of_functions_that_are_new_each_time_do_not_pile_up():
    _, learner = counted()
    made = []
    for number in range(2 * programs._REMEMBERED):
        what = ["evaluation", number]
        made.append(programs.remembered(learner.adapt, what, (), lambda: object()))
        again = programs.remembered(learner.adapt, ["evaluation", 0], (), lambda: object())
    assert again is made[0]  # in use
    assert len(programs._memory[learner.adapt]) == programs._REMEMBERED


def test_what_is_compiled_of_a_learner_goes_with_it():
    _, learner = counted()
    state = training.train(learner, **SETTINGS)
    mj.evaluate(learner, state.params, toy.problem(), tasks=4)
    functions = [weakref.ref(function) for function in learner]
    del learner
    gc.collect()
    assert [function() for function in functions] == [None] * 3
