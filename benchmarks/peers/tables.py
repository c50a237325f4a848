"""Bandits and random tabular MDPs in PyTorch, all episodes of all tasks at once; see `maml.py`.

A bandit is an MDP of one state whose rewards are 0 or 1. A state is observed by its index, like a
square in `grids.py`, and the policy and its loss are those of that file; a bandit's observation,
a constant 1, is its one-hot state.

Shapes: N tasks, T steps, B episodes, O states, A actions, S = T·B samples of a task.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from .credit import by_task, generalised_advantages, mean_return, returns_to_go
from .grids import (
    Batch,
    Reading,
    baseline,
    by_sample,
    draw_actions,
    loss_of,
    to_batch,
)
from .grids import thresholds as of_actions
from .maml import Game, Kernels, Params, Setting

__all__ = ["Draws", "Kind", "Tables", "game", "thresholds"]


class Tables(NamedTuple):
    """N tasks."""

    reward: Tensor  # (N, O·A), the mean reward of action a in state o, at o·A + a
    reached: Tensor  # (N, O·A, O - 1), cumulative next-state probabilities, but the last


class Draws(NamedTuple):
    """The random numbers of one collection, (T, N, B) each."""

    action: Tensor  # in [0, 1), chooses the actions
    following: Tensor  # in [0, 1), chooses the next states; (T, N, 0) if there is only one
    # A reward minus its mean; for a bandit, a number in [0, 1), which pays if below the mean.
    noise: Tensor


class Kind(NamedTuple):
    """What all tasks share."""

    states: int
    actions: int
    bernoulli: bool  # whether rewards are 0 or 1 and means uniform; else both are normal


def thresholds(transition: Tensor) -> Tensor:
    """Cumulative probabilities of all next states but the last, from weights (..., O)."""
    total = transition.cumsum(-1)
    return total[..., :-1] / total[..., -1:]


def _play(
    params: Params,
    state: Tensor,
    uniforms: Tensor,
    followings: Tensor,
    reached: Tensor,
    setting: Setting,
    reading: Reading,
) -> tuple[Tensor, Tensor]:
    """Steps of all episodes at once, the dynamics of `envs.bandit` and `envs.tabular_mdp`.

    Args:
        params: one policy, or N.
        state: the states of the episodes, (N, B) int64.
        uniforms: numbers in [0, 1) that choose the actions, (steps, N, B).
        followings: numbers that choose the next states, (steps, N, B).
        reached: as in `Tables`.
        setting: sizes and rates.
        reading: how the policy is computed.

    Returns:
        the actions and the states they led to, both (steps, N, B) int64.
    """
    policy, states = reading.every(params, setting.skip, of_actions), reached.shape[-1] + 1
    shared = params[0].dim() == 2  # one policy plays the episodes of all tasks as one (N·B,)

    def act(seen: Tensor, uniform: Tensor) -> Tensor:
        if shared:
            return draw_actions(policy(seen.flatten()), uniform.flatten()).view_as(seen)
        return draw_actions(policy(seen), uniform)

    if states == 1:  # pulls do not depend on each other: all are drawn at once
        uniform = by_task(uniforms)
        action = act(torch.zeros_like(uniform, dtype=torch.int64), uniform)
        action = action.unflatten(-1, (len(uniforms), -1)).transpose(0, 1)
        return action, torch.zeros_like(action)
    choices, table = reached.shape[1] // states, reached.flatten(0, 1)
    first = reached.shape[1] * torch.arange(len(reached), device=state.device).unsqueeze(-1)
    actions, led = [], []
    for uniform, following in zip(uniforms.unbind(), followings.unbind(), strict=True):
        actions.append(act(state, uniform))
        row = first + state * choices + actions[-1]
        chances = table.index_select(0, row.flatten()).view(*row.shape, -1)
        state = (following.unsqueeze(-1) >= chances).sum(-1)
        led.append(state)
    return torch.stack(actions), torch.stack(led)


def game(setting: Setting, kind: Kind, device: str = "cpu", reading: Reading = by_sample) -> Game:
    """A game on bandits or MDPs of one kind (Duan et al. 2016), at the sizes of `setting`.

    Args:
        setting: sizes and rates.
        kind: what all tasks share.
        device: PyTorch's.
        reading: how the policy is computed.
    """
    pairs = kind.states * kind.actions

    @torch.no_grad()
    def collect(
        params: Params, tasks: Tables, draws: Draws, kernels: Kernels
    ) -> tuple[Batch, Tensor]:
        """Plays B episodes of each task, from state 0 to the horizon.

        Args:
            params: one policy for all tasks, or one for each.
            tasks: N tasks.
            draws: the random numbers.
            kernels: eager or compiled.
        """
        uniforms, followings, noise = draws
        mask = torch.ones_like(uniforms)
        with record_function("rollout"):
            start = torch.zeros(uniforms.shape[1:], dtype=torch.int64, device=device)
            random = (uniforms, followings)
            action, states = kernels.episodes(params, start, random, tasks.reached)
            state = states[:-1]
            pair = (state * kind.actions + action).transpose(0, 1).flatten(1)
            mean = tasks.reward.gather(-1, pair).unflatten(-1, (len(mask), -1)).transpose(0, 1)
            reward = (noise < mean).to(mask.dtype) if kind.bernoulli else mean + noise
        with record_function("advantage"):
            returns = returns_to_go(reward, mask, setting.discount)
            if setting.baseline == "mean":
                value = mean_return(returns, mask)
            else:
                value = baseline(state, returns, mask, kind.states)
            credit = generalised_advantages(
                reward, value, mask, setting.discount, setting.gae_lambda
            )
        return to_batch(state, action, mask, credit), reward.sum((0, 2)) / setting.episodes

    def draw(count: int) -> tuple[Tables, list[Draws]]:
        chances = torch.empty(count, pairs, kind.states, device=device).exponential_()
        reward = torch.rand if kind.bernoulli else torch.randn
        mean = reward(count, pairs, device=device) + (0.0 if kind.bernoulli else 1.0)
        shape = (setting.inner_steps + 1, setting.horizon, count, setting.episodes)
        moving = (*shape[:3], setting.episodes if kind.states > 1 else 0)
        numbers = (
            torch.rand(shape, device=device),
            torch.rand(moving, device=device),
            reward(shape, device=device),
        )
        return Tables(mean, thresholds(chances)), [
            Draws(*each) for each in zip(*numbers, strict=True)
        ]

    play = functools.partial(_play, setting=setting, reading=reading)
    loss = loss_of(setting, reading)
    return Game(play, loss, loss, collect, draw)
