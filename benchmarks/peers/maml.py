"""MAML for policies in PyTorch, as fast as we can make it: what metajax is compared with.

The algorithm is that of a preset: N tasks, B episodes of T steps, K inner gradient steps on the LVC
surrogate with a baseline refitted per task and step, or on temporal-difference errors, a
second-order meta-gradient and Adam. There are two versions. `meta_gradient_loop` takes one task
after another, as users of learn2learn do. `meta_gradient` gives every task its own weights along a
leading axis, so that everything, rollouts and backward passes included, is matrix products batched
over all tasks; `chunk` takes the gradients of that many tasks at once (their intermediate values
then stay in a CPU's cache, while rollouts remain batched over all), and `compiled` passes
everything through Inductor. What is played is a `Game`, defined in `point.py`, `grids.py`,
`q.py`, `tables.py` and `sines.py`.

Shapes: N tasks, T steps, B episodes, S = T·B samples of a task. Samples are the LAST axis
everywhere: with two observations and two actions MKL's products are then up to eight times faster
than with features last. A policy is a tuple that begins with (W, b) of each layer, `Wᵀ x + b`, with
tanh in between. One shared by all tasks has the plain shapes (O, H), (H,), ...; with one for each
task, all have a leading N.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

__all__ = [
    "Game",
    "Gradient",
    "Kernels",
    "Params",
    "QLearning",
    "Setting",
    "Source",
    "adapt",
    "affine",
    "compiled",
    "eager",
    "make_optimizer",
    "make_update",
    "meta_gradient",
    "meta_gradient_loop",
]

Params = tuple[Tensor, ...]
Batch = Any
"""A NamedTuple, the input of a loss: (N, ..., S) each; for one task, without the N."""
Source = Callable[[int, Params], Batch]
"""Inner step k (K for the judging batch) and the policies to play -> a batch of all tasks."""
Gradient = Callable[[Params, Source], None]
"""Adds a meta-gradient to the `.grad` of the meta-parameters, leaves that require one."""


@dataclasses.dataclass(frozen=True)
class QLearning:
    """Further settings of Q-learning, named as in `metajax.q_learning`."""

    n_step: int
    epsilon: float  # in the episodes that adapt
    judging_epsilon: float  # in the episodes that judge
    greedy_episodes: int  # the last ones of a batch, without exploration; they are scored
    mean_over: str  # steps, or pairs of a square and an action
    temperature: float  # of the softmax of the values, the policy that is judged


@dataclasses.dataclass(frozen=True)
class Setting:
    """The sizes and rates of one update."""

    tasks: int
    episodes: int  # or shots
    horizon: int  # 1 if there are no episodes
    inner_steps: int
    inner_rates: tuple[float, ...]  # one per inner step; the last is used for all later steps
    outer_rate: float
    final_rate: float  # the outer rate after `updates` of cosine decay, as a share
    updates: int
    gradient_clip: float  # greatest norm of the meta-gradient; 0: no clipping
    discount: float
    gae_lambda: float
    baseline: str  # linear (in features of observation and time) or mean (over episodes)
    entropy: float  # weight of the policy's entropy in both losses
    skip: float  # scale of a linear path parallel to the network; 0: none
    activation: str  # of the hidden layers, tanh or relu
    action_scale: float  # unit of a Gaussian policy's actions
    step_weights: tuple[float, ...]  # of the loss after each inner step; empty: only the last
    on_policy: bool  # whether every inner step collects a batch; else all use one, like shots
    q: QLearning | None = None  # None: there are policies, or no episodes

    def inner_rate(self, step: int) -> float:
        return self.inner_rates[min(step, len(self.inner_rates) - 1)]

    def weight(self, step: int) -> float:
        """The weight of the loss after `step` inner steps, 1 to K; 0 for step 0."""
        if not self.step_weights:
            return float(step == self.inner_steps)
        return self.step_weights[step - 1] if step else 0.0

    def activate(self, hidden: Tensor) -> Tensor:
        return torch.relu(hidden) if self.activation == "relu" else torch.tanh(hidden)

    @property
    def samples(self) -> int:
        """Steps or examples collected per update, steps after an episode's end included."""
        batches = self.inner_steps + 1 if self.on_policy else 2
        return self.tasks * self.episodes * self.horizon * batches


class Game(NamedTuple):
    """What is played, and the losses: sums over tasks."""

    play: Any  # some steps of all episodes at once -> tensors; None: no episodes
    inner: Callable[..., Tensor]  # parameters, batch, and target parameters if it bootstraps
    outer: Callable[[Params, Batch], Tensor]  # the judging loss
    # policies, tasks, random numbers, kernels -> batch, each task's mean return (N,)
    collect: Callable[[Params, Any, Any, Kernels], tuple[Batch, Tensor]]
    draw: Callable[[int], tuple[Any, Any]]  # tasks, and random numbers for K + 1 collections
    # Whether inner targets depend on the parameters: constants of the gradient, not its derivative.
    bootstraps: bool = False


def affine(weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
    """Wᵀ x + b: one product for all samples if tasks share the weights, else one per task."""
    product: Callable[..., Tensor] = torch.addmm if weight.dim() == 2 else torch.baddbmm
    return product(bias.unsqueeze(-1), weight.mT, inputs)


class Kernels(NamedTuple):
    """The three functions in which nearly all time goes, eager or compiled."""

    play: Any  # the game's
    block: int | None  # steps per call of `play`; None: the whole horizon
    inner: Callable[[Params, Batch, float], tuple[Params, Tensor]]  # one step, and its loss
    outer: Callable[[Params, Batch], Tensor]  # autograd takes its gradient

    def episodes(
        self, params: Params, start: Tensor, random: Sequence[Tensor], *constants: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Plays to the horizon, block after block.

        Args:
            params: one policy, or N.
            start: where the episodes start.
            random: what differs from step to step, (T, ...) each.
            constants: what does not.

        Returns:
            the actions (T, ...), and the places from the start on (T + 1, ...).
        """
        places, actions = [start.unsqueeze(0)], []
        for parts in zip(*(each.split(self.block or len(each)) for each in random), strict=True):
            taken, reached = self.play(params, places[-1][-1], *parts, *constants)
            actions.append(taken)
            places.append(reached)
        return torch.cat(actions), torch.cat(places)


def adapt(params: Params, batch: Batch, rate: float, game: Game) -> tuple[Params, Tensor]:
    """One inner step of every task, itself differentiable.

    Args:
        params: of every task.
        batch: what the inner loss takes.
        rate: the inner learning rate.
        game: has the inner loss.

    Returns:
        The new parameters, and the loss before the step, summed over tasks.
    """
    if game.bootstraps:  # differentiates by aliases, which the targets do not depend on
        varied = tuple(p.view_as(p) for p in params)
        value = game.inner(varied, batch, params)
    else:
        varied, value = params, game.inner(params, batch)
    grads = torch.autograd.grad(value, varied, create_graph=True)
    return tuple(p - rate * g for p, g in zip(params, grads, strict=True)), value


def adapt_traceable(params: Params, batch: Batch, rate: float, game: Game) -> tuple[Params, Tensor]:
    """`adapt` for `torch.compile`, which lacks double backward but traces `torch.func.grad`."""
    target = (params,) if game.bootstraps else ()
    grads, value = torch.func.grad_and_value(game.inner)(params, batch, *target)
    return tuple(p - rate * g for p, g in zip(params, grads, strict=True)), value


def eager(game: Game) -> Kernels:
    return Kernels(game.play, None, functools.partial(adapt, game=game), game.outer)


def compiled(game: Game, block: int = 10) -> Kernels:
    """Compiles all kernels by Inductor, backward passes too; unrolls `block` steps of a rollout.

    On a CPU, tanh is then computed from exponentials, twice as fast as the library's.
    """
    options: dict[str, Any] = {"cpp.use_decompose_tanh": True}
    torch._dynamo.config.recompile_limit = 32  # of a function, by whichever ways it is compiled
    through = functools.partial(torch.compile, fullgraph=True, dynamic=False, options=options)
    inner = functools.partial(adapt_traceable, game=game)
    return Kernels(game.play and through(game.play), block, through(inner), through(game.outer))


def _join(parts: Sequence[Params]) -> Params:
    """The parameters of all chunks of tasks, as constants."""
    if len(parts) == 1:
        return tuple(p.detach() for p in parts[0])
    return tuple(torch.cat([p.detach() for p in leaf]) for leaf in zip(*parts, strict=True))


def _chunks(batch: Batch, size: int) -> list[Batch]:
    parts = zip(*(leaf.split(size) for leaf in batch), strict=True)
    return [type(batch)(*part) for part in parts]


def meta_gradient(
    params: Params,
    source: Source,
    setting: Setting,
    kernels: Kernels,
    chunk: int | None = None,
) -> None:
    """Adds the mean meta-gradient over all tasks to `params`' `.grad`, tasks batched.

    Args:
        params: the meta-parameters, leaves that require a gradient.
        source: gives the batches, once per inner step and once more for the judging one.
        setting: sizes and rates.
        kernels: eager or compiled.
        chunk: tasks whose gradient is taken at once; None: all.
    """
    size = chunk or setting.tasks
    chunks = [min(size, setting.tasks - start) for start in range(0, setting.tasks, size)]
    fast = [tuple(p.expand(count, *p.shape) for p in params) for count in chunks]
    played = params  # before the first step one policy plays all tasks in one product
    losses = [torch.zeros((), device=params[0].device) for _ in chunks]
    judged: list[tuple[float, list[Params]]] = []  # by the last batch
    support = None if setting.on_policy else _chunks(source(0, played), size)
    for k in range(setting.inner_steps):
        parts = support or _chunks(source(k, played), size)
        with record_function("inner_gradient"):
            for i, part in enumerate(parts):
                fast[i], before = kernels.inner(fast[i], part, setting.inner_rate(k))
                if setting.on_policy and (weight := setting.weight(k)):
                    losses[i] = losses[i] + weight * before  # this batch judges the step before
        if setting.on_policy:
            played = _join(fast)
        elif weight := setting.weight(k + 1):
            judged.append((weight, [*fast]))
    if setting.on_policy:
        judged.append((setting.weight(setting.inner_steps), fast))
    else:
        played = _join(fast)
    batches = _chunks(source(setting.inner_steps, played), size)
    with record_function("outer_gradient"):
        for i, (total, batch) in enumerate(zip(losses, batches, strict=True)):
            for weight, adapted in judged:
                total = total + weight * kernels.outer(adapted[i], batch)
            (total / setting.tasks).backward()


def meta_gradient_loop(params: Params, source: Source, setting: Setting, game: Game) -> None:
    """Adds one task's share of `meta_gradient` to `params`' `.grad`.

    Args:
        params: the meta-parameters, leaves that require a gradient.
        source: gives the batches of this one task, N = 1.
        setting: sizes and rates.
        game: what is played.
    """

    def alone(k: int, fast: Params) -> Batch:
        batch = source(k, tuple(p.detach() for p in fast))
        return type(batch)(*(leaf[0] for leaf in batch))

    fast, loss = params, torch.zeros((), device=params[0].device)
    judged: list[tuple[float, Params]] = []
    support = None if setting.on_policy else alone(0, fast)
    for k in range(setting.inner_steps):
        batch = support or alone(k, fast)
        with record_function("inner_gradient"):
            fast, before = adapt(fast, batch, setting.inner_rate(k), game)
        if setting.on_policy and (weight := setting.weight(k)):
            loss = loss + weight * before
        elif not setting.on_policy and (weight := setting.weight(k + 1)):
            judged.append((weight, fast))
    if setting.on_policy:
        judged.append((setting.weight(setting.inner_steps), fast))
    batch = alone(setting.inner_steps, fast)
    with record_function("outer_gradient"):
        for weight, adapted in judged:
            loss = loss + weight * game.outer(adapted, batch)
        (loss / setting.tasks).backward()


def make_optimizer(params: Params, setting: Setting, keep: bool = False) -> Callable[[], None]:
    """The outer step: clips the gradient, takes an Adam step at a cosine rate, clears the `.grad`.

    With `keep` the `.grad` is zeroed in place, so that its memory is kept.
    """
    optimizer = torch.optim.Adam(params, lr=setting.outer_rate, fused=True)

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / setting.updates, 1.0)))
        return (1 - setting.final_rate) * cosine + setting.final_rate

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    def step() -> None:
        if setting.gradient_clip:
            torch.nn.utils.clip_grad_norm_(params, setting.gradient_clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=not keep)

    return step


def _replayed(work: Callable[[], Tensor], params: Params) -> Callable[[], Tensor]:
    """Captures `work`, which adds to the `.grad` of `params`, as one CUDA graph without Python."""
    for leaf in params:
        leaf.grad = torch.zeros_like(leaf)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # the set-up of a first call must not be captured
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    for leaf in params:
        leaf.grad = torch.zeros_like(leaf)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        total = work()

    def replay() -> Tensor:
        captured.replay()
        return total

    return replay


def make_update(
    params: Params,
    setting: Setting,
    game: Game,
    gradient: Gradient,
    kernels: Kernels,
    *,
    loop: bool = False,
    graph: bool = False,
) -> Callable[[], Tensor]:
    """One whole update, from fresh tasks to the Adam step, which changes `params` in place.

    Args:
        params: the meta-parameters, leaves that require a gradient.
        setting: sizes and rates.
        game: what is played.
        gradient: of all tasks, or of one if `loop`.
        kernels: play the episodes.
        loop: takes one task after another; else all are batched.
        graph: captures all of the update but its outer step as a CUDA graph and replays it.

    Returns:
        a function without arguments; it returns the mean score of the judging batches, ().
    """
    outer_step = make_optimizer(params, setting, keep=graph)

    def add_gradient(count: int) -> Tensor:
        """Adds the gradient of `count` fresh tasks; returns the sum of their adapted scores."""
        with record_function("sample_task"):
            tasks, random = game.draw(count)
        scores: list[Tensor] = []

        def source(k: int, policies: Params) -> Batch:
            batch, score = game.collect(policies, tasks, random[k], kernels)
            scores.append(score)
            return batch

        gradient(params, source)
        return scores[-1].sum()

    sizes = [1] * setting.tasks if loop else [setting.tasks]

    def gradient_of_all() -> Tensor:
        return torch.stack([add_gradient(count) for count in sizes]).sum() / setting.tasks

    found = _replayed(gradient_of_all, params) if graph else gradient_of_all

    def update() -> Tensor:
        total = found()
        with record_function("outer_update"):
            outer_step()
        return total

    return update
