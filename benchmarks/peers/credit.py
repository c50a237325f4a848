"""Returns and advantages in PyTorch, for all tasks at once.

Shapes: N tasks, T steps, B episodes, S = T·B samples of a task in time-major order.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = [
    "by_task",
    "discounting",
    "generalised_advantages",
    "least_squares",
    "mean_return",
    "n_step_returns",
    "normalise",
    "powers_of_time",
    "returns_to_go",
]


@functools.cache
def discounting(
    horizon: int, rate: float, dtype: torch.dtype, device: torch.device, span: int | None = None
) -> Tensor:
    """A matrix (T, T) whose product with values (T, ...) is Σ_{t≤j<t+span} rate^{j−t} values_j."""
    steps = torch.arange(horizon, dtype=torch.float64, device=device)
    powers = rate ** (steps[None, :] - steps[:, None]).clamp(min=0)
    return powers.triu().tril((span or horizon) - 1).to(dtype)


def by_task(values: Tensor) -> Tensor:
    """(T, ..., N, B) -> (N, ..., S)."""
    return values.movedim(-2, 0).movedim(1, -2).flatten(-2)


@functools.cache
def _powers(horizon: int, episodes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    time = torch.arange(horizon, dtype=dtype, device=device) / 100.0
    return torch.stack([time**0, time, time**2, time**3]).repeat_interleave(episodes, -1)


def powers_of_time(mask: Tensor) -> Tensor:
    """1, t, t², t³ of every sample of a task, t in hundreds of steps: (4, S); mask (T, N, B)."""
    return _powers(len(mask), mask.shape[-1], mask.dtype, mask.device)


def least_squares(gram: Tensor, moments: Tensor) -> Tensor:
    """Weights (N, F, 1) from XᵀX (N, F, F) and Xᵀy (N, F, 1).

    Solves the normal equations, scaled to a unit diagonal, by Cholesky with a ridge of 1e-5.
    """
    scale = gram.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).rsqrt().unsqueeze(-1)
    ridge = 1e-5 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(gram * scale * scale.mT + ridge)
    if gram.is_cuda:  # `cholesky_solve` synchronises with the CPU, which a CUDA graph may not
        half = torch.linalg.solve_triangular(factor, moments * scale, upper=False)
        return torch.linalg.solve_triangular(factor.mT, half, upper=True) * scale
    return torch.cholesky_solve(moments * scale, factor) * scale


def returns_to_go(reward: Tensor, mask: Tensor, discount: float) -> Tensor:
    """Σ_{j≥t} γ^{j−t} r_j over the steps taken, (T, N, B) like the arguments."""
    weights = discounting(len(mask), discount, mask.dtype, mask.device)
    return (weights @ (reward * mask).flatten(1)).view_as(mask)


def generalised_advantages(
    reward: Tensor, value: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """GAE(γ, λ), normalised over each task's steps, (T, N, B) like the arguments.

    Nothing is bootstrapped past the horizon. 0 if all episodes of a task had the same rewards.

    Args:
        reward: (T, N, B).
        value: the baseline, (T, N, B).
        mask: 1 where a step was taken, (T, N, B).
        discount: γ.
        gae_lambda: λ.
    """
    value = value * mask
    error = reward * mask - value
    error[:-1] += discount * value[1:]
    advantage = returns_to_go(error, torch.ones_like(mask), discount * gae_lambda)
    # Episodes with the same rewards do not distinguish any actions.
    paid = reward * mask
    alike = ((paid == paid[..., :1]) & (mask == mask[..., :1])).all(-1).all(0)
    several = mask.shape[-1] > 1
    return normalise(advantage, mask).masked_fill(alike[:, None] & several, 0.0)


def n_step_returns(
    reward: Tensor, ended: Tensor, mask: Tensor, discount: float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of n-step returns, rewards and bootstrap; see `metajax.returns`.

    Args:
        reward: (T, N, B).
        ended: whether the task itself ended the episode, (N, B) bool.
        mask: 1 where a step was taken, (T, N, B).
        discount: γ.
        steps: n.

    Returns:
        The sum of discounted rewards; the weight of the value to bootstrap from, γ^m or 0; and the
        time of its state, 0 to T; (T, N, B) each.
    """
    horizon = len(mask)
    weights = discounting(horizon, discount, mask.dtype, mask.device, min(steps, horizon))
    paid = (weights @ (reward * mask).flatten(1)).view_as(mask)
    time = torch.arange(horizon, device=mask.device).view(-1, 1, 1)
    length = mask.sum(0).long()
    end = torch.minimum(time + steps, length)
    powers = discount ** torch.arange(horizon + 1, dtype=mask.dtype, device=mask.device)
    power = powers[(end - time).clamp(min=0)]
    return paid, power.masked_fill_((end == length) & ended, 0.0), end


def mean_return(returns: Tensor, mask: Tensor) -> Tensor:
    """At each time, the mean over the episodes of a task that are still running, (T, N, B)."""
    count = mask.sum(-1, keepdim=True).clamp(min=1.0)
    return (returns * mask).sum(-1, keepdim=True) / count * mask


def normalise(advantage: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit standard deviation over each task's steps, else 0: (T, N, B)."""
    advantage = advantage * mask
    count = mask.sum((0, 2), keepdim=True).clamp(min=1.0)
    centred = (advantage - advantage.sum((0, 2), keepdim=True) / count) * mask
    deviation = (centred.square().sum((0, 2), keepdim=True) / count).sqrt()
    return centred / (deviation + 1e-8)
