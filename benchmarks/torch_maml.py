"""MAML on point navigation in PyTorch, as well as we can: what metajax is compared with.

The algorithm is that of the `point` preset: N tasks, B episodes of T steps, K inner gradient steps
on the LVC surrogate, a linear-feature baseline refitted per task and step, a second-order
meta-gradient and Adam. It is here twice. `loop` takes one task after the other, as learn2learn's
users do. `batched` gives every task its own weights along a leading axis, so that all of it, the
rollouts and the backward passes included, is batched matrix products over all tasks; `chunk` takes
the gradients of that many tasks at once (their intermediate values then stay in a CPU's cache, and
the rollouts remain batched over all), and `compiled_kernels` passes all through Inductor.

Shapes: N tasks, T steps, B episodes, O observation features, A actions, S = T·B samples of a task.
Samples are the LAST axis everywhere: with two observations and two actions MKL's products are then
up to eight times faster than with features last. A policy is the tuple (W₁, b₁, W₂, b₂, W₃, b₃,
log σ), `Wᵀ x + b`, tanh between. One that all tasks share has the plain shapes (O, H), (H,), ...;
one for each task puts N in front of each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "EAGER",
    "Batch",
    "Kernels",
    "Setting",
    "advantages",
    "collect",
    "compiled_kernels",
    "make_update",
    "meta_gradient",
    "meta_gradient_loop",
]

Params = tuple[Tensor, ...]
Source = Callable[[int, Params], "Batch"]
"""Inner step k (K for the judging batch) and the policies to play -> a batch of all tasks."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """The sizes and rates of one update; the defaults are the `point` preset's."""

    tasks: int = 40
    episodes: int = 20
    horizon: int = 100
    inner_steps: int = 1
    inner_rate: float = 0.1
    outer_rate: float = 1e-3
    discount: float = 0.99
    gae_lambda: float = 1.0

    @property
    def env_steps(self) -> int:
        """Environment steps that one update simulates; those after an episode's end count."""
        return self.tasks * self.episodes * self.horizon * (self.inner_steps + 1)


class Batch(NamedTuple):
    """What a loss sees of N tasks, samples in time-major order; of one task, without the N."""

    observation: Tensor  # (N, O, S)
    action: Tensor  # (N, A, S)
    weight: Tensor  # (N, S), advantage · mask / steps taken: the surrogate is Σ ratio · weight


def affine(weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
    """Wᵀ x + b: one product for all samples where tasks share the weights, else one per task."""
    product: Callable[..., Tensor] = torch.addmm if weight.dim() == 2 else torch.baddbmm
    return product(bias.unsqueeze(-1), weight.mT, inputs)


def policy_mean(params: Params, observation: Tensor) -> Tensor:
    """(N, O, S) -> the mean action (N, A, S); without the N for a policy that is shared."""
    hidden = torch.tanh(affine(params[0], params[1], observation))
    hidden = torch.tanh(affine(params[2], params[3], hidden))
    return affine(params[4], params[5], hidden)


def surrogate_loss(params: Params, batch: Batch) -> Tensor:
    """−Σ_tasks mean(π_θ / sg(π_θ) · A) over the steps taken (LVC; Rothfuss et al. 2019, eq. 7)."""
    log_std = params[6].unsqueeze(-1)
    standard = (batch.action - policy_mean(params, batch.observation)) * torch.exp(-log_std)
    log_prob = (-0.5 * standard.square() - log_std).sum(-2)  # to a constant, which cancels
    return -(torch.exp(log_prob - log_prob.detach()) * batch.weight).sum()


def adapt(params: Params, batch: Batch, rate: float) -> Params:
    """One inner step of every task, differentiable once more."""
    grads = torch.autograd.grad(surrogate_loss(params, batch), params, create_graph=True)
    return tuple(p - rate * g for p, g in zip(params, grads, strict=True))


def adapt_traceable(params: Params, batch: Batch, rate: float) -> Params:
    """`adapt` for `torch.compile`, which lacks double backward but traces `torch.func.grad`."""
    grads = torch.func.grad(surrogate_loss)(params, batch)
    return tuple(p - rate * g for p, g in zip(params, grads, strict=True))


def play(params: Params, place: Tensor, disturbances: Tensor) -> tuple[Tensor, Tensor]:
    """Steps of all episodes at once, the dynamics of `envs.point`.

    Args:
        params: one policy, or N.
        place: where the episodes are, (O, S), or (N, O, S) for N policies.
        disturbances: what is added to the mean action, (steps, ...).

    Returns:
        the actions and where each led, (steps, ...) both.
    """
    actions, places = [], []
    for disturbance in disturbances.unbind():
        actions.append(policy_mean(params, place) + disturbance)
        place = place + actions[-1].clamp(-0.1, 0.1)
        places.append(place)
    return torch.stack(actions), torch.stack(places)


class Kernels(NamedTuple):
    """The three functions in which nearly all time goes, eager or compiled."""

    play: Callable[[Params, Tensor, Tensor], tuple[Tensor, Tensor]] = play
    block: int | None = None  # steps of one call of `play`; the whole horizon where None
    inner: Callable[[Params, Batch, float], Params] = adapt  # one inner step
    outer: Callable[[Params, Batch], Tensor] = surrogate_loss  # autograd takes its gradient


EAGER = Kernels()


def compiled_kernels(block: int = 10) -> Kernels:
    """All through Inductor, backward passes included; `block` steps of a rollout are unrolled.

    On a CPU tanh is then made of exponentials, which is twice as fast as the library's.
    """
    options: dict[str, Any] = {"cpp.use_decompose_tanh": True}
    compiled = functools.partial(torch.compile, fullgraph=True, dynamic=False, options=options)
    return Kernels(compiled(play), block, compiled(adapt_traceable), compiled(surrogate_loss))


@functools.cache
def discounting(horizon: int, rate: float, device: torch.device) -> Tensor:
    """(T, T), its product with values (T, ...) is Σ_{j≥t} rate^{j−t} values_j."""
    steps = torch.arange(horizon, dtype=torch.float64, device=device)
    powers = rate ** (steps[None, :] - steps[:, None]).clamp(min=0)
    return powers.triu().float()


def by_task(values: Tensor) -> Tensor:
    """(T, ..., N, B) -> (N, ..., S)."""
    return values.movedim(-2, 0).movedim(1, -2).flatten(-2)


def linear_baseline(observation: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Least squares on [o, o², t, t², t³, 1] of each task (Duan et al. 2016) -> values (T, N, B).

    Cholesky on the normal equations, their rows scaled to unit norm, ridge 1e-5.

    Args:
        observation: (T, O, N, B).
        returns: returns to go, (T, N, B).
        mask: 1 where a step was taken, (T, N, B).
    """
    horizon, _, episodes = mask.shape
    clipped = by_task(observation).clamp(-10.0, 10.0)
    time = torch.arange(horizon, device=mask.device, dtype=mask.dtype) / 100.0
    time = torch.stack([time**0, time, time**2, time**3]).repeat_interleave(episodes, -1)
    rows = [clipped, clipped.square(), time.expand(len(clipped), *time.shape)]
    features = torch.cat(rows, dim=1) * by_task(mask).unsqueeze(1)  # (N, F, S)
    gram = features @ features.mT
    scale = gram.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).rsqrt().unsqueeze(-1)
    ridge = 1e-5 * torch.eye(gram.shape[-1], device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(gram * scale * scale.mT + ridge)
    moments = features @ by_task(returns * mask).unsqueeze(-1) * scale
    weights = torch.cholesky_solve(moments, factor) * scale  # (N, F, 1)
    return (weights.mT @ features).view(-1, horizon, episodes).transpose(0, 1)


def advantages(observation: Tensor, reward: Tensor, mask: Tensor, setting: Setting) -> Tensor:
    """GAE(γ, λ) on the linear baseline, normalised over each task's steps, (T, N, B).

    Nothing is bootstrapped past the horizon. Arguments as in `linear_baseline`, reward (T, N, B).
    """
    horizon, device = len(mask), mask.device
    reward = reward * mask
    returns = discounting(horizon, setting.discount, device) @ reward.flatten(1)
    value = linear_baseline(observation, returns.view_as(reward), mask) * mask
    error = reward - value
    error[:-1] += setting.discount * value[1:]
    decay = setting.discount * setting.gae_lambda
    advantage = discounting(horizon, decay, device) @ error.flatten(1)
    advantage = advantage.view_as(reward) * mask
    count = mask.sum((0, 2), keepdim=True).clamp(min=1.0)
    centred = (advantage - advantage.sum((0, 2), keepdim=True) / count) * mask
    deviation = (centred.square().sum((0, 2), keepdim=True) / count).sqrt()
    return centred / (deviation + 1e-8)


def to_batch(observation: Tensor, action: Tensor, mask: Tensor, advantage: Tensor) -> Batch:
    """Trajectories (T, O, N, B), (T, A, N, B) and (T, N, B) of N tasks, as a loss wants them."""
    weight = advantage * mask / mask.sum((0, 2), keepdim=True).clamp(min=1.0)
    return Batch(by_task(observation), by_task(action), by_task(weight))


@torch.no_grad()
def collect(
    params: Params, goal: Tensor, noise: Tensor, setting: Setting, kernels: Kernels = EAGER
) -> tuple[Batch, Tensor]:
    """Plays B episodes of each task. Returns what the losses see, and each task's mean return (N,).

    An episode is played to the horizon; what follows its end is masked, all at once, afterwards.

    Args:
        params: one policy for all tasks, or one for each.
        goal: (N, 2).
        noise: standard normal, (T, A, N, B).
        setting: sizes and rates.
        kernels: eager or compiled.
    """
    shared = params[0].dim() == 2
    # A shared policy plays the episodes of all tasks as one (O, N·B); else each task its (O, B).
    arranged = noise.flatten(2) if shared else noise.transpose(1, 2).contiguous()
    disturbance = arranged * torch.exp(params[6]).unsqueeze(-1)
    places, actions = [torch.zeros_like(disturbance[:1])], []
    for part in disturbance.split(kernels.block or len(noise)):
        taken, reached = kernels.play(params, places[-1][-1], part)
        actions.append(taken)
        places.append(reached)
    action, position = (
        x.unflatten(-1, noise.shape[2:]) if shared else x.transpose(1, 2)
        for x in (torch.cat(actions), torch.cat(places))
    )
    offset = position[1:] - goal.T.unsqueeze(-1)
    reward = -offset.square().sum(1).sqrt()
    ended = (offset.abs() < 0.01).all(1).cumsum(0) > 0
    mask = torch.ones_like(reward)
    mask[1:] = (~ended[:-1]).float()
    advantage = advantages(position[:-1], reward, mask, setting)
    score = (reward * mask).sum((0, 2)) / setting.episodes
    return to_batch(position[:-1], action, mask, advantage), score


def _join(parts: Sequence[Params]) -> Params:
    return tuple(torch.cat([p.detach() for p in leaf]) for leaf in zip(*parts, strict=True))


def meta_gradient(
    params: Params,
    source: Source,
    setting: Setting,
    chunk: int | None = None,
    kernels: Kernels = EAGER,
) -> None:
    """Adds the mean meta-gradient over all tasks to `params`' `.grad`, tasks batched.

    Args:
        params: the meta-parameters, leaves that require a gradient.
        source: gives the batches, once per inner step and once more for the judging one.
        setting: sizes and rates.
        chunk: tasks whose gradient is taken at once; all where None.
        kernels: eager or compiled.
    """
    size = chunk or setting.tasks
    chunks = [min(size, setting.tasks - start) for start in range(0, setting.tasks, size)]
    fast = [tuple(p.expand(count, *p.shape) for p in params) for count in chunks]
    played = params  # before the first step one policy plays all tasks, in one product
    for k in range(setting.inner_steps):
        parts = zip(*(leaf.split(size) for leaf in source(k, played)), strict=True)
        fast = [
            kernels.inner(own, Batch(*part), setting.inner_rate)
            for own, part in zip(fast, parts, strict=True)
        ]
        played = _join(fast)
    judged = zip(*(leaf.split(size) for leaf in source(setting.inner_steps, played)), strict=True)
    for part in judged:
        (kernels.outer(fast.pop(0), Batch(*part)) / setting.tasks).backward()


def meta_gradient_loop(params: Params, source: Source, setting: Setting) -> None:
    """Adds one task's share of `meta_gradient`: its source has a single task, weights have no N."""

    def alone(k: int, fast: Params) -> Batch:
        return Batch(*(leaf[0] for leaf in source(k, tuple(p.detach() for p in fast))))

    fast = params
    for k in range(setting.inner_steps):
        fast = adapt(fast, alone(k, fast), setting.inner_rate)
    (surrogate_loss(fast, alone(setting.inner_steps, fast)) / setting.tasks).backward()


def make_update(
    params: Params,
    setting: Setting,
    *,
    loop: bool = False,
    chunk: int | None = None,
    kernels: Kernels = EAGER,
) -> Callable[[], Tensor]:
    """One whole update, from fresh goals to the Adam step, which changes `params` in place.

    Args:
        params: the meta-parameters, leaves that require a gradient.
        setting: sizes and rates.
        loop: takes one task after the other; else all are batched.
        chunk: of the batched, tasks whose gradient is taken at once; all where None.
        kernels: of the batched, eager or compiled.

    Returns:
        a function without arguments; it returns the mean return after adaptation, ().
    """
    device = params[0].device
    optimizer = torch.optim.Adam(params, lr=setting.outer_rate, fused=True)

    def fresh_tasks(count: int) -> tuple[Source, list[Tensor]]:
        goal = torch.rand(count, 2, device=device) - 0.5
        shape = (setting.inner_steps + 1, setting.horizon, 2, count, setting.episodes)
        noise, scores = torch.randn(shape, device=device), []

        def source(k: int, policies: Params) -> Batch:
            batch, score = collect(policies, goal, noise[k], setting, kernels)
            scores.append(score)
            return batch

        return source, scores

    def update() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        if loop:
            total = torch.zeros((), device=device)
            for _ in range(setting.tasks):
                source, scores = fresh_tasks(1)
                meta_gradient_loop(params, source, setting)
                total += scores[-1][0] / setting.tasks
        else:
            source, scores = fresh_tasks(setting.tasks)
            meta_gradient(params, source, setting, chunk, kernels)
            total = scores[-1].mean()
        optimizer.step()
        return total

    return update
