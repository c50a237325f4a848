"""Scores of a preset's inner steps alone, from random parameters, at their best rate."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj
from metajax import configs, evaluation, experiments, scores
from metajax.algorithms.hyper import meta_learned
from metajax.streams import key_stream

__all__ = ["from_scratch"]

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # multiples of the preset's rates
INITIALISATIONS = 4


def from_scratch(config: configs.TrainConfig) -> scores.Adaptation:
    """Scores on the run's own evaluation tasks, with as many episodes per inner step.

    The preset's rates are multiplied by the factor that is best after the last step on other tasks;
    the scores of a task are means over initialisations.
    """
    # Plain MAML: only the policy has parameters, whatever the run's own algorithm learns.
    experiment = experiments.build(dataclasses.replace(config, algorithm="maml"))
    steps = mj.sgd(config.inner_learning_rate, config.evaluation_steps)
    # The factor is a parameter here, so that one program serves all factors.
    problem, inner = meta_learned(experiment.problem, steps, ("learning_rate",), speed=1.0)
    learner = mj.maml(problem, inner, optax.sgd(1.0), config.tasks, mapping=experiment.mapping)
    keys = jax.random.split(key_stream(config.seed, "baseline"), INITIALISATIONS)

    def reached(judge: Any, factor: float) -> scores.Adaptation:
        hyper = {"learning_rate": jnp.log(jnp.float32(factor))}
        runs = [judge({**problem.init(key), "hyper": hyper}) for key in keys]
        return dataclasses.replace(runs[0], score=np.mean([run.score for run in runs], axis=0))

    tuning, judging = (
        evaluation.evaluator(
            learner,
            problem,
            tasks=config.evaluation_tasks,
            seed=seed,
            oracle=experiment.oracle,
            mapping=experiment.mapping,
        )
        for seed in ((config.seed + 1) % 2**32, config.seed)
    )
    best = max(FACTORS, key=lambda factor: reached(tuning, factor).mean[-1])
    print(f"{config.preset}, from scratch: best at {best:g} times the rates")
    return reached(judging, best)
