"""MAML in PyTorch as `torch.func` has it: the loss of ONE task, `grad`, `vmap` and `vjp`.

The policy is an `nn.Module` of `nn.Linear`, features last, called by `functional_call`. Episodes
are collected as `torch_maml` collects them, all tasks batched, for a rollout needs no derivative.

Shapes: S samples of the one task; parameters are those of `torch_maml`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch_grids
import torch_point
from torch import Tensor, nn
from torch.profiler import record_function
from torch_maml import Params, Setting, Source

__all__ = ["TaskLoss", "grid_loss", "meta_gradient", "point_loss"]

TaskLoss = Callable[[Params, Any], Tensor]
"""Parameters and batch of one task -> ()."""


class Network(nn.Module):
    """Two hidden layers, and a linear path beside them unless its scale is 0."""

    def __init__(self, inputs: int, hidden: tuple[int, int], outputs: int, skip: float) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden[0])
        self.second = nn.Linear(*hidden)
        self.last = nn.Linear(hidden[1], outputs)
        self.beside = nn.Linear(inputs, outputs, bias=False) if skip else None
        self.skip = skip

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(inputs))))
        out = self.last(hidden)
        return out + self.skip * self.beside(inputs) if self.beside else out


def _caller(shapes: Params, skip: float) -> Callable[[Params, Tensor], Tensor]:
    """The network as a function of its parameters, whose shapes are those of `shapes`."""
    with torch.device("meta"):
        network = Network(
            shapes[0].shape[0], (len(shapes[1]), len(shapes[3])), len(shapes[5]), skip
        )
    names = [
        f"{layer}.{kind}" for layer in ("first", "second", "last") for kind in ("weight", "bias")
    ]
    names += ["beside.weight"] * bool(skip)

    def call(params: Params, inputs: Tensor) -> Tensor:
        weights = {
            name: p.mT if name.endswith("weight") else p
            for name, p in zip(names, params, strict=True)
        }
        return torch.func.functional_call(network, weights, (inputs,))

    return call


def point_loss(shapes: Params, setting: Setting) -> TaskLoss:
    """−mean(π_θ / sg(π_θ) · A) over the steps taken, of a Gaussian policy."""
    mean = _caller(shapes[:-1], setting.skip)

    def loss(params: Params, batch: torch_point.Batch) -> Tensor:
        *network, log_std = params
        standard = (batch.action.T - mean(tuple(network), batch.observation.T)) * torch.exp(
            -log_std
        )
        log_prob = (-0.5 * standard.square() - log_std).sum(-1)
        return -(torch.exp(log_prob - log_prob.detach()) * batch.weight).sum()

    return loss


def grid_loss(shapes: Params, setting: Setting) -> TaskLoss:
    """The same of a categorical policy, less the weighted entropy."""
    logits = _caller(shapes, setting.skip)
    one_hot = torch.eye(shapes[0].shape[0], device=shapes[0].device)

    def loss(params: Params, batch: torch_grids.Batch) -> Tensor:
        log_probs = logits(params, one_hot[batch.square]).log_softmax(-1)
        log_prob = log_probs.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        gain = (torch.exp(log_prob - log_prob.detach()) * batch.weight).sum()
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return -gain - setting.entropy * (entropy * batch.share).sum()

    return loss


def meta_gradient(params: Params, source: Source, setting: Setting, loss: TaskLoss) -> None:
    """Adds the mean meta-gradient over all tasks to `params`' `.grad`.

    Inner steps are differentiated by `vjp`, so that what was computed to collect the next batch is
    not computed again.
    """
    gradient = torch.func.vmap(torch.func.grad(loss))
    shared = tuple(p.detach() for p in params)
    fast = tuple(p.expand(setting.tasks, *p.shape) for p in shared)
    pullbacks = []
    for k in range(setting.inner_steps):
        batch = source(k, fast if k else shared)  # one policy plays all tasks in one product

        def step(fast: Params, k: int = k, batch: Any = batch) -> Params:
            rate = setting.inner_rate(k)
            return tuple(p - rate * g for p, g in zip(fast, gradient(fast, batch), strict=True))

        with record_function("inner_gradient"):
            fast, *pullback = torch.func.vjp(step, fast)
        pullbacks += pullback
    judged = source(setting.inner_steps, fast)
    with record_function("outer_gradient"):
        cotangent = gradient(fast, judged)
        for pullback in reversed(pullbacks):
            (cotangent,) = pullback(cotangent)
        for leaf, of_tasks in zip(params, cotangent, strict=True):
            mean = of_tasks.mean(0)
            leaf.grad = mean if leaf.grad is None else leaf.grad + mean
