"""Learning runs of minutes: `pytest -m slow`. The full figures are `benchmarks/learning.py`."""

import jax
import pytest

from metajax import evaluation, experiments, presets, training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gridworld", "gridworld-q", "tabular-mdp", "point", "maze"])
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
