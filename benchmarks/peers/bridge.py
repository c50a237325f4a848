"""Converts metajax's tasks and episodes to PyTorch, by preset."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from envs import Maze
from envs.grids import unpack

from . import func, grids, maml, point, q, sines, tables
from .contest import Contest, samples_last, to_torch
from .credit import by_task

__all__ = ["BRIDGES", "grids_of"]

_POOL = 16  # size of the pool of tasks drawn beforehand for PyTorch, in updates


class Bridge(NamedTuple):
    """One preset's conversions; the last argument is PyTorch's device."""

    tasks: Callable[[Any, str], Any]  # metajax's tasks (N, ...) -> the game's
    # `Trajectories` (N, T, B, ...) or `Examples` (N, S, ...) -> the batch of a loss
    batch: Callable[[Any, str], Any]
    # policies, tasks, the episodes they played, whether those judge -> the random numbers with
    # which PyTorch plays the same episodes, its distributions, and those that metajax drew from
    random: Callable[..., tuple[Any, list[Any], list[Any]]]
    # contest, device -> the game, and, if squares are observed, the same game read by square
    games: Callable[..., list[maml.Game]]
    losses: Callable[..., func.Losses]  # parameters, setting
    # the judging batch, if the outer loss takes another form of batch
    judged: Callable[[Any, str], Any] | None = None
    by_square: bool = False  # whether there is a second game


def _point_batch(batch: Any, device: str) -> point.Batch:
    fields = (batch.observation, batch.action, batch.mask, batch.advantage)
    return point.to_batch(*(samples_last(field, device) for field in fields))


def _point_random(
    policies: maml.Params,
    tasks: Any,
    batch: Any,
    judging: bool,
    setting: maml.Setting,
    device: str,
) -> tuple[Any, list[Any], list[Any]]:
    del tasks, judging
    observation, action = (
        samples_last(x, device).to(policies[0].dtype) for x in (batch.observation, batch.action)
    )
    places = observation.transpose(1, 2).unbind()  # (N, O, B) each
    mean = torch.stack([point.policy_mean(policies, place, setting) for place in places])
    mean = mean.transpose(1, 2)
    noise = (action - mean) * torch.exp(-policies[6].T.unsqueeze(-1)) / setting.action_scale
    return (noise, observation[0]), [mean.cpu()], [samples_last(batch.behaviour[0], "cpu")]


def _point_games(side: Contest, device: str) -> list[maml.Game]:
    return [point.game(side.setting, point.GOALS, device)]


def _corner_games(side: Contest, device: str) -> list[maml.Game]:
    return [point.game(side.setting, point.CORNERS, device)]


def _waves(task: Any, device: str) -> sines.Waves:
    return sines.Waves(to_torch(task.amplitude, device), to_torch(task.phase, device))


def _sine_batch(batch: Any, device: str) -> sines.Batch:
    return sines.Batch(
        *(to_torch(leaf, device).mT.contiguous() for leaf in (batch.inputs, batch.targets))
    )


def _sine_random(
    networks: maml.Params,
    tasks: Any,
    batch: Any,
    judging: bool,
    setting: maml.Setting,
    device: str,
) -> tuple[Any, list[Any], list[Any]]:
    del tasks, judging
    inputs = to_torch(batch.inputs, device).mT.to(networks[0].dtype)
    found = sines.predict(networks, inputs, setting)
    return inputs.squeeze(1), [found.cpu()], [to_torch(batch.predictions).mT]


def _sine_games(side: Contest, device: str) -> list[maml.Game]:
    return [sines.game(side.setting, device)]


def grids_of(task: Any, device: str) -> grids.Grids:
    is_maze = hasattr(task, "exit")
    walls = unpack(task.walls, task.walls.shape[1])  # square
    start, goal = task.start, task.exit if is_maze else task.goal
    if not is_maze:  # a wall around the grid is equivalent to its edge
        walls = jnp.pad(walls, ((0, 0), (1, 1), (1, 1)), constant_values=True)
        start, goal = start + 1, goal + 1
    places = (to_torch(place, device).long() for place in (start, goal))
    return grids.make_grids(to_torch(walls, device), *places, stay=not is_maze)


def _index(one_hot: Any, device: str) -> torch.Tensor:
    """One-hot observations (N, T, B, O) as the indices of squares (T, N, B)."""
    return samples_last(np.argmax(np.asarray(one_hot), axis=-1), device)


def _grid_batch(batch: Any, device: str) -> grids.Batch:
    action, mask, advantage = (
        samples_last(field, device) for field in (batch.action, batch.mask, batch.advantage)
    )
    return grids.to_batch(_index(batch.observation, device), action.long(), mask, advantage)


def _grid_random(
    policies: maml.Params,
    tasks: Any,
    batch: Any,
    judging: bool,
    setting: maml.Setting,
    device: str,
) -> tuple[torch.Tensor, list[Any], list[Any]]:
    del tasks, judging
    policy = grids.by_sample.every(policies, setting.skip, lambda logits: logits.softmax(-2))
    share = torch.stack([policy(place) for place in _index(batch.observation, device).unbind()])
    # The middle of the part of the unit interval that draws the action taken.
    middle = share.cumsum(-2) - 0.5 * share  # (T, N, A, B)
    action = samples_last(batch.action, device).long()
    uniform = middle.gather(-2, action.unsqueeze(-2)).squeeze(-2)
    theirs = samples_last(jax.nn.softmax(batch.behaviour), "cpu").transpose(1, 2)
    return uniform, [share.cpu()], [theirs]


def _middle(thresholds: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The middle of interval `chosen` (...) of [0, 1] divided at `thresholds` (..., C)."""
    low, high = (
        torch.nn.functional.pad(thresholds, pad, value=value)
        for pad, value in (((1, 0), 0.0), ((0, 1), 1.0))
    )
    middle = (low + high) / 2
    return middle.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)


def _tables(task: Any, device: str) -> tables.Tables:
    if hasattr(task, "probability"):  # a bandit
        reward = to_torch(task.probability, device)
        return tables.Tables(reward, reward.new_zeros(*reward.shape, 0))
    reward, transition = (to_torch(x, device) for x in (task.reward, task.transition))
    reached = tables.thresholds(transition.flatten(1, 2))
    return tables.Tables(reward.flatten(1), reached)


def _table_random(
    policies: maml.Params,
    tasks: tables.Tables,
    batch: Any,
    judging: bool,
    setting: maml.Setting,
    device: str,
) -> tuple[tables.Draws, list[Any], list[Any]]:
    uniform, ours, theirs = _grid_random(policies, tasks, batch, judging, setting, device)
    state, action = _index(batch.observation, device), samples_last(batch.action, device).long()
    reward = samples_last(batch.reward, device).to(uniform.dtype)
    states = tasks.reached.shape[-1] + 1
    pair = state * (tasks.reward.shape[1] // states) + action
    each = torch.arange(len(tasks.reward), device=device).unsqueeze(-1)
    if states == 1:  # it pays if the number is below the probability
        return tables.Draws(uniform, uniform[..., :0], 1.0 - reward), ours, theirs
    led = torch.cat([state[1:], state[:1]])  # where the last step leads is arbitrary
    following = _middle(tasks.reached[each, pair].to(reward.dtype), led)
    noise = reward - tasks.reward[each, pair]
    return tables.Draws(uniform, following, noise), ours, theirs


def _table_games(side: Contest, device: str) -> list[maml.Game]:
    env = side.environment
    is_bandit = hasattr(env, "arms")
    actions = env.arms if is_bandit else env.actions
    kind = tables.Kind(1 if is_bandit else env.states, actions, is_bandit)
    return [
        tables.game(side.setting, kind, device, reading)
        for reading in (grids.by_sample, grids.by_square)
    ]


def _pool(side: Contest, device: str) -> grids.Grids:
    """The pool that PyTorch picks its tasks from."""
    keys = jax.random.split(jax.random.key(0), _POOL * side.setting.tasks)
    return grids_of(jax.jit(jax.vmap(side.problem.sample_task))(keys), device)


def _grid_games(side: Contest, device: str) -> list[maml.Game]:
    pool, ends = _pool(side, device), isinstance(side.environment, Maze)
    game = functools.partial(grids.game, side.setting, pool, ends=ends)
    return [game(reading=reading) for reading in (grids.by_sample, grids.by_square)]


def _steps(batch: Any, device: str) -> q.Steps:
    action, weight, paid, discount, square, after = (
        by_task(leaf)
        for leaf in (
            samples_last(batch.action, device).long(),
            samples_last(batch.weight, device),
            samples_last(batch.n_step_return, device),
            samples_last(batch.discount, device),
            _index(batch.observation, device),
            _index(batch.next_observation, device),
        )
    )
    return q.Steps(square, action, weight, paid, discount, after)


def _judged(batch: Any, device: str) -> q.Judged:
    credit, mask = (by_task(samples_last(x, device)) for x in (batch.credit, batch.mask))
    steps = mask.sum(-1, keepdim=True).clamp(min=1.0)
    square, action, *_ = _steps(batch, device)
    return q.Judged(square, action, credit * mask / steps)


def _q_random(
    values: maml.Params,
    tasks: Any,
    batch: Any,
    judging: bool,
    setting: maml.Setting,
    device: str,
) -> tuple[q.Draws, list[Any], list[Any]]:
    del tasks
    assert setting.q is not None
    square, action, *_ = _steps(batch, device)
    chances = grids.by_square.every(values, setting.skip, q.greedy_chances)
    greedy = chances(square).mT  # (N, S, A)
    ours = greedy.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    explore = q.epsilons(setting.q, setting.episodes, judging, greedy)
    explore = explore.repeat(setting.horizon).unsqueeze(-1)  # (S, 1)
    added_up = ((1.0 - explore) * greedy + explore / greedy.shape[-1]).cumsum(-1)
    uniform = _middle(added_up[..., :-1], action)
    uniform = uniform.unflatten(-1, (setting.horizon, -1)).transpose(0, 1).contiguous()
    theirs = by_task(samples_last(batch.greedy, "cpu"))
    return q.Draws(uniform, judging), [ours.cpu()], [theirs]


def _q_games(side: Contest, device: str) -> list[maml.Game]:
    game = functools.partial(q.game, side.setting, _pool(side, device))
    ends = isinstance(side.environment, Maze)
    return [game(ends=ends, reading=reading) for reading in (grids.by_sample, grids.by_square)]


_POINT = Bridge(
    lambda task, device: to_torch(task.goal, device),
    _point_batch,
    _point_random,
    _point_games,
    func.point_loss,
)
_CORNERS = _POINT._replace(games=_corner_games)
_GRID = Bridge(grids_of, _grid_batch, _grid_random, _grid_games, func.grid_loss, by_square=True)
_TABLE = Bridge(_tables, _grid_batch, _table_random, _table_games, func.grid_loss, by_square=True)
_Q = Bridge(grids_of, _steps, _q_random, _q_games, func.q_loss, _judged, True)
_SINE = Bridge(_waves, _sine_batch, _sine_random, _sine_games, func.sine_loss)
BRIDGES = {
    "point": _POINT,
    "point-published": _POINT,
    "point-corners": _CORNERS,
    "maze": _GRID,
    "gridworld": _GRID,
    "gridworld-q": _Q,
    "maze-q": _Q,
    "bandit-10x5": _TABLE,
    "tabular-mdp": _TABLE,
    "sinusoid-5": _SINE,
    "sinusoid-10": _SINE,
}
"""By preset."""
