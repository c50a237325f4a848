"""What a run is judged by: its learner beside a random initialisation and the joint policy."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from . import checkpoints, evaluation, experiments, runs, scores, streams, training
from .arguments import checking
from .catalogue import unit_of
from .configs import TrainConfig
from .experiments import Experiment
from .scores import Adaptation
from .types import Params

__all__ = ["print_table", "report", "rows"]


def rows(
    folder: Path,
    config: TrainConfig,
    experiment: Experiment,
    tasks: int | None = None,
    steps: int | None = None,
) -> tuple[dict[str, Adaptation], Params]:
    """The scores of each starting point of a run by its name, and the parameters of the first.

    Args:
        folder: of the run.
        config: of the run.
        experiment: of the configuration.
        tasks: held-out tasks, by default as many as in the run's own evaluation.
        steps: inner steps, likewise.

    Raises:
        UsageError: a number out of range, or no checkpoint that can be used.
    """
    tasks = config.evaluation_tasks if tasks is None else tasks
    steps = config.evaluation_steps if steps is None else steps

    def evaluator(adapting: Any, row: str = "") -> Any:
        return evaluation.evaluator(
            adapting(steps),
            experiment.problem,
            tasks=tasks,
            seed=config.seed,
            oracle=experiment.oracle,
            mapping=experiment.mapping,
            shelf=experiments.shelf(config, row, evaluation_steps=steps),
        )

    with checking():
        adapt = evaluator(experiment.evaluation)
    with checking(checkpoints.CheckpointError):
        state, _ = training.restore(experiment.learner, folder, runs.described(folder))
        joint = None
        if (folder / runs.MULTITASK).is_dir():
            described = runs.described(folder, runs.MULTITASK)
            with contextlib.suppress(checkpoints.NoCheckpointError):  # not that far yet
                joint, _ = training.restore(
                    experiment.multitask, folder / runs.MULTITASK, described
                )
    # Compiled, for the few dozen operations that it is would else be so one by one.
    random = jax.jit(experiment.problem.init)(streams.key_stream(config.seed, "baseline"))
    found = {config.algorithm: adapt(state.params), "random initialisation": adapt(random)}
    if joint is not None:
        if experiment.multitask_evaluation is not experiment.evaluation:
            adapt = evaluator(experiment.multitask_evaluation, runs.MULTITASK)
        found["multi-task policy"] = adapt(joint.params)
    return found, state.params


def report(config: TrainConfig, found: dict[str, Adaptation]) -> dict[str, Any]:
    """`found`, JSON-able, as `metajax evaluate --json` prints it."""
    (_, own), *others = found.items()
    return scores.report(
        own, preset=config.preset, algorithm=config.algorithm, comparisons=dict(others)
    )


def print_table(config: TrainConfig, found: dict[str, Adaptation]) -> None:
    """Prints the adaptation table, without intervals where the window is too narrow for them."""
    console = Console()
    if (not console.is_terminal and "COLUMNS" not in os.environ) or console.width < 1:
        console = Console(width=140)  # nobody's window sets a width
    title = f"{config.preset}: adaptation to held-out tasks"
    unit = unit_of(config.algorithm)
    table = scores.table(found, title=title, unit=unit)
    if Console(width=1000).measure(table).maximum > console.width:
        table = scores.table(found, title=title, unit=unit, narrow=True)
    console.print(table)
