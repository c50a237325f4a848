"""What published tables report of a run, where that is not the score after so many inner steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import metajax as mj
from envs.point_corners import STRIDE
from metajax import evaluation, experiments, runs, streams, training

__all__ = ["arrival", "mean_so_far"]


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
    """Where the episodes of `point-corners` end: its rewards, which can repeat, do not show that.

    Args:
        run: the folder of a run.
        row: "random initialisation" for that in place of the run's learner.

    Returns:
        Statistics over the run's held-out tasks, in the form of `adaptation.json`.
    """
    config, _ = runs.read(run)
    experiment = experiments.build(config, begun=True)
    problem = _by_distance(experiment.problem)
    if row is None:
        params = _trained(experiment, run)
    else:
        params = problem.init(streams.key_stream(config.seed, "baseline"))
    # Every algorithm of that table adapts by plain gradient steps.
    inner = mj.sgd(config.inner_learning_rate, config.evaluation_steps)
    return _evaluate(mj.adaptation(problem, inner), params, problem, experiment, config)


def mean_so_far(run: Path, row: str | None = None) -> dict[str, Any]:
    """The mean return of a trial's episodes up to each; tables of RL² have the last one's sum.

    Args and returns are those of `arrival`.

    Raises:
        ValueError: a row: what it is compared with has no memory.
    """
    if row is not None:
        raise ValueError(f"row: expected none for trials, got {row!r}")
    config, _ = runs.read(run)
    experiment = experiments.build(config, begun=True)
    played = experiment.evaluation(config.evaluation_steps)

    def adapt(params: Any, task: Any, key: jax.Array) -> tuple[Any, mj.Trace]:
        params, trace = played(params, task, key)
        episodes = jnp.arange(1, len(trace.score) + 1, dtype=trace.score.dtype)
        return params, dataclasses.replace(trace, score=jnp.cumsum(trace.score) / episodes)

    return _evaluate(adapt, _trained(experiment, run), experiment.problem, experiment, config)


def _trained(experiment: experiments.Experiment, run: Path) -> Any:
    return training.restore(experiment.learner, run, runs.described(run))[0].params


def _evaluate(
    adapt: Any, params: Any, problem: mj.Problem, experiment: Any, config: Any
) -> dict[str, Any]:
    return evaluation.evaluate(
        adapt,
        params,
        problem,
        tasks=config.evaluation_tasks,
        seed=config.seed,
        mapping=experiment.mapping,
    ).to_json()
