"""The PyTorch implementations of a preset's MAML update that metajax is timed against."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import func, learn2learn, maml
from .bridge import BRIDGES
from .contest import Contest, policy_module
from .maml import Game, Gradient, Kernels, Params, Source

__all__ = ["Contender", "contender_names", "contenders"]


class Contender(NamedTuple):
    """One implementation of the update. The one compared with metajax is the one timed."""

    gradient: Gradient  # of all tasks, or of one
    loop: bool  # whether it takes one task after another
    update: Callable[[Params], Callable[[], Tensor]]  # parameters -> their whole update
    collects: tuple[Game, Kernels] | None = None  # how it collects, if not by its own code


def _module_gradient(side: Contest) -> Gradient:
    """One task's share of the meta-gradient, computed as in `learn2learn.py`."""

    def gradient(params: Params, source: Source) -> None:
        policy, setting = policy_module(params), side.setting

        def episodes(k: int) -> learn2learn.Episodes:
            batch = source(k, params)
            shape = (setting.horizon, setting.episodes)
            action, state = (x[0].T.unflatten(0, shape) for x in (batch.action, batch.observation))
            # `weight` is advantage · mask / steps taken: with a mask of 1 the mean is its sum.
            weight = batch.weight[0].view(shape) * batch.weight[0].numel()
            return learn2learn.Episodes(state, action, weight, torch.ones(shape))

        weights: learn2learn.Weights = dict(policy.named_parameters())
        for k in range(setting.inner_steps):
            rate = setting.inner_rate(k)
            weights = learn2learn.fast_adapt(policy, weights, episodes(k), rate)
        loss = learn2learn.surrogate_loss(policy, weights, episodes(setting.inner_steps))
        (loss / setting.tasks).backward()
        linear = [layer for layer in policy.mean if isinstance(layer, torch.nn.Linear)]
        found = [p.grad for layer in linear for p in (layer.weight, layer.bias)]
        for leaf, grad in zip(params, (*found, policy.sigma.grad), strict=True):
            assert grad is not None
            grad = grad.T if grad.dim() == 2 else grad
            leaf.grad = grad if leaf.grad is None else leaf.grad + grad

    return gradient


def contender_names(preset: str, gpu: bool, chunked: bool) -> list[str]:
    """The names of a preset's contenders on a GPU or a CPU, in order; makes none.

    `chunked`: whether a chunk is less than all tasks.
    """
    by_square = BRIDGES[preset].by_square
    found = ["torch compiled", "torch batched", "torch batched in chunks"]
    found += ["torch.func vmap", "torch loop"]
    if chunked:
        found += ["torch compiled, all at once"]
    if by_square:
        found += ["torch batched, by square", "torch compiled, by square"]
    if gpu:
        found += ["torch batched, CUDA graph"] + ["torch by square, CUDA graph"] * by_square
    if preset == "point" and not gpu:  # it is written for the CPU
        found += ["torch loop, learn2learn's way"]
    return found


def contenders(
    side: Contest, params: Params, device: str, chunk: int, only: tuple[str, ...] = ()
) -> dict[str, Contender]:
    """All contenders of a preset, or `only` those named.

    Args:
        side: the preset.
        params: give the shapes.
        device: PyTorch's.
        chunk: tasks per chunk, for gradients taken in chunks.
        only: names; all if empty.
    """
    setting, bridge = side.setting, BRIDGES[side.preset]
    game, *by_square = bridge.games(side, device)
    eager = maml.eager(game)

    def batched(
        game: Game, kernels: Kernels, chunk: int | None = None, graph: bool = False
    ) -> Contender:
        gradient = functools.partial(
            maml.meta_gradient, setting=setting, kernels=kernels, chunk=chunk
        )
        return of(gradient, game, kernels, graph=graph)

    def of(
        gradient: Gradient, game: Game, kernels: Kernels, loop: bool = False, graph: bool = False
    ) -> Contender:
        def update(params: Params) -> Callable[[], Tensor]:
            return maml.make_update(
                params, setting, game, gradient, kernels, loop=loop, graph=graph
            )

        return Contender(gradient, loop, update, (game, kernels))

    def as_torch_func() -> Contender:
        losses = bridge.losses(params, setting)
        gradient = functools.partial(func.meta_gradient, setting=setting, losses=losses)
        return of(gradient, game, eager)

    def as_learn2learn() -> Contender:
        return Contender(
            _module_gradient(side),
            True,
            lambda params: learn2learn.make_update(policy_module(params), setting),
        )

    def loop() -> Contender:
        gradient = functools.partial(maml.meta_gradient_loop, setting=setting, game=game)
        return of(gradient, game, eager, loop=True)

    ways: dict[str, Callable[[], Contender]] = {
        "torch compiled": lambda: batched(game, maml.compiled(game), chunk),
        "torch batched": lambda: batched(game, eager),
        "torch batched in chunks": lambda: batched(game, eager, chunk),
        "torch.func vmap": as_torch_func,
        "torch loop": loop,
        "torch compiled, all at once": lambda: batched(game, maml.compiled(game)),
        "torch batched, CUDA graph": lambda: batched(game, eager, graph=True),
        "torch loop, learn2learn's way": as_learn2learn,
    }
    for other in by_square:
        kernels = maml.eager(other)
        ways["torch batched, by square"] = functools.partial(batched, other, kernels)
        ways["torch compiled, by square"] = functools.partial(
            lambda game: batched(game, maml.compiled(game)), other
        )
        ways["torch by square, CUDA graph"] = functools.partial(batched, other, kernels, graph=True)
    chosen = contender_names(side.preset, device == "cuda", chunk < setting.tasks)
    return {name: ways[name]() for name in chosen if not only or name in only}
