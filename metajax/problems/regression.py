"""Few-shot regression: functions as tasks, a support set to adapt on, a query set to judge by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..checks import require_integer, require_network
from ..compiling import standalone
from ..networks import Network, parameters_alone
from ..types import Params, Problem, pytree_dataclass

__all__ = ["Examples", "FunctionTasks", "regression", "sinusoid"]

Array = jax.Array


class FunctionTasks(NamedTuple):
    """A distribution over functions of one variable or of many.

    Attributes:
        sample_task: key -> task.
        sample_inputs: key, count -> inputs, (count, O).
        grid: count -> inputs evenly over their range, (count, O).
        targets: task, inputs (count, O) -> (count, outputs).
    """

    sample_task: Callable[[Array], Any]
    sample_inputs: Callable[[Array, int], Array]
    grid: Callable[[int], Array]
    targets: Callable[[Any, Array], Array]


@pytree_dataclass
class Sine:
    """y = amplitude sin(x − phase)."""

    amplitude: Array  # () in [0.1, 5]
    phase: Array  # () in [0, π]


def _sample_sine(key: Array) -> Sine:
    key_amplitude, key_phase = jax.random.split(key)
    return Sine(
        jax.random.uniform(key_amplitude, (), minval=0.1, maxval=5.0),
        jax.random.uniform(key_phase, (), minval=0.0, maxval=math.pi),
    )


sinusoid = FunctionTasks(
    sample_task=_sample_sine,
    sample_inputs=lambda key, count: jax.random.uniform(key, (count, 1), minval=-5.0, maxval=5.0),
    grid=lambda count: jnp.linspace(-5.0, 5.0, count)[:, None],
    targets=lambda task, inputs: task.amplitude * jnp.sin(inputs - task.phase),
)
"""Sine waves with amplitude U[.1, 5] and phase U[0, π] on [−5, 5] (Finn et al. 2017, sec. 5.1)."""


@pytree_dataclass
class Examples:
    """Examples of one task, and the predictions of the parameters that collected them."""

    inputs: Array  # (count, O)
    targets: Array  # (count, outputs)
    predictions: Array  # likewise


def regression(
    network: Network,
    tasks: FunctionTasks = sinusoid,
    *,
    shots: int = 10,
    query: int | None = None,
    grid: bool = False,
) -> Problem:
    """Adapts to the mean squared error on `shots` examples, and judges by that on `query` others.

    Args:
        network: `apply(params, inputs)` for (count, O) inputs.
        tasks: a distribution over functions.
        shots: examples of the support set.
        query: examples of the query set; None for as many as `shots`.
        grid: whether query inputs are evenly spaced, not drawn: an exact error for evaluation.

    Returns:
        The problem; its batches are `Examples`, and its score is minus the mean squared error on
        the query set.

    Raises:
        ValueError: a set without examples; during tracing, targets of another shape than the
            network's outputs.
    """
    query_size = shots if query is None else query
    for name, value in (("shots", shots), ("query", query_size)):
        require_integer(name, value, 1)
    require_network(network)

    def examples(params: Params, task: Any, inputs: Array) -> Examples:
        targets, predictions = tasks.targets(task, inputs), network.apply(params, inputs)
        if targets.shape != predictions.shape:  # subtraction would broadcast
            raise ValueError(
                f"tasks: expected targets of the network's shape {predictions.shape}, "
                f"got {targets.shape}"
            )
        return Examples(inputs, targets, predictions)

    def collect(params: Params, task: Any, key: Array) -> Examples:
        return examples(params, task, tasks.sample_inputs(key, shots))

    def collect_query(params: Params, task: Any, key: Array) -> Examples:
        inputs = tasks.grid(query_size) if grid else tasks.sample_inputs(key, query_size)
        return examples(params, task, inputs)

    def loss(params: Params, batch: Examples) -> tuple[Array, dict[str, Array]]:
        return jnp.mean((network.apply(params, batch.inputs) - batch.targets) ** 2), {}

    return Problem(
        sample_task=standalone(tasks.sample_task),
        init=standalone(lambda key: parameters_alone(network.init(key, tasks.grid(1)))),
        collect=standalone(collect),
        inner_loss=loss,
        outer_loss=loss,
        score=lambda batch: -jnp.mean((batch.predictions - batch.targets) ** 2),
        query=standalone(collect_query),
        samples=lambda batch: jnp.int32(batch.inputs.shape[0]),
    )
