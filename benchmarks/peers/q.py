"""Mazes and gridworlds by Q-learning in PyTorch, all episodes of all tasks at once.

K inner steps descend on the n-step temporal-difference errors of one batch of random episodes. The
adapted values then play once more and are judged by a policy-gradient loss on their softmax. Grids,
and how values are computed from squares, are those of `grids.py`; the algorithm is
`metajax.q_learning`'s.

Shapes: N tasks, T steps, B episodes, O squares inside the outer wall, A actions, S = T·B samples of
a task.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from .credit import by_task, mean_return, n_step_returns, normalise, returns_to_go
from .grids import Grids, Reading, by_sample, picked, rollout, walk
from .maml import Game, Kernels, Params, QLearning, Setting

__all__ = [
    "Draws",
    "Judged",
    "Steps",
    "epsilons",
    "game",
    "greedy_chances",
]


class Steps(NamedTuple):
    """The input of the inner loss, for N tasks; for one task, without the N."""

    square: Tensor  # (N, S) int64
    action: Tensor  # (N, S) int64
    weight: Tensor  # (N, S), of each error
    paid: Tensor  # (N, S), the sum of discounted rewards over n steps
    discount: Tensor  # (N, S), the weight of the value to bootstrap from
    after: Tensor  # (N, S) int64, the square after those n steps


class Judged(NamedTuple):
    """The input of the outer loss, for N tasks; for one task, without the N."""

    square: Tensor  # (N, S) int64
    action: Tensor  # (N, S) int64
    credit: Tensor  # (N, S), advantage / (action's probability · steps taken)


class Draws(NamedTuple):
    """What determines one collection of episodes."""

    uniform: Tensor  # (T, N, B), in [0, 1)
    judging: bool  # whether the episodes judge; else they adapt


def _themselves(values: Tensor) -> Tensor:
    return values


def _best(values: Tensor) -> Tensor:
    return values.amax(-2, keepdim=True)


def greedy_chances(values: Tensor) -> Tensor:
    """Each action's probability without exploration, shared among equally good actions."""
    best = (values == _best(values)).to(values.dtype)
    return best / best.sum(-2, keepdim=True)


def _added_up(values: Tensor) -> Tensor:
    """Cumulative probabilities without exploration, of all actions but the last."""
    return greedy_chances(values).cumsum(-2)[..., :-1, :]


def epsilons(q: QLearning, episodes: int, judging: bool, like: Tensor) -> Tensor:
    """ε of each episode of a batch, (B,).

    Args:
        q: gives the rates.
        episodes: B.
        judging: whether the episodes judge; else they adapt.
        like: gives the dtype and the device.
    """
    epsilon = like.new_full((episodes,), q.judging_epsilon if judging else q.epsilon)
    epsilon[episodes - q.greedy_episodes :] = 0.0
    return epsilon


def td_loss(
    params: Params, batch: Steps, target: Params, setting: Setting, reading: Reading
) -> Tensor:
    """Σ_tasks of the weighted ½ (Q(s_t, a_t) − Σ_{j<m} γ^j r_{t+j} − γ^m max_a Q'(s_{t+m}, a))².

    Q' has the target parameters.
    """
    following = reading.every(target, setting.skip, _best)(batch.after).squeeze(-2)
    taken = reading.taken(params, setting.skip, _themselves, batch.square, batch.action)
    error = taken - (batch.paid + batch.discount * following)
    return 0.5 * (error.square() * batch.weight).sum()


def policy_loss(
    params: Params, batch: Judged, setting: Setting, q: QLearning, reading: Reading
) -> Tensor:
    """−Σ_tasks mean(π(a|s) / μ(a|s) · A), where π is the softmax of values / τ (Degris 2012)."""

    def policy(values: Tensor) -> Tensor:
        return (values / q.temperature).softmax(-2)

    taken = reading.taken(params, setting.skip, policy, batch.square, batch.action)
    return -(taken * batch.credit).sum()


def _play(
    params: Params,
    place: Tensor,
    uniforms: Tensor,
    following: Tensor,
    epsilon: Tensor,
    setting: Setting,
    reading: Reading,
) -> tuple[Tensor, Tensor]:
    """ε-greedy steps of all episodes at once; dynamics and arguments as in `grids.py`.

    Args:
        epsilon: ε of each episode, (B,).
    """
    shared = params[0].dim() == 2  # one network plays the episodes of all tasks as one (N·B,)
    added_up = reading.every(params, setting.skip, _added_up)
    explore = epsilon.repeat(len(place)) if shared else epsilon
    greedy, choices = 1.0 - explore, following.shape[1]
    steps = torch.arange(1, choices, device=place.device).to(explore.dtype) / choices
    random = steps.unsqueeze(-1) * explore

    def divided(square: Tensor) -> Tensor:
        return torch.addcmul(random, added_up(square), greedy)

    return walk(divided, place, uniforms, following, shared=shared)


def pair_weights(pair: Tensor, mask: Tensor, pairs: int) -> Tensor:
    """Weights (N, S) with which the sum of errors is the mean over pairs of each pair's mean.

    Args:
        pair: the index of each sample's square and action, (N, S) int64.
        mask: 1 where a step was taken, (N, S).
        pairs: how many there are.
    """
    visits = mask.new_zeros(len(mask), pairs).scatter_add_(-1, pair, mask)
    return mask / visits.gather(-1, pair).clamp(min=1.0) / pairs


def game(setting: Setting, pool: Grids, *, ends: bool, reading: Reading = by_sample) -> Game:
    """A game on tasks from a pool drawn beforehand.

    Args:
        setting: sizes and rates.
        pool: the tasks.
        ends: as in `outcome` of `grids.py`.
        reading: how values are computed.
    """
    q, (_, choices, squares), device = setting.q, pool.following.shape, pool.start.device
    assert q is not None

    @torch.no_grad()
    def collect(
        params: Params, tasks: Grids, draws: Draws, kernels: Kernels
    ) -> tuple[Steps | Judged, Tensor]:
        """The episodes of a `rollout` with what a loss takes of them, and each task's score.

        Args:
            params: one network for all tasks, or one for each.
            tasks: N tasks.
            draws: the random numbers, and which ε to use.
            kernels: eager or compiled.
        """
        uniforms, judging = draws
        with record_function("rollout"):
            explore = epsilons(q, setting.episodes, judging, uniforms)
            action, square, reward, mask = rollout(params, tasks, uniforms, kernels, ends, explore)
        with record_function("advantage"):
            seen, chosen, taken = by_task(square[:-1]), by_task(action), by_task(mask)
            share = taken / taken.sum(-1, keepdim=True).clamp(min=1.0)
            if judging:
                returns = returns_to_go(reward, mask, setting.discount)
                advantage = by_task(normalise(returns - mean_return(returns, mask), mask))
                shared = params[0].dim() == 2
                at = (x.flatten() if shared else x for x in (seen, chosen))
                greedy = reading.taken(params, setting.skip, greedy_chances, *at).view_as(seen)
                explored = explore.repeat(setting.horizon)  # (S,)
                chance = (1.0 - explored) * greedy + explored / choices
                credit = torch.where(explored > 0, advantage * share / chance, 0.0)
                batch = Judged(seen, chosen, credit)
            else:
                ended = (square[1:] == tasks.goal.unsqueeze(-1)).any(0) & ends
                paid, discount, end = n_step_returns(
                    reward, ended, mask, setting.discount, q.n_step
                )
                if q.mean_over == "pairs":
                    share = pair_weights(seen * choices + chosen, taken, squares * choices)
                after = square.gather(0, end)
                batch = Steps(seen, chosen, share, *map(by_task, (paid, discount, after)))
        scored = (reward * mask)[..., -q.greedy_episodes :]
        return batch, scored.sum((0, 2)) / q.greedy_episodes

    def draw(count: int) -> tuple[Grids, list[Draws]]:
        tasks = picked(pool, count)
        shape = (2, setting.horizon, count, setting.episodes)
        adapts, judges = torch.rand(shape, device=device).unbind()
        return tasks, [Draws(adapts, False)] * setting.inner_steps + [Draws(judges, True)]

    return Game(
        functools.partial(_play, setting=setting, reading=reading),
        functools.partial(td_loss, setting=setting, reading=reading),
        functools.partial(policy_loss, setting=setting, q=q, reading=reading),
        collect,
        draw,
        bootstraps=True,
    )
