"""Converts metajax's settings, parameters and arrays to PyTorch."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

import metajax as mj
from envs.splits import sampler_of_side
from metajax import experiments, presets
from metajax.configs import ACTIVATIONS, QConfig, RegressionConfig

from . import learn2learn, maml

__all__ = [
    "Contest",
    "contest",
    "leaves",
    "policy_module",
    "samples_last",
    "to_torch",
    "torch_params",
]

_NO_POLICY = dict(gae_lambda=1.0, baseline="none", entropy=0.0)
_NO_EPISODES = dict(discount=1.0, skip=0.0, **_NO_POLICY)


class Contest(NamedTuple):
    """The metajax side of one preset, and what both sides share."""

    preset: str
    problem: mj.Problem
    inner: mj.Inner
    learner: mj.MetaLearner
    setting: maml.Setting
    environment: Any  # None if there are no episodes


def contest(preset: str, *, horizon: int | None = None, **changes: Any) -> Contest:
    """A preset trained by MAML, with changed fields of its configuration."""
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
            on_policy=problem.on_policy,
            discount=config.discount,
            skip=config.skip,
        )
        if isinstance(config, QConfig):
            names = [field.name for field in dataclasses.fields(maml.QLearning)]
            q = maml.QLearning(**{name: getattr(config, name) for name in names})
            sizes |= dict(q=q, **_NO_POLICY)
        else:
            sizes |= {name: getattr(config, name) for name in _NO_POLICY}
    setting = maml.Setting(
        tasks=config.tasks,
        inner_steps=config.inner_steps,
        inner_rates=config.inner_learning_rate,
        outer_rate=config.outer_learning_rate,
        final_rate=config.final_rate,
        updates=config.updates,
        gradient_clip=config.gradient_clip,
        activation=config.activation,
        step_weights=config.step_weights,
        action_scale=getattr(config, "action_scale", 1.0),
        **sizes,
    )
    inner = mj.sgd(config.inner_learning_rate, config.inner_steps)
    return Contest(preset, problem, inner, experiment.learner, setting, experiment.environment)


def _drawn_query(config: RegressionConfig, problem: mj.Problem) -> mj.Problem:
    """The training problem; the evaluation problem judges on a grid."""
    training = mj.regression(
        mj.networks.MLP((*config.hidden, 1), ACTIVATIONS[config.activation]), shots=config.shots
    )
    return training._replace(sample_task=problem.sample_task)


def leaves(params: Any) -> list[Any]:
    """A flax network's arrays in the order of `maml.py`: (W, b) of each layer, then log σ or the
    kernel of the linear path if a policy has them."""
    tree = dict(params["params"])
    network = tree.pop("MLP_0") if "MLP_0" in tree else {name: tree.pop(name) for name in [*tree]}
    layers = [network[f"Dense_{index}"] for index in range(len(network))]
    return [layer[kind] for layer in layers for kind in ("kernel", "bias")] + jax.tree.leaves(tree)


def to_torch(array: Any, device: str = "cpu") -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def torch_params(params: Any, device: str = "cpu") -> maml.Params:
    """A flax policy as leaf tensors for PyTorch to learn."""
    return tuple(to_torch(leaf, device).requires_grad_() for leaf in leaves(params))


def policy_module(params: maml.Params) -> learn2learn.Policy:
    """The policy for `point` as the module of `learn2learn.py`."""
    *layers, log_std = (p.detach().cpu() for p in params)
    policy = learn2learn.Policy(len(layers[0]), len(log_std))
    state = {"sigma": log_std}
    for index, (kernel, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        state |= {f"mean.{2 * index}.weight": kernel.T, f"mean.{2 * index}.bias": bias}
    policy.load_state_dict(state)
    return policy


def samples_last(array: Any, device: str) -> torch.Tensor:
    """(N, T, B, ...) of metajax -> (T, ..., N, B) of PyTorch."""
    return to_torch(array, device).movedim((0, 2), (-2, -1)).contiguous()
