"""Where the episodes of `point-corners` end: its rewards, which can repeat, do not show that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import metajax as mj
from envs.point_corners import STRIDE
from metajax import evaluation, experiments, runs, streams, training

__all__ = ["arrival"]


def _by_distance(problem: mj.Problem) -> mj.Problem:
    """`problem`, with the same adaptation, but scored by minus the final distance to the goal."""

    def collect(params: Any, task: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        batch = problem.collect(params, task, key)
        last = batch.observation[-1] + jnp.clip(batch.action[-1], -STRIDE, STRIDE)
        return batch, jnp.mean(jnp.linalg.norm(last - task.goal[None], axis=-1))

    return problem._replace(
        collect=collect,
        inner_loss=lambda params, both: problem.inner_loss(params, both[0]),
        outer_loss=lambda params, both: problem.outer_loss(params, both[0]),
        score=lambda both: -both[1],
        samples=lambda both: problem.samples(both[0]),
    )


def arrival(run: Path, row: str | None = None) -> dict[str, Any]:
    """Statistics of that score over a run's held-out tasks, in the form of `adaptation.json`.

    They are those of the run's learner, or of the row "random initialisation" if `row` is given.
    """
    config, _ = runs.read(run)
    experiment = experiments.build(config, begun=True)
    problem = _by_distance(experiment.problem)
    if row is None:
        params = training.restore(experiment.learner, run, runs.described(run))[0].params
    else:
        params = problem.init(streams.key_stream(config.seed, "baseline"))
    # Every algorithm of that table adapts by plain gradient steps.
    inner = mj.sgd(config.inner_learning_rate, config.evaluation_steps)
    return evaluation.evaluate(
        mj.adaptation(problem, inner),
        params,
        problem,
        tasks=config.evaluation_tasks,
        seed=config.seed,
        mapping=experiment.mapping,
    ).to_json()
