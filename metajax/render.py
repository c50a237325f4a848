"""Pictures of a run folder: the curves, and the agent before and after adaptation."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import envs.render
from envs import Gridworld, Maze, PointCorners, PointNavigation, Trial

from . import configs, experiments, loggers, plots
from .catalogue import BY_MEMORY, unit_of
from .compiling import compiler_options
from .streams import heldout_keys
from .training import METRICS
from .types import Params

__all__ = ["draw_agent", "draw_curves"]

CANDIDATES = 32  # held-out tasks, of which one is shown
PIXELS = 320


class _Pose(NamedTuple):
    """Where an agent is, and the direction that it faces, if it has one."""

    position: jax.Array  # (..., 2)
    heading: jax.Array | None  # (...)


class _Played(NamedTuple):
    """A task's batch, replayed: B columns of at most T steps, each one episode or a trial."""

    before: _Pose  # (T, B, ...), before each step
    after: _Pose  # (T, B, ...)
    mask: jax.Array  # (T, B), 1 where a step was taken
    reward: jax.Array  # (T, B)
    episode: jax.Array  # (T, B) int32, which one of its trial a step belongs to


def draw_curves(
    run: Path, config: configs.TrainConfig, report: dict[str, Any] | None
) -> list[Path]:
    """Draws learning.png, and adaptation.png where there is a `report`; returns what it wrote."""
    name = f"{config.preset}, {config.algorithm}"
    written = [run / "learning.png"]
    rows = loggers.read_metrics(run / METRICS)
    oracle = report["oracle"] if report else None
    plots.learning_curve(
        rows,
        written[0],
        title=f"Learning: {name}",
        oracle=oracle,
        samples="environment steps" if hasattr(config, "env") else "examples",
    )
    if report:
        written.append(run / "adaptation.png")
        unit = unit_of(config.algorithm)
        plots.adaptation_curve(report, written[1], title=f"Adaptation: {name}", unit=unit)
    return written


def draw_agent(
    run: Path, config: configs.TrainConfig, experiment: experiments.Experiment, params: Params
) -> list[Path]:
    """Draws agent.gif and agent.png; returns what it wrote, nothing where there are no pictures.

    The task is the one of median gain among the first held-out tasks that gained by adaptation, and
    the episodes are those of median return before and after: a typical success.
    """
    if not isinstance(experiment.environment, Maze | Gridworld | PointNavigation | PointCorners):
        return []
    steps = config.evaluation_steps
    remembers = config.algorithm in BY_MEMORY
    params = jax.device_get(params)
    task, before, after = _typical_success(experiment, config.seed, steps, params)
    shown = {"before adaptation": _median_episode(before, 0)}
    if steps:
        title = f"after {steps} {unit_of(config.algorithm)}{'' if steps == 1 else 's'}"
        shown[title] = _median_episode(after, steps if remembers else 0)
    films = {}
    for title, (pose, score) in shown.items():
        length = len(pose.position)
        pictures = envs.render.frames(
            experiment.environment, task, pose.position, length, PIXELS, pose.heading
        )
        films[f"{title}: return {score:.2f}"] = pictures
    written = [run / "agent.gif", run / "agent.png"]
    pictures = plots.side_by_side(films)
    plots.write_gif(pictures, written[0])
    plots.write_png(pictures[-1], written[1])
    return written


def _typical_success(
    experiment: experiments.Experiment, seed: int, steps: int, params: Params
) -> tuple[Any, _Played, _Played]:
    """A task, and what is played on it with `params` and with the adapted ones."""
    # One task at a time: that is quicker to compile than many at once, and a few are enough.
    sample_task = jax.jit(experiment.problem.sample_task)
    adapt = jax.jit(experiment.evaluation(steps), compiler_options=compiler_options())
    play = jax.jit(functools.partial(_play, experiment))
    # The first of the tasks that an evaluation reports.
    key_tasks, key_adapt, key_play = heldout_keys(seed)
    keys = (jax.random.split(key, CANDIDATES) for key in (key_tasks, key_adapt))
    candidates = []
    for key_task, key in zip(*keys, strict=True):
        task = sample_task(key_task)
        adapted, trace = adapt(params, task, key)
        gain = float(trace.score[-1] - trace.score[0])
        candidates.append((gain, task, adapted))
    candidates.sort(key=lambda candidate: candidate[0])
    gained = [candidate for candidate in candidates if candidate[0] > 0] or candidates
    _, task, adapted = gained[len(gained) // 2]
    key_before, key_after = jax.random.split(key_play)
    both = play(params, task, key_before), play(adapted, task, key_after)
    return jax.device_get((task, *both))


def _play(experiment: experiments.Experiment, params: Params, task: Any, key: jax.Array) -> _Played:
    # Environments that have pictures step deterministically: actions are enough to recover the
    # path, and a random start is observed.
    env: Any = experiment.environment
    batch = experiment.problem.collect(params, task, key)
    columns = batch.mask.shape[1]
    start, _ = jax.vmap(env.reset, in_axes=(None, None), axis_size=columns)(key, task)
    episode = jnp.zeros(batch.mask.shape, jnp.int32)
    if experiment.problem.scores is not None:
        episode = Trial(env, 1).episode_of(batch.observation)
    begins = jnp.diff(episode, axis=0, prepend=-1) > 0

    def pose(state: Any) -> _Pose:
        return _Pose(state.position, getattr(state, "heading", None))

    def step(state: Any, now: tuple[jax.Array, ...]) -> tuple[Any, tuple[_Pose, _Pose]]:
        action, observation, begins = now
        first = start
        if isinstance(env, PointCorners):
            first = dataclasses.replace(start, position=observation[:, :2])
        state = jax.vmap(_either)(begins, first, state)
        following, _ = jax.vmap(env.step, in_axes=(None, 0, 0, None))(key, state, action, task)
        return following, (pose(state), pose(following))

    steps = (batch.action, batch.observation, begins)
    _, (before, after) = jax.lax.scan(step, start, steps)
    return _Played(before, after, batch.mask, batch.reward, episode)


def _either(condition: jax.Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.where(condition, *leaves), one, other)


def _median_episode(played: _Played, index: int) -> tuple[_Pose, float]:
    """The L + 1 poses and the return, of the column whose return is the median.

    Args:
        played: of a task.
        index: of the episode in each column.
    """
    belongs = (np.asarray(played.episode) == index) & (np.asarray(played.mask) > 0)
    scores = np.sum(played.reward, axis=0, where=belongs)
    column = int(np.argsort(scores)[len(scores) // 2])
    steps = np.flatnonzero(belongs[:, column])

    def along(before: Any, after: Any) -> np.ndarray:
        return np.concatenate([before[steps[:1], column], after[steps, column]])

    return jax.tree.map(along, played.before, played.after), float(scores[column])
