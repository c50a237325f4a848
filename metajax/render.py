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
from envs import Gridworld, Maze, PointCorners, PointNavigation

from . import configs, experiments, loggers, plots
from .compiling import compiler_options
from .streams import key_stream
from .training import METRICS
from .types import Params

__all__ = ["draw_agent", "draw_curves"]

CANDIDATES = 32  # held-out tasks, of which one is shown
PIXELS = 320


class _Played(NamedTuple):
    """One task's episodes, replayed: B episodes of at most T steps."""

    positions: jax.Array  # (T+1, B, 2), where each episode started first
    length: jax.Array  # (B,) int32, steps taken
    score: jax.Array  # (B,) float32, the return


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
        plots.adaptation_curve(report, written[1], title=f"Adaptation: {name}")
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
    task, episodes = _typical_success(experiment, config.seed, steps, jax.device_get(params))
    titles = ("before adaptation", f"after {steps} inner step{'' if steps == 1 else 's'}")
    films = {}
    for title, played in zip(titles, episodes[: 1 + (steps > 0)], strict=False):
        episode = int(np.argsort(played.score)[len(played.score) // 2])
        length = int(played.length[episode]) + 1
        positions = np.asarray(played.positions[:length, episode])
        pictures = envs.render.frames(experiment.environment, task, positions, length, PIXELS)
        films[f"{title}: return {played.score[episode]:.2f}"] = pictures
    written = [run / "agent.gif", run / "agent.png"]
    pictures = plots.side_by_side(films)
    plots.write_gif(pictures, written[0])
    plots.write_png(pictures[-1], written[1])
    return written


def _typical_success(
    experiment: experiments.Experiment, seed: int, steps: int, params: Params
) -> tuple[Any, tuple[_Played, _Played]]:
    # One task at a time: that is quicker to compile than many at once, and a few are enough.
    sample_task = jax.jit(experiment.problem.sample_task)
    adapt = jax.jit(experiment.evaluation(steps).adapt, compiler_options=compiler_options())
    play = jax.jit(functools.partial(_play, experiment))
    # The keys of `evaluation.evaluator`, so these are the first of the tasks that it reports.
    key_tasks, key_adapt, key_play = jax.random.split(key_stream(seed, "heldout"), 3)
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
    return jax.device_get((task, both))


def _play(experiment: experiments.Experiment, params: Params, task: Any, key: jax.Array) -> _Played:
    # Environments that have pictures step deterministically: actions are enough to recover the
    # path, and a random start is observed.
    env: Any = experiment.environment
    batch = experiment.problem.collect(params, task, key)
    episodes = batch.mask.shape[1]
    state, _ = jax.vmap(env.reset, in_axes=(None, None), axis_size=episodes)(key, task)
    if isinstance(env, PointCorners):
        state = dataclasses.replace(state, position=batch.observation[0, :, :2])

    def step(state: Any, action: jax.Array) -> tuple[Any, jax.Array]:
        state, _ = jax.vmap(env.step, in_axes=(None, 0, 0, None))(key, state, action, task)
        return state, state.position

    _, later = jax.lax.scan(step, state, batch.action)
    positions = jnp.concatenate([state.position[None], later])
    length = jnp.sum(batch.mask, axis=0).astype(jnp.int32)
    return _Played(positions, length, jnp.sum(batch.reward * batch.mask, axis=0))
