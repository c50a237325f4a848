"""MAML in PyTorch with `torch.func`: the loss of ONE task, `grad`, `vmap` and `vjp`.

The policy is an `nn.Module` of `nn.Linear`, features last, called by `functional_call`. Episodes
are collected as in `maml.py`, all tasks batched, because a rollout needs no derivative.

Shapes: S samples of the one task; parameters as in `maml.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from . import grids, point, q, sines
from .maml import Params, Setting, Source

__all__ = ["Losses", "grid_loss", "meta_gradient", "point_loss", "q_loss", "sine_loss"]


class Losses(NamedTuple):
    """The losses of one task, () each, otherwise like those of a `Game`."""

    inner: Callable[..., Tensor]  # parameters, batch, and target parameters if it bootstraps
    outer: Callable[[Params, Any], Tensor]
    bootstraps: bool = False


class Network(nn.Module):
    """Zero or more hidden layers, and a parallel linear path unless its scale is 0."""

    def __init__(self, widths: Sequence[int], setting: Setting) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.skip, self.activate = setting.skip, setting.activate
        self.beside = nn.Linear(widths[0], widths[-1], bias=False) if self.skip else None

    def forward(self, inputs: Tensor) -> Tensor:
        first, *others = self.layers
        out = first(inputs)
        for layer in others:
            out = layer(self.activate(out))
        return out + self.skip * self.beside(inputs) if self.beside else out


def _caller(shapes: Params, setting: Setting) -> Callable[[Params, Tensor], Tensor]:
    """The network as a function of parameters shaped like `shapes`."""
    layers = len(shapes) // 2
    widths = [len(shapes[0]), *(len(bias) for bias in shapes[1 : 2 * layers : 2])]
    with torch.device("meta"):
        network = Network(widths, setting)
    names = [f"layers.{i}.{kind}" for i in range(layers) for kind in ("weight", "bias")]
    names += ["beside.weight"] * bool(setting.skip)

    def call(params: Params, inputs: Tensor) -> Tensor:
        weights = {
            name: p.mT if name.endswith("weight") else p
            for name, p in zip(names, params, strict=True)
        }
        return torch.func.functional_call(network, weights, (inputs,))

    return call


def point_loss(shapes: Params, setting: Setting) -> Losses:
    """−mean(π_θ / sg(π_θ) · A) over the steps taken, for a Gaussian policy."""
    mean = _caller(shapes[:-1], setting)

    def loss(params: Params, batch: point.Batch) -> Tensor:
        *network, log_std = params
        unit = setting.action_scale
        missed = batch.action.T - unit * mean(tuple(network), batch.observation.T)
        standard = missed * torch.exp(-log_std) / unit
        log_prob = (-0.5 * standard.square() - log_std).sum(-1)
        return -(torch.exp(log_prob - log_prob.detach()) * batch.weight).sum()

    return Losses(loss, loss)


def grid_loss(shapes: Params, setting: Setting) -> Losses:
    """The same for a categorical policy, minus the weighted entropy."""
    logits = _caller(shapes, setting)
    one_hot = torch.eye(shapes[0].shape[0], device=shapes[0].device)

    def loss(params: Params, batch: grids.Batch) -> Tensor:
        log_probs = logits(params, one_hot[batch.square]).log_softmax(-1)
        log_prob = log_probs.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        gain = (torch.exp(log_prob - log_prob.detach()) * batch.weight).sum()
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return -gain - setting.entropy * (entropy * batch.share).sum()

    return Losses(loss, loss)


def q_loss(shapes: Params, setting: Setting) -> Losses:
    """Squared temporal-difference errors within, and outside the return of the values' softmax.

    Values are computed for all squares and looked up: one-hot vectors of all steps would take
    gigabytes.
    """
    assert setting.q is not None
    network, temperature = _caller(shapes, setting), setting.q.temperature
    squares = torch.eye(shapes[0].shape[0], device=shapes[0].device)

    def of_taken(values: Tensor, batch: q.Steps | q.Judged) -> Tensor:
        return values.flatten().gather(0, batch.square * values.shape[-1] + batch.action)

    def inner(params: Params, batch: q.Steps, target: Params) -> Tensor:
        following = network(target, squares).amax(-1).gather(0, batch.after)
        goal = batch.paid + batch.discount * following
        error = of_taken(network(params, squares), batch) - goal
        return 0.5 * (error.square() * batch.weight).sum()

    def outer(params: Params, batch: q.Judged) -> Tensor:
        policy = (network(params, squares) / temperature).softmax(-1)
        return -(of_taken(policy, batch) * batch.credit).sum()

    return Losses(inner, outer, bootstraps=True)


def sine_loss(shapes: Params, setting: Setting) -> Losses:
    """The mean squared error."""
    predict = _caller(shapes, setting)

    def loss(params: Params, batch: sines.Batch) -> Tensor:
        return (predict(params, batch.inputs.T) - batch.targets.T).square().mean()

    return Losses(loss, loss)


def meta_gradient(params: Params, source: Source, setting: Setting, losses: Losses) -> None:
    """Adds the mean meta-gradient over all tasks to `params`' `.grad`.

    Inner steps are differentiated by `vjp`, so that what was computed to collect the next batch is
    not recomputed.

    Args:
        params: the meta-parameters, leaves that require a gradient.
        source: gives the batches.
        setting: sizes and rates.
        losses: of one task.
    """
    inner, outer = (torch.func.vmap(torch.func.grad(loss)) for loss in losses[:2])
    shared = tuple(p.detach() for p in params)
    fast = tuple(p.expand(setting.tasks, *p.shape) for p in shared)
    last = setting.inner_steps
    support = None if setting.on_policy else source(0, shared)
    pullbacks, path, before = [], [fast], []  # before: gradients of what judges θ_0, ..., θ_{K-1}

    def scaled(k: int, grads: Params) -> Params:
        return tuple(setting.weight(k) * g for g in grads)

    for k in range(last):
        batch = support or source(k, fast if k else shared)  # one policy plays in one product

        def step(fast: Params, k: int = k, batch: Any = batch) -> tuple[Params, Params]:
            target = (fast,) if losses.bootstraps else ()
            grads, rate = inner(fast, batch, *target), setting.inner_rate(k)
            return tuple(p - rate * g for p, g in zip(fast, grads, strict=True)), grads

        with record_function("inner_gradient"):
            fast, pullback, *grads = torch.func.vjp(step, fast, has_aux=True)
        pullbacks.append(pullback)
        path.append(fast)
        before += grads  # if every step collects, a batch judges the step before its own
    judging = source(last, fast)
    with record_function("outer_gradient"):
        cotangent = scaled(last, outer(path.pop(), judging))
        while pullbacks:
            (cotangent,) = pullbacks.pop()(cotangent)
            start, grads = path.pop(), before.pop()
            if setting.weight(len(path)):
                grads = grads if setting.on_policy else outer(start, judging)
                more = scaled(len(path), grads)
                cotangent = tuple(c + m for c, m in zip(cotangent, more, strict=True))
        for leaf, of_tasks in zip(params, cotangent, strict=True):
            mean = of_tasks.mean(0)
            leaf.grad = mean if leaf.grad is None else leaf.grad + mean
