"""Mazes and gridworlds in PyTorch, all episodes of all tasks at once; see `maml.py`.

An agent that observes only its own square observes a one-hot vector. Here that is the square's
index: the first layer and the linear path look up rows of their weights, and a step of the world is
one lookup in a table of where each action leads, without looking at walls.

Shapes: N tasks, T steps, B episodes, O squares inside the outer wall, A actions, S = T·B samples of
a task. The policy is (W, b) of each layer, one or more, and, where `Setting.skip` is not 0, the
linear path's (O, A).
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

__all__ = [
    "Batch",
    "Grids",
    "Reading",
    "baseline",
    "by_sample",
    "by_square",
    "draw_actions",
    "game",
    "logits",
    "loss_of",
    "make_grids",
    "outcome",
    "picked",
    "rollout",
    "thresholds",
    "to_batch",
    "walk",
]

Mapped = Callable[[Tensor], Tensor]
"""A function of the network's outputs, (..., A, S) -> (..., F, S)."""
Policy = Callable[[Tensor], Tensor]
"""Squares (N, S) -> mapped outputs (N, F, S); without the N for a network that all tasks share."""

_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


class Grids(NamedTuple):
    """N tasks."""

    following: Tensor  # (N, A, O) int64, the square that action a leads to from square o
    start: Tensor  # (N,) int64
    goal: Tensor  # (N,) int64


class Reading(NamedTuple):
    """How a function of the network's outputs is computed; without the N for a shared network."""

    # parameters, scale of the linear path, what is wanted of the outputs -> that, for all actions
    every: Callable[[Params, float, Mapped], Policy]
    # the same for the actions taken, squares and actions (N, S) -> (N, S)
    taken: Callable[[Params, float, Mapped, Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """The input of a loss, for N tasks; for one task, without the N."""

    square: Tensor  # (N, S) int64
    action: Tensor  # (N, S) int64
    weight: Tensor  # (N, S), advantage · mask / steps taken: the surrogate is Σ ratio · weight
    share: Tensor  # (N, S), mask / steps taken


def make_grids(walls: Tensor, start: Tensor, goal: Tensor, stay: bool) -> Grids:
    """Makes tasks from grids.

    Args:
        walls: (N, side, side) bool, with an outer wall.
        start: the squares (N, 2) where episodes start.
        goal: the goals' squares (N, 2).
        stay: whether the first action is to stay.
    """
    side = walls.shape[-1] - 2
    here = torch.arange(side * side, device=walls.device).view(side, side)
    blocked = [
        walls[:, 1 + down : 1 + down + side, 1 + right : 1 + right + side] for down, right in _MOVES
    ]
    steps = [down * side + right for down, right in _MOVES]
    reached = [
        torch.where(wall, here, here + step) for wall, step in zip(blocked, steps, strict=True)
    ]
    if stay:
        reached.insert(0, here.expand_as(reached[0]))
    index = [(square[:, 0] - 1) * side + square[:, 1] - 1 for square in (start, goal)]
    return Grids(torch.stack(reached, dim=1).flatten(2), *index)


def _rows(table: Tensor, square: Tensor) -> Tensor:
    """The rows of a table (O, F) at squares (S,), (S, F); or of N tables, (N, S, F)."""
    if table.shape[-2] == 1:  # the derivative is a sum, a lookup's adds sample by sample
        return table.expand(*square.shape, -1)
    if table.dim() == 2:
        return table.index_select(0, square)
    first = table.shape[1] * torch.arange(len(table), device=table.device).unsqueeze(-1)
    return table.flatten(0, 1).index_select(0, (first + square).flatten()).view(*square.shape, -1)


def logits(params: Params, square: Tensor, skip: float) -> Tensor:
    """(N, S) -> (N, A, S); without the N for a policy that all tasks share."""
    (first, bias, *later), beside = (params[:-1], params[-1]) if skip else (params, None)
    if beside is not None and not later:  # two tables can be added to one
        first, beside = first + skip * beside, None
    out = (_rows(first, square) + bias.unsqueeze(-2)).mT
    for weight, bias in zip(later[::2], later[1::2], strict=True):
        out = affine(weight, bias, torch.tanh(out))
    return out if beside is None else out + skip * _rows(beside, square).mT


def _every_sample(params: Params, skip: float, mapped: Mapped) -> Policy:
    return lambda square: mapped(logits(params, square, skip))


def _taken_sample(
    params: Params, skip: float, mapped: Mapped, square: Tensor, action: Tensor
) -> Tensor:
    found = mapped(logits(params, square, skip))
    return found.gather(-2, action.unsqueeze(-2)).squeeze(-2)


def _table(params: Params, skip: float, mapped: Mapped) -> Tensor:
    """The mapped outputs of all squares, (N, F, O); without the N for a shared network."""
    first = params[0]
    everywhere = torch.arange(first.shape[-2], device=first.device).expand(first.shape[:-1])
    return mapped(logits(params, everywhere, skip))


def _every_square(params: Params, skip: float, mapped: Mapped) -> Policy:
    table = _table(params, skip, mapped)

    def policy(square: Tensor) -> Tensor:
        if table.dim() == 2:
            return table.index_select(-1, square)
        return table.gather(-1, square.unsqueeze(-2).expand(-1, table.shape[1], -1))

    return policy


def _taken_square(
    params: Params, skip: float, mapped: Mapped, square: Tensor, action: Tensor
) -> Tensor:
    return _at(_table(params, skip, mapped), square, action)


def _at(table: Tensor, square: Tensor, action: Tensor) -> Tensor:
    """Entries (N, S) of a table (N, A, O)."""
    return table.flatten(-2).gather(-1, action * table.shape[-1] + square)


by_sample = Reading(_every_sample, _taken_sample)
"""The network sees every sample."""
by_square = Reading(_every_square, _taken_square)
"""The network sees each of the O squares once, as in metajax; samples look up what is wanted."""


def surrogate_loss(params: Params, batch: Batch, setting: Setting) -> Tensor:
    """−Σ_tasks mean(π_θ / sg(π_θ) · A + c · entropy) over the steps taken."""
    log_probs = logits(params, batch.square, setting.skip).log_softmax(-2)
    log_prob = log_probs.gather(-2, batch.action.unsqueeze(-2)).squeeze(-2)
    return _surrogate(log_prob, _entropy(log_probs), batch, setting)


def surrogate_loss_by_square(params: Params, batch: Batch, setting: Setting) -> Tensor:
    """The same, looking up each square's log-probabilities and entropy for the samples."""
    log_probs = _table(params, setting.skip, lambda logits: logits.log_softmax(-2))
    log_prob = _at(log_probs, batch.square, batch.action)
    return _surrogate(log_prob, _entropy(log_probs).gather(-1, batch.square), batch, setting)


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-2)


def _surrogate(log_prob: Tensor, entropy: Tensor, batch: Batch, setting: Setting) -> Tensor:
    gain = (torch.exp(log_prob - log_prob.detach()) * batch.weight).sum()
    return -gain - setting.entropy * (entropy * batch.share).sum()


def loss_of(setting: Setting, reading: Reading) -> Callable[[Params, Batch], Tensor]:
    """The surrogate loss for a `reading` of the policy."""
    loss = surrogate_loss_by_square if reading is by_square else surrogate_loss
    return functools.partial(loss, setting=setting)


def thresholds(logits: Tensor) -> Tensor:
    """Where the unit interval is divided between actions, (..., A - 1, S)."""
    return logits.softmax(-2).cumsum(-2)[..., :-1, :]


def draw_actions(thresholds: Tensor, uniform: Tensor) -> Tensor:
    """Actions (..., S) int64 from `thresholds` (..., A - 1, S) and numbers in [0, 1) (..., S).

    By inverse transform; the last action gets what rounding leaves of the unit interval.
    """
    return (uniform.unsqueeze(-2) >= thresholds).sum(-2)


def _play(
    params: Params,
    place: Tensor,
    uniforms: Tensor,
    following: Tensor,
    setting: Setting,
    reading: Reading,
) -> tuple[Tensor, Tensor]:
    """Steps of all episodes at once, the dynamics of `envs.maze` and `envs.gridworld`.

    Args:
        params: one policy, or N.
        place: the squares of the episodes, (N, B) int64.
        uniforms: numbers in [0, 1) that choose the actions, (steps, N, B).
        following: as in `Grids`.
        setting: sizes and rates.
        reading: how the policy is computed.

    Returns:
        the actions and the squares they led to, both (steps, N, B) int64.
    """
    policy = reading.every(params, setting.skip, thresholds)
    return walk(policy, place, uniforms, following, shared=params[0].dim() == 2)


def walk(
    divided: Mapped, place: Tensor, uniforms: Tensor, following: Tensor, *, shared: bool
) -> tuple[Tensor, Tensor]:
    """Steps of all episodes at once, where a square says how the unit interval is `divided`.

    Args:
        divided: squares -> thresholds, as `draw_actions` takes them.
        place: the squares of the episodes, (N, B) int64.
        uniforms: numbers in [0, 1) that choose the actions, (steps, N, B).
        following: as in `Grids`.
        shared: whether one policy plays the episodes of all tasks as one (N·B,).

    Returns:
        the actions and the squares they led to, both (steps, N, B) int64.
    """
    led, squares = following.flatten(1), following.shape[-1]
    actions, places = [], []
    for uniform in uniforms.unbind():
        seen, drawn = (x.flatten() if shared else x for x in (place, uniform))
        actions.append(draw_actions(divided(seen), drawn).view_as(place))
        place = led.gather(-1, actions[-1] * squares + place)
        places.append(place)
    return torch.stack(actions), torch.stack(places)


def baseline(square: Tensor, returns: Tensor, mask: Tensor, squares: int) -> Tensor:
    """Least squares on [o, 1, t, t², t³] of each task (Duan et al. 2016) -> values (T, N, B).

    Products with a one-hot o are sums over the samples of each square, so o is never built.

    Args:
        square: (T, N, B) int64.
        returns: returns to go, (T, N, B).
        mask: 1 where a step was taken, (T, N, B).
        squares: O.
    """
    horizon, _, episodes = mask.shape
    index, taken = by_task(square), by_task(mask)
    time = powers_of_time(mask)
    columns = torch.cat([time.unsqueeze(0), time.new_zeros(1, 1, time.shape[-1])], dim=1)
    columns = columns.repeat(len(index), 1, 1)
    columns[:, -1] = by_task(returns)
    columns *= taken.unsqueeze(1)  # (N, 5, S): 1, t, t², t³ and the return
    sums = columns.new_zeros(len(index), squares, columns.shape[1])
    sums.scatter_add_(1, index.unsqueeze(-1).expand(-1, -1, columns.shape[1]), columns.mT)
    corner = columns[:, :-1] @ columns.mT
    across, moments = torch.cat([sums, corner], dim=1).split([len(time), 1], dim=-1)
    along = torch.cat([torch.diag_embed(sums[..., 0]), sums[..., :-1].mT], dim=1)
    weights = least_squares(torch.cat([along, across], dim=-1), moments)
    of_square, of_time = weights.squeeze(-1).split([squares, len(time)], dim=-1)
    value = of_square.gather(-1, index) + of_time @ time
    return value.view(-1, horizon, episodes).transpose(0, 1)


def outcome(reached: Tensor, goal: Tensor, ends: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rewards and masks, both (T, N, B).

    Args:
        reached: the squares that the steps led to, (T, N, B) int64.
        goal: (N,) int64.
        ends: whether the goal ends an episode and pays less the later it is reached, as in a maze;
            else it pays for each step on it, as in a gridworld.
        dtype: of the result.
    """
    there, horizon = reached == goal.unsqueeze(-1), len(reached)
    mask = torch.ones(there.shape, dtype=dtype, device=there.device)
    if not ends:
        return torch.where(there, 1.0, -0.1).to(dtype), mask
    step = torch.arange(1, horizon + 1, dtype=dtype, device=there.device).view(-1, 1, 1)
    mask[1:] = (there.cumsum(0)[:-1] == 0).to(dtype)
    return there * (1.0 - 0.9 * step / horizon), mask


def rollout(
    params: Params, tasks: Grids, uniforms: Tensor, kernels: Kernels, ends: bool, *more: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Plays B episodes of each task to the horizon; steps after an end are masked afterwards.

    Args:
        params: one policy for all tasks, or one for each.
        tasks: N tasks.
        uniforms: in [0, 1), (T, N, B).
        kernels: eager or compiled.
        ends: as in `outcome`.
        more: what else the kernel that plays takes.

    Returns:
        actions, squares from the start on (T + 1, N, B), rewards and masks; else (T, N, B).
    """
    start = tasks.start.unsqueeze(-1).expand(uniforms.shape[1:])
    action, square = kernels.episodes(params, start, (uniforms,), tasks.following, *more)
    return action, square, *outcome(square[1:], tasks.goal, ends, uniforms.dtype)


def picked(pool: Grids, count: int) -> Grids:
    """Some tasks of a pool, at random."""
    chosen = torch.randint(len(pool.start), (count,), device=pool.start.device)
    return Grids(*(leaf[chosen] for leaf in pool))


def to_batch(square: Tensor, action: Tensor, mask: Tensor, advantage: Tensor) -> Batch:
    """Trajectories of N tasks as the batch of a loss.

    Args:
        square: (T, N, B) int64.
        action: (T, N, B) int64.
        mask: 1 where a step was taken, (T, N, B).
        advantage: (T, N, B).
    """
    share = mask / mask.sum((0, 2), keepdim=True).clamp(min=1.0)
    return Batch(by_task(square), by_task(action), by_task(advantage * share), by_task(share))


def game(setting: Setting, pool: Grids, *, ends: bool, reading: Reading = by_sample) -> Game:
    """A game on tasks from a pool drawn beforehand, so that PyTorch pays nothing for drawing mazes.

    Args:
        setting: sizes and rates.
        pool: the tasks.
        ends: as in `outcome`.
        reading: how the policy is computed.
    """
    squares, device = pool.following.shape[-1], pool.start.device

    @torch.no_grad()
    def collect(
        params: Params, tasks: Grids, uniforms: Tensor, kernels: Kernels
    ) -> tuple[Batch, Tensor]:
        """The episodes of a `rollout` with their advantages, and the score of each task."""
        with record_function("rollout"):
            action, square, reward, mask = rollout(params, tasks, uniforms, kernels, ends)
        with record_function("advantage"):
            returns = returns_to_go(reward, mask, setting.discount)
            value = baseline(square[:-1], returns, mask, squares)
            credit = generalised_advantages(
                reward, value, mask, setting.discount, setting.gae_lambda
            )
        score = (reward * mask).sum((0, 2)) / setting.episodes
        return to_batch(square[:-1], action, mask, credit), score

    def draw(count: int) -> tuple[Grids, Tensor]:
        tasks = picked(pool, count)
        shape = (setting.inner_steps + 1, setting.horizon, count, setting.episodes)
        return tasks, torch.rand(shape, device=device)

    play = functools.partial(_play, setting=setting, reading=reading)
    loss = loss_of(setting, reading)
    return Game(play, loss, loss, collect, draw)
