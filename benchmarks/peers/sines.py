"""Few-shot regression of sine waves in PyTorch; see `maml.py`.

Shapes: N tasks, S examples of a task. The network is (W₁, b₁, W₂, b₂, W₃, b₃).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from .maml import Game, Kernels, Params, Setting, affine

__all__ = ["Batch", "Waves", "game", "predict"]


class Waves(NamedTuple):
    """N tasks."""

    amplitude: Tensor  # (N,)
    phase: Tensor  # (N,)


class Batch(NamedTuple):
    """The input of a loss, for N tasks; for one task, without the N."""

    inputs: Tensor  # (N, 1, S)
    targets: Tensor  # (N, 1, S)


def predict(params: Params, inputs: Tensor, setting: Setting) -> Tensor:
    """(N, 1, S) -> (N, 1, S); without the N for one network and one task.

    A network shared by N tasks sees all their examples in one product.
    """
    if params[0].dim() == 2 and inputs.dim() == 3:
        tasks, _, examples = inputs.shape
        return predict(params, inputs.view(1, -1), setting).view(tasks, 1, examples)
    hidden = setting.activate(affine(params[0], params[1], inputs))
    hidden = setting.activate(affine(params[2], params[3], hidden))
    return affine(params[4], params[5], hidden)


def squared_error(params: Params, batch: Batch, setting: Setting) -> Tensor:
    """Σ_tasks of the mean over examples."""
    return (predict(params, batch.inputs, setting) - batch.targets).square().mean(-1).sum()


def game(setting: Setting, device: str = "cpu") -> Game:
    """Sine waves of amplitude U[.1, 5] and phase U[0, π] on [−5, 5] (Finn et al. 2017)."""

    @torch.no_grad()
    def collect(
        params: Params, tasks: Waves, inputs: Tensor, kernels: Kernels
    ) -> tuple[Batch, Tensor]:
        """Examples at `inputs` (N, S), and the scores of `params` on them, as in metajax."""
        del kernels
        with record_function("rollout"):
            amplitude, phase = (leaf.unsqueeze(-1) for leaf in tasks)
            batch = Batch(inputs.unsqueeze(1), (amplitude * torch.sin(inputs - phase)).unsqueeze(1))
        with record_function("advantage"):
            error = predict(params, batch.inputs, setting) - batch.targets
            return batch, -error.square().mean((1, 2))

    def draw(count: int) -> tuple[Waves, Tensor]:
        amplitude = 0.1 + 4.9 * torch.rand(count, device=device)
        phase = math.pi * torch.rand(count, device=device)
        shape = (setting.inner_steps + 1, count, setting.episodes)
        return Waves(amplitude, phase), 10.0 * torch.rand(shape, device=device) - 5.0

    loss = functools.partial(squared_error, setting=setting)
    return Game(None, loss, loss, collect, draw)
