"""MAML on point navigation in PyTorch, written like learn2learn's examples: a loop over tasks.

learn2learn does not build from the registry on Python 3.11, so this does what its examples do
(`examples/rl/maml_trpo.py` and `policies.py` of version 0.2.0), in plain PyTorch: modules of
`nn.Linear`, a distribution object, features last; per task a differentiable copy of the policy,
episodes, advantages by a loop backwards in time, `autograd.grad(create_graph=True)`. It is faster
than they are: all episodes of a task step at once in one tensor, not in worker processes, and one
loop over time handles them all. `maml.py` shows how fast a loop can be made.

Shapes: T steps, B episodes, O observation features, A actions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .maml import Setting

__all__ = ["Episodes", "Policy", "fast_adapt", "make_update", "surrogate_loss"]

Weights = Mapping[str, Tensor]


class Policy(nn.Module):
    """A Gaussian policy, `DiagNormalPolicy` of learn2learn's examples."""

    def __init__(self, inputs: int, actions: int, hidden: tuple[int, ...] = (64, 64)) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.mean = nn.Sequential(*layers, nn.Linear(widths[-1], actions))
        self.sigma = nn.Parameter(torch.zeros(actions))

    def forward(self, state: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(self.mean(state), self.sigma.exp())


class Episodes(NamedTuple):
    """B episodes of one task."""

    state: Tensor  # (T, B, O)
    action: Tensor  # (T, B, A)
    advantage: Tensor  # (T, B)
    mask: Tensor  # (T, B), 1 where a step was taken


def _density(policy: Policy, weights: Weights, state: Tensor) -> torch.distributions.Normal:
    return torch.func.functional_call(policy, dict(weights), (state,))


def surrogate_loss(policy: Policy, weights: Weights, episodes: Episodes) -> Tensor:
    """−mean(π_θ / sg(π_θ) · A) over the steps taken."""
    log_prob = _density(policy, weights, episodes.state).log_prob(episodes.action).sum(-1)
    ratio = torch.exp(log_prob - log_prob.detach())
    return -(ratio * episodes.advantage * episodes.mask).sum() / episodes.mask.sum()


def fast_adapt(policy: Policy, weights: Weights, episodes: Episodes, rate: float) -> Weights:
    """One inner step, itself differentiable.

    Args:
        policy: the module.
        weights: its parameters.
        episodes: the batch.
        rate: the inner learning rate.

    Returns:
        The new parameters.
    """
    loss = surrogate_loss(policy, weights, episodes)
    grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    return {name: w - rate * g for (name, w), g in zip(weights.items(), grads, strict=True)}


def _play(policy: Policy, weights: Weights, goal: Tensor, setting: Setting) -> tuple[Tensor, ...]:
    """Plays B episodes in a loop over time: states, actions, rewards and masks."""
    state = torch.zeros(setting.episodes, 2)
    running = torch.ones(setting.episodes)
    states, actions, rewards, masks = [], [], [], []
    with torch.no_grad():
        for _ in range(setting.horizon):
            action = _density(policy, weights, state).sample()
            states.append(state)
            actions.append(action)
            masks.append(running)
            state = state + action.clamp(-0.1, 0.1)
            offset = state - goal
            rewards.append(-offset.norm(dim=-1))
            running = running * 1.0 * ~(offset.abs() < 0.01).all(-1)
    return tuple(map(torch.stack, (states, actions, rewards, masks)))


def _advantage(state: Tensor, reward: Tensor, mask: Tensor, setting: Setting) -> Tensor:
    """GAE with a refitted baseline linear in [o, o², t, t², t³, 1], normalised over the steps."""
    reward = reward * mask
    returns, running = torch.zeros_like(reward), torch.zeros(reward.shape[1])
    for t in reversed(range(setting.horizon)):
        running = reward[t] + setting.discount * running
        returns[t] = running
    clipped = state.clamp(-10.0, 10.0)
    time = (torch.arange(setting.horizon) / 100.0).view(-1, 1, 1).expand(*mask.shape, 1)
    columns = [clipped, clipped**2, time, time**2, time**3, torch.ones_like(time)]
    features = torch.cat(columns, dim=-1) * mask.unsqueeze(-1)
    flat, target = features.flatten(0, 1), (returns * mask).flatten().unsqueeze(-1)
    gram = flat.T @ flat + 1e-5 * torch.eye(flat.shape[1])
    weights = torch.linalg.lstsq(gram, flat.T @ target).solution
    value = (features @ weights).squeeze(-1)
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    error = (reward + setting.discount * following - value) * mask
    advantage, running = torch.zeros_like(error), torch.zeros(error.shape[1])
    for t in reversed(range(setting.horizon)):
        running = error[t] + setting.discount * setting.gae_lambda * running
        advantage[t] = running
    taken = advantage[mask > 0]
    return (advantage - taken.mean()) / (taken.std(correction=0) + 1e-8) * mask


def make_update(policy: Policy, setting: Setting) -> Callable[[], Tensor]:
    """One whole update, from fresh goals to the Adam step, which changes `policy` in place.

    Returns:
        a function without arguments; it returns the mean return after adaptation, ().
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=setting.outer_rate)

    def episodes(weights: Weights, goal: Tensor) -> tuple[Episodes, Tensor]:
        state, action, reward, mask = _play(policy, weights, goal, setting)
        score = (reward * mask).sum(0).mean()
        return Episodes(state, action, _advantage(state, reward, mask, setting), mask), score

    def update() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for _ in range(setting.tasks):
            goal = torch.rand(2) - 0.5
            weights: Weights = dict(policy.named_parameters())
            for k in range(setting.inner_steps):
                support, _ = episodes(weights, goal)
                weights = fast_adapt(policy, weights, support, setting.inner_rate(k))
            query, score = episodes(weights, goal)
            (surrogate_loss(policy, weights, query) / setting.tasks).backward()
            total += score / setting.tasks
        optimizer.step()
        return total

    return update
