"""Adapting to held-out tasks, and to given ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
import toy

import envs
import metajax as mj
from metajax import evaluation, streams, training
from metajax.mapping import Mapping, task_mesh
from metajax.types import Trace


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


def test_tasks_that_are_keys_are_drawn_or_given():
    """Both have one type; a program for the one is not that for the other."""
    problem = toy.problem()._replace(sample_task=lambda key: jax.random.fold_in(key, 1))

    def adapt(params, task, key):
        return params, Trace(jax.random.key_data(task), jnp.int32(1))

    keys = jax.random.split(jax.random.key(0), 4)
    for tasks in (keys, 4, keys):
        found = mj.evaluate(adapt, {"w": jnp.zeros(2)}, problem, tasks=tasks, seed=3).score
        if tasks is not keys:
            drawn = jax.random.split(streams.heldout_keys(3)[0], 4)
            tasks = jax.vmap(problem.sample_task)(drawn)
        np.testing.assert_array_equal(found, jax.random.key_data(tasks))


@pytest.mark.parametrize("mapping", [Mapping(), Mapping(task_mesh(2))])
def test_given_tasks_are_adapted_to_once_each(mapping):
    goals = np.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]], np.float32)
    result = evaluate(tasks=goals, oracle=lambda task: task[0], mapping=mapping)
    distance = np.sum((np.array([0.3, -0.2]) - goals) ** 2, axis=1)
    shrink = 0.8 ** (2 * np.arange(3))
    np.testing.assert_allclose(result.score, -distance[:, None] * shrink, rtol=1e-5)
    np.testing.assert_array_equal(result.oracle, goals[:, 0])


def test_tasks_of_a_set_are_given_as_its_tasks():
    room = envs.make("gridworld", size=3, horizon=2)
    tasks = envs.TaskSet.make(room, jax.random.key(0), 20)
    network = mj.networks.mlp_policy(room.action_space, (2,))
    problem = mj.policy_gradient(room, network, episodes=2)

    def adapt(params, task, key):
        return params, Trace(jnp.full(1, jnp.sum(task.goal)), jnp.int32(1))

    found = mj.evaluate(adapt, {}, problem, tasks=tasks.tasks)
    np.testing.assert_array_equal(found.score[:, 0], jnp.sum(tasks.tasks.goal, axis=-1))
    for wrong in (tasks, tasks.get(0), [tasks.get(0)], jnp.zeros((3, 2)), jnp.zeros((0, 2))):
        with pytest.raises(ValueError, match="tasks: expected a number of them, or tasks of"):
            mj.evaluate(adapt, {}, problem, tasks=wrong)
