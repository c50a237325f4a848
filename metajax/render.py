"""Pictures of a run folder: the curves, and the agent before and after adaptation."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import envs.render
from envs import Trial

from . import configs, experiments, loggers, plots
from .catalogue import BY_MEMORY, unit_of
from .compiling import compiler_options
from .rollout import retrace
from .streams import heldout_keys
from .training import METRICS
from .types import Params

__all__ = ["draw_agent", "draw_curves"]

CANDIDATES = 32  # held-out tasks, of which one is shown
PIXELS = 320


class _Played(NamedTuple):
    """One episode of each of a batch's B columns, with what came before it in a trial."""

    states: Any  # (T + 1, B, ...), the environment's
    reward: jax.Array  # (T, B)
    steps: jax.Array  # (T, B) bool, whether a step was taken, and is one of the episode's


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
    if not envs.render.has_picture(experiment.environment):
        return []
    steps = config.evaluation_steps
    task, before, after = _typical_success(experiment, config, jax.device_get(params))
    shown = {"before adaptation": _median_episode(before)}
    if steps:
        title = f"after {steps} {unit_of(config.algorithm)}{'' if steps == 1 else 's'}"
        shown[title] = _median_episode(after)
    films = {}
    for title, (states, score) in shown.items():
        pictures = envs.render.frames(experiment.environment, task, states, PIXELS)
        films[f"{title}: return {score:.2f}"] = pictures
    written = [run / "agent.gif", run / "agent.png"]
    pictures = plots.side_by_side(films)
    plots.write_gif(pictures, written[0])
    plots.write_png(pictures[-1], written[1])
    return written


def _typical_success(
    experiment: experiments.Experiment, config: configs.TrainConfig, params: Params
) -> tuple[Any, _Played, _Played]:
    """A task, and what is played on it before and after adaptation."""
    steps = config.evaluation_steps
    remembers = config.algorithm in BY_MEMORY
    # One task at a time: that is quicker to compile than many at once, and a few are enough.
    sample_task = jax.jit(experiment.problem.sample_task)
    adapt = jax.jit(experiment.evaluation(steps), compiler_options=compiler_options())
    play = jax.jit(functools.partial(_play, experiment, remembers), static_argnums=3)
    # The first of the tasks that an evaluation reports.
    key_tasks, key_adapt, key_play = heldout_keys(config.seed)
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
    before = play(params, task, key_before, 0)
    after = play(adapted, task, key_after, steps if remembers else 0)
    return jax.device_get((task, before, after))


def _play(
    experiment: experiments.Experiment,
    remembers: bool,
    params: Params,
    task: Any,
    key: jax.Array,
    index: int,
) -> _Played:
    """Plays one batch on a task, and takes episode `index` of each column."""
    env: Any = experiment.environment
    batch = experiment.problem.collect(params, task, key)
    steps = batch.mask > 0
    if not remembers:
        return _Played(retrace(env, task, key, batch.action), batch.reward, steps)
    # A trial that ends with the episode: after its last step none begins, so its end is a state.
    states = retrace(Trial(env, index + 1), task, key, batch.action)
    return _Played(states.inner, batch.reward, steps & (states.episode[:-1] == index))


def _median_episode(played: _Played) -> tuple[Any, float]:
    """The L + 1 states and the return, of the column whose return is the median."""
    scores = np.sum(played.reward, axis=0, where=played.steps)
    column = int(np.argsort(scores)[len(scores) // 2])
    steps = np.flatnonzero(played.steps[:, column])
    shown = [steps[0], *(steps + 1)]
    return jax.tree.map(lambda leaf: leaf[shown, column], played.states), float(scores[column])
