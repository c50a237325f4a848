"""What metajax has as PyTorch wants it: settings, parameters, tasks and episodes, by preset."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_func
import torch_grids
import torch_learn2learn
import torch_maml
import torch_point
import torch_sines

import metajax as mj
from envs.grids import unpack
from envs.tasksets import sampler_of_side
from metajax import experiments, presets
from metajax.configs import ACTIVATIONS, RegressionConfig

__all__ = [
    "BRIDGES",
    "Contest",
    "contest",
    "leaves",
    "policy_module",
    "samples_last",
    "to_torch",
    "torch_params",
]

_POOL = 16  # tasks drawn beforehand for PyTorch, in updates
_NO_EPISODES = dict(discount=1.0, gae_lambda=1.0, entropy=0.0, skip=0.0, action_scale=1.0)


class Contest(NamedTuple):
    """The metajax side of one preset, and what both sides share."""

    preset: str
    problem: mj.Problem
    inner: mj.Inner
    learner: mj.MetaLearner
    setting: torch_maml.Setting


def contest(preset: str, *, horizon: int | None = None, **changes: Any) -> Contest:
    """A preset as MAML takes it, with other values for fields of its configuration."""
    config: Any = dataclasses.replace(presets.preset(preset, "maml"), **changes)
    if hasattr(config, "adapt_std"):  # both sides adapt all parameters
        config = dataclasses.replace(config, adapt_std=True)
    if horizon is not None:
        config = dataclasses.replace(config, env=dataclasses.replace(config.env, horizon=horizon))
    experiment = experiments.build(config)
    problem = experiment.problem
    if isinstance(config, RegressionConfig):
        problem = _drawn_query(config, problem)
        sizes: dict[str, Any] = dict(
            episodes=config.shots, horizon=1, on_policy=False, **_NO_EPISODES
        )
    else:
        if config.held_out:
            # That problem is evaluation's. Training draws from the other side.
            training = sampler_of_side(config.env.sample_task, 1 - config.held_out, first=True)
            problem = problem._replace(sample_task=training)
        sizes = dict(
            episodes=config.episodes,
            horizon=config.env.max_horizon,
            on_policy=True,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
            entropy=config.entropy,
            skip=config.skip,
            action_scale=getattr(config, "action_scale", 1.0),
        )
    setting = torch_maml.Setting(
        tasks=config.tasks,
        inner_steps=config.inner_steps,
        inner_rates=config.inner_learning_rate,
        outer_rate=config.outer_learning_rate,
        final_rate=config.final_rate,
        updates=config.updates,
        gradient_clip=config.gradient_clip,
        activation=config.activation,
        step_weights=config.step_weights,
        **sizes,
    )
    inner = mj.sgd(config.inner_learning_rate, config.inner_steps)
    return Contest(preset, problem, inner, experiment.learner, setting)


def _drawn_query(config: RegressionConfig, problem: mj.Problem) -> mj.Problem:
    """The problem of training: that of evaluation judges on a grid."""
    training = mj.regression(
        mj.networks.MLP((*config.hidden, 1), ACTIVATIONS[config.activation]), shots=config.shots
    )
    return training._replace(sample_task=problem.sample_task)


def leaves(params: Any) -> list[Any]:
    """A flax network's arrays in the order of `torch_maml`: (W, b) of each layer, and what a policy
    has besides: log σ, or the kernel of the linear path."""
    tree = dict(params["params"])
    network = tree.pop("MLP_0") if "MLP_0" in tree else {name: tree.pop(name) for name in [*tree]}
    layers = [network[f"Dense_{index}"] for index in range(len(network))]
    return [layer[kind] for layer in layers for kind in ("kernel", "bias")] + jax.tree.leaves(tree)


def to_torch(array: Any, device: str = "cpu") -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def torch_params(params: Any, device: str = "cpu") -> torch_maml.Params:
    """A flax policy as the leaves that PyTorch learns."""
    return tuple(to_torch(leaf, device).requires_grad_() for leaf in leaves(params))


def policy_module(params: torch_maml.Params) -> torch_learn2learn.Policy:
    """The policy for `point` as the module that `torch_learn2learn` learns."""
    *layers, log_std = (p.detach().cpu() for p in params)
    policy = torch_learn2learn.Policy(len(layers[0]), len(log_std))
    state = {"sigma": log_std}
    for index, (kernel, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        state |= {f"mean.{2 * index}.weight": kernel.T, f"mean.{2 * index}.bias": bias}
    policy.load_state_dict(state)
    return policy


def samples_last(array: Any, device: str) -> torch.Tensor:
    """(N, T, B, ...) of metajax -> (T, ..., N, B) of PyTorch."""
    return to_torch(array, device).movedim((0, 2), (-2, -1)).contiguous()


class Bridge(NamedTuple):
    """One preset's conversions; the last argument is PyTorch's device."""

    tasks: Callable[[Any, str], Any]  # tasks of metajax, (N, ...), as a game has them
    # `Trajectories` (N, T, B, ...), or `Examples` (N, S, ...), as a loss sees them
    batch: Callable[[Any, str], Any]
    # policies, and the episodes that they played -> the random numbers that make PyTorch play them
    # too, and what it computed of the distributions beside what metajax drew from
    random: Callable[..., tuple[Any, list[Any], list[Any]]]
    # contest, device -> the game, and where squares are observed the same read by square
    games: Callable[..., list[torch_maml.Game]]
    task_loss: Callable[..., torch_func.TaskLoss]  # parameters, setting


def _point_batch(batch: Any, device: str) -> torch_point.Batch:
    fields = (batch.observation, batch.action, batch.mask, batch.advantage)
    return torch_point.to_batch(*(samples_last(field, device) for field in fields))


def _point_random(
    policies: torch_maml.Params, batch: Any, setting: torch_maml.Setting, device: str
) -> tuple[Any, list[Any], list[Any]]:
    observation, action = (
        samples_last(x, device).to(policies[0].dtype) for x in (batch.observation, batch.action)
    )
    places = observation.transpose(1, 2).unbind()  # (N, O, B) each
    mean = torch.stack([torch_point.policy_mean(policies, place, setting) for place in places])
    mean = mean.transpose(1, 2)
    noise = (action - mean) * torch.exp(-policies[6].T.unsqueeze(-1)) / setting.action_scale
    return (noise, observation[0]), [mean.cpu()], [samples_last(batch.behaviour[0], "cpu")]


def _point_games(side: Contest, device: str) -> list[torch_maml.Game]:
    return [torch_point.game(side.setting, torch_point.GOALS, device)]


def _corner_games(side: Contest, device: str) -> list[torch_maml.Game]:
    return [torch_point.game(side.setting, torch_point.CORNERS, device)]


def _waves(task: Any, device: str) -> torch_sines.Waves:
    return torch_sines.Waves(to_torch(task.amplitude, device), to_torch(task.phase, device))


def _sine_batch(batch: Any, device: str) -> torch_sines.Batch:
    return torch_sines.Batch(
        *(to_torch(leaf, device).mT.contiguous() for leaf in (batch.inputs, batch.targets))
    )


def _sine_random(
    networks: torch_maml.Params, batch: Any, setting: torch_maml.Setting, device: str
) -> tuple[Any, list[Any], list[Any]]:
    inputs = to_torch(batch.inputs, device).mT.to(networks[0].dtype)
    found = torch_sines.predict(networks, inputs, setting)
    return inputs.squeeze(1), [found.cpu()], [to_torch(batch.predictions).mT]


def _sine_games(side: Contest, device: str) -> list[torch_maml.Game]:
    return [torch_sines.game(side.setting, device)]


def _grids(task: Any, device: str) -> torch_grids.Grids:
    is_maze = hasattr(task, "exit")
    walls = unpack(task.walls, task.walls.shape[1])  # square
    start, goal = task.start, task.exit if is_maze else task.goal
    if not is_maze:  # the grid ends where it ends: a wall around it says the same
        walls = jnp.pad(walls, ((0, 0), (1, 1), (1, 1)), constant_values=True)
        start, goal = start + 1, goal + 1
    places = (to_torch(place, device).long() for place in (start, goal))
    return torch_grids.make_grids(to_torch(walls, device), *places, stay=not is_maze)


def _squares(batch: Any, device: str) -> torch.Tensor:
    return samples_last(np.argmax(np.asarray(batch.observation), axis=-1), device)


def _grid_batch(batch: Any, device: str) -> torch_grids.Batch:
    action, mask, advantage = (
        samples_last(field, device) for field in (batch.action, batch.mask, batch.advantage)
    )
    return torch_grids.to_batch(_squares(batch, device), action.long(), mask, advantage)


def _grid_random(
    policies: torch_maml.Params, batch: Any, setting: torch_maml.Setting, device: str
) -> tuple[torch.Tensor, list[Any], list[Any]]:
    policy = torch_grids.by_sample(policies, setting.skip)
    logits = torch.stack([policy(place) for place in _squares(batch, device).unbind()])
    # The middle of what the action taken has of the unit interval.
    share = logits.softmax(-2)
    middle = share.cumsum(-2) - 0.5 * share  # (T, N, A, B)
    action = samples_last(batch.action, device).long()
    uniform = middle.gather(-2, action.unsqueeze(-2)).squeeze(-2)
    theirs = samples_last(jax.nn.softmax(batch.behaviour), "cpu").transpose(1, 2)
    return uniform, [share.cpu()], [theirs]


def _grid_games(side: Contest, device: str) -> list[torch_maml.Game]:
    keys = jax.random.split(jax.random.key(0), _POOL * side.setting.tasks)
    pool = _grids(jax.jit(jax.vmap(side.problem.sample_task))(keys), device)
    game = functools.partial(torch_grids.game, side.setting, pool, ends=side.preset == "maze")
    return [game(reading=reading) for reading in (torch_grids.by_sample, torch_grids.by_square)]


_POINT = Bridge(
    lambda task, device: to_torch(task.goal, device),
    _point_batch,
    _point_random,
    _point_games,
    torch_func.point_loss,
)
_CORNERS = _POINT._replace(games=_corner_games)
_GRID = Bridge(_grids, _grid_batch, _grid_random, _grid_games, torch_func.grid_loss)
_SINE = Bridge(_waves, _sine_batch, _sine_random, _sine_games, torch_func.sine_loss)
BRIDGES = {
    "point": _POINT,
    "point-published": _POINT,
    "point-corners": _CORNERS,
    "maze": _GRID,
    "gridworld": _GRID,
    "sinusoid-5": _SINE,
    "sinusoid-10": _SINE,
}
"""By preset."""
