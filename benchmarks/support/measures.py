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
from metajax.configs import PolicyConfig

__all__ = ["arrival", "completed", "mean_so_far"]

# Of the sampler of cbfinn/maml_rl, for the 4000 steps of `maml_examples/test_maml_point.py`.
_STEPS, _ROWS = 4000, 40
# Episodes played in a row, at most: 4000 steps need more only of episodes of some four steps.
_LONGEST_ROW = 24


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


def _until(length: jax.Array, steps: int) -> jax.Array:
    """Which episodes are over when those that are over have had `steps` steps together.

    Args:
        length: steps of each episode, (rows, E); those of a row follow each other.
        steps: as many as are wanted; the episodes still running then are left out.

    Returns:
        Whether it is over, (rows, E) bool.
    """
    end = jnp.cumsum(length, axis=1)
    by_end = jnp.argsort(end.ravel())
    so_far = jnp.cumsum(length.ravel()[by_end])
    enough = jnp.where(so_far >= steps, end.ravel()[by_end], jnp.max(end))
    return end <= jnp.min(enough)


def _sampled_by_steps(problem: mj.Problem, discount: float) -> mj.Problem:
    """`problem` with episodes one after another in rows, until those over have enough steps.

    What is short is over sooner, so it counts for more: the mean return is not that of an episode.
    """

    def collect(params: Any, task: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        batch = problem.collect(params, task, key)
        over = _until(jnp.sum(batch.mask, axis=0).reshape(_ROWS, -1), _STEPS).ravel()
        counted = over.astype(batch.mask.dtype)
        mask, reward = batch.mask * counted, batch.reward * counted
        score = jnp.sum(reward) / jnp.sum(counted)
        return dataclasses.replace(batch, mask=mask, reward=reward), score

    # A discount that is given has the advantages computed again, from the episodes that count.
    again = {"discount": jnp.float32(discount)}
    return problem._replace(
        collect=collect,
        inner_loss=lambda params, both: problem.inner_loss(params, both[0], **again),
        outer_loss=lambda params, both: problem.outer_loss(params, both[0], **again),
        score=lambda both: both[1],
        samples=lambda both: problem.samples(both[0]),
    )


def completed(run: Path, row: str | None = None) -> dict[str, Any]:
    """Returns as cbfinn/maml_rl samples and reports them: of the episodes over in 4000 steps.

    For algorithms that adapt by plain gradient steps. Args and returns are those of `arrival`.

    Raises:
        ValueError: a run that is not of policies.
    """
    config, _ = runs.read(run)
    if not isinstance(config, PolicyConfig):
        raise ValueError(f"run: expected one of policies, got {config.preset}")
    config = dataclasses.replace(config, episodes=_ROWS * _LONGEST_ROW)
    experiment = experiments.build(config, begun=True)
    problem = _sampled_by_steps(experiment.problem, config.discount)
    return _adapted_by_gradients(experiment, problem, config, run, row)


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
    return _adapted_by_gradients(experiment, _by_distance(experiment.problem), config, run, row)


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


def _adapted_by_gradients(
    experiment: experiments.Experiment, problem: mj.Problem, config: Any, run: Path, row: str | None
) -> dict[str, Any]:
    """The scores of a problem other than the experiment's, after plain gradient steps."""
    if row is None:
        params = _trained(experiment, run)
    else:
        params = problem.init(streams.key_stream(config.seed, "baseline"))
    inner = mj.sgd(config.inner_learning_rate, config.evaluation_steps)
    return _evaluate(mj.adaptation(problem, inner), params, problem, experiment, config)


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
