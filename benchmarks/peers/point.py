"""Point navigation in PyTorch, all episodes of all tasks at once; see `maml.py`.

Shapes: N tasks, T steps, B episodes, O = 2 coordinates, A = 2 actions, S = T·B samples of a task.
The policy is (W₁, b₁, W₂, b₂, W₃, b₃, log σ).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from .credit import (
    by_task,
    generalised_advantages,
    least_squares,
    powers_of_time,
    returns_to_go,
)
from .maml import Game, Kernels, Params, Setting, affine

__all__ = ["CORNERS", "GOALS", "Batch", "game", "policy_mean", "to_batch"]


class Batch(NamedTuple):
    """The input of a loss, for N tasks; for one task, without the N."""

    observation: Tensor  # (N, O, S)
    action: Tensor  # (N, A, S)
    weight: Tensor  # (N, S), advantage · mask / steps taken: the surrogate is Σ ratio · weight


def policy_mean(params: Params, observation: Tensor, setting: Setting) -> Tensor:
    """(N, O, S) -> the mean action (N, A, S); without the N for a policy that is shared."""
    hidden = setting.activate(affine(params[0], params[1], observation))
    hidden = setting.activate(affine(params[2], params[3], hidden))
    mean = affine(params[4], params[5], hidden)
    return mean if setting.action_scale == 1.0 else setting.action_scale * mean


def surrogate_loss(params: Params, batch: Batch, setting: Setting) -> Tensor:
    """−Σ_tasks mean(π_θ / sg(π_θ) · A) over the steps taken (LVC; Rothfuss et al. 2019, eq. 7)."""
    log_std = params[6].unsqueeze(-1)
    precision = torch.exp(-log_std) / setting.action_scale
    standard = (batch.action - policy_mean(params, batch.observation, setting)) * precision
    log_prob = (-0.5 * standard.square() - log_std).sum(-2)  # up to a constant, which cancels
    return -(torch.exp(log_prob - log_prob.detach()) * batch.weight).sum()


def play(
    params: Params, place: Tensor, disturbances: Tensor, setting: Setting, stride: float
) -> tuple[Tensor, Tensor]:
    """Steps of all episodes at once, the dynamics of `envs.point` and `envs.point_corners`.

    Args:
        params: one policy, or N.
        place: positions of the episodes, (O, S), or (N, O, S) for N policies.
        disturbances: noise added to the mean action, (steps, ...).
        setting: activation and unit of the policy.
        stride: the longest move along an axis.

    Returns:
        the actions and the positions they led to, both (steps, ...).
    """
    actions, places = [], []
    for disturbance in disturbances.unbind():
        actions.append(policy_mean(params, place, setting) + disturbance)
        place = place + actions[-1].clamp(-stride, stride)
        places.append(place)
    return torch.stack(actions), torch.stack(places)


def baseline(observation: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Least squares on [o, o², 1, t, t², t³] of each task (Duan et al. 2016) -> values (T, N, B).

    Args:
        observation: (T, O, N, B).
        returns: returns to go, (T, N, B).
        mask: 1 where a step was taken, (T, N, B).
    """
    horizon, _, episodes = mask.shape
    clipped = by_task(observation).clamp(-10.0, 10.0)
    time = powers_of_time(mask)
    rows = [clipped, clipped.square(), time.expand(len(clipped), *time.shape)]
    features = torch.cat(rows, dim=1) * by_task(mask).unsqueeze(1)  # (N, F, S)
    moments = features @ by_task(returns * mask).unsqueeze(-1)
    weights = least_squares(features @ features.mT, moments)
    return (weights.mT @ features).view(-1, horizon, episodes).transpose(0, 1)


def to_batch(observation: Tensor, action: Tensor, mask: Tensor, advantage: Tensor) -> Batch:
    """Trajectories of N tasks as the batch of a loss.

    Args:
        observation: (T, O, N, B).
        action: (T, A, N, B).
        mask: 1 where a step was taken, (T, N, B).
        advantage: (T, N, B).
    """
    weight = advantage * mask / mask.sum((0, 2), keepdim=True).clamp(min=1.0)
    return Batch(by_task(observation), by_task(action), by_task(weight))


def _near_goal(goal: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards and masks of `envs.point`: minus the distance after each move; the goal ends it."""
    offset = position[1:] - goal.T.unsqueeze(-1)
    reward = -offset.square().sum(1).sqrt()
    ended = (offset.abs() < 0.01).all(1).cumsum(0) > 0
    mask = torch.ones_like(reward)
    mask[1:] = (~ended[:-1]).to(mask.dtype)
    return reward, mask


def _toward_corner(goal: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Those of `envs.point_corners`: how much nearer a move came, if that is paid; no end."""
    corner = goal.T.unsqueeze(-1)
    distance = (position - corner).square().sum(1).sqrt()
    after = position[1:]
    paid = (after * corner >= 0).all(1) & (after.abs().sum(1) >= 0.5)
    reward = torch.where(paid, distance[:-1] - distance[1:], torch.zeros_like(distance[1:]))
    return reward, torch.ones_like(reward)


class Ground(NamedTuple):
    """A kind of point navigation."""

    stride: float  # the longest move along an axis
    spread: float  # greatest distance of starts from the middle, along each axis
    # goals (N, 2) and positions (T + 1, 2, N, B) -> rewards and masks (T, N, B)
    judge: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    goals: Callable[[Tensor], Tensor]  # uniform numbers (N, 2) -> goals


GOALS = Ground(0.1, 0.0, _near_goal, lambda uniform: uniform - 0.5)
CORNERS = Ground(0.2, 0.2, _toward_corner, lambda uniform: 2.0 * torch.sign(uniform - 0.5))


def game(setting: Setting, ground: Ground, device: str = "cpu") -> Game:
    """Point navigation at the sizes of `setting`; goals are drawn by PyTorch."""

    @torch.no_grad()
    def collect(
        params: Params, goal: Tensor, random: tuple[Tensor, Tensor], kernels: Kernels
    ) -> tuple[Batch, Tensor]:
        """Plays B episodes of each task to the horizon; steps after an end are masked afterwards.

        Args:
            params: one policy for all tasks, or one for each.
            goal: (N, 2).
            random: standard normal noise, (T, A, N, B), and the starts, (O, N, B).
            kernels: eager or compiled.
        """
        noise, start = random
        with record_function("rollout"):
            shared = params[0].dim() == 2
            # A shared policy plays all tasks' episodes as one (O, N·B); else each task its (O, B).
            arranged = noise.flatten(2) if shared else noise.transpose(1, 2).contiguous()
            disturbance = arranged * (setting.action_scale * torch.exp(params[6])).unsqueeze(-1)
            first = start.flatten(1) if shared else start.transpose(0, 1).contiguous()
            action, position = (
                x.unflatten(-1, noise.shape[2:]) if shared else x.transpose(1, 2)
                for x in kernels.episodes(params, first, (disturbance,))
            )
            reward, mask = ground.judge(goal, position)
        with record_function("advantage"):
            returns = returns_to_go(reward, mask, setting.discount)
            value = baseline(position[:-1], returns, mask)
            credit = generalised_advantages(
                reward, value, mask, setting.discount, setting.gae_lambda
            )
        score = (reward * mask).sum((0, 2)) / setting.episodes
        return to_batch(position[:-1], action, mask, credit), score

    def draw(count: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        goal = ground.goals(torch.rand(count, 2, device=device))
        shape = (setting.inner_steps + 1, setting.horizon, 2, count, setting.episodes)
        noise = torch.randn(shape, device=device)
        start = torch.zeros(shape[0], *shape[2:], device=device)
        if ground.spread:
            start.uniform_(-ground.spread, ground.spread)
        return goal, list(zip(noise, start, strict=True))

    walk = functools.partial(play, setting=setting, stride=ground.stride)
    loss = functools.partial(surrogate_loss, setting=setting)
    return Game(walk, loss, loss, collect, draw)
