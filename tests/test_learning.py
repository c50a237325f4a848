"""Learning runs of minutes: `pytest -m slow`. The full figures are `benchmarks/learning.py`."""

import dataclasses

import jax
import pytest

from metajax import evaluation, experiments, presets, training

PRESETS_THAT_LEARN = ["gridworld", "gridworld-q", "tabular-mdp", "point", "maze", "maze-q"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS_THAT_LEARN)
def test_meta_training_makes_inner_steps_worth_taking_on_held_out_tasks(name):
    config = presets.PRESETS[name]
    experiment = experiments.build(config)
    state = training.train(experiment.learner, updates=config.updates, progress=False)
    judge = evaluation.evaluator(
        experiment.evaluation(config.inner_steps),
        experiment.problem,
        tasks=512,
        mapping=experiment.mapping,
    )
    adapted = judge(state.params)
    untrained = judge(experiment.problem.init(jax.random.key(1)))
    assert adapted.ci95[-1, 0] > adapted.ci95[0, 1]
    assert adapted.ci95[-1, 0] > untrained.ci95[-1, 1]


@pytest.mark.slow
def test_an_inner_rate_that_is_far_too_low_is_learned_to_be_higher_and_that_pays():
    low = dataclasses.replace(
        presets.PRESETS["sinusoid-10"], updates=5000, inner_learning_rate=(1e-3,)
    )
    judged = []
    for config in (low, dataclasses.replace(low, learn=("learning_rate",))):
        experiment = experiments.build(config)
        state = training.train(experiment.learner, updates=config.updates, progress=False)
        judge = evaluation.evaluator(experiment.evaluation(1), experiment.problem, tasks=2000)
        judged.append(judge(state.params).ci95[-1])
    fixed, learned = judged
    assert learned[0] > fixed[1]
