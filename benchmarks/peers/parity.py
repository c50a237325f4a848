"""Does the PyTorch baseline compute what metajax does? Errors between them on the same data.

metajax adapts N tasks and everything it collects is kept. PyTorch then takes the meta-gradient of
the same batches, steps with it, and plays the same episodes, with random numbers under which its
own policy takes the actions that metajax's took, and with its own baseline and advantages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax.flatten_util import ravel_pytree

from metajax.baselines import BASELINES, mean_return
from metajax.inner import Record, run
from metajax.replays import replay_path
from metajax.returns import discounted_returns, generalised_advantages, normalise, paid_alike

from . import maml
from .bridge import BRIDGES
from .contenders import Contender
from .contest import Contest, leaves, to_torch, torch_params

__all__ = [
    "Frozen",
    "collection_errors",
    "freeze",
    "greatest",
    "meta_gradient_error",
    "outer_step_error",
    "relative_error",
]


class Frozen(NamedTuple):
    """What metajax collected in one adaptation of N tasks, and its meta-gradient."""

    tasks: Any  # (N, ...)
    batches: list[Any]  # K + 1 `Trajectories`, (N, T, B, ...), the judging one last
    params: list[Any]  # K + 1 policies that played them, N of each
    gradient: Any  # of the meta-parameters


def freeze(side: Contest, params: Any, keys: jax.Array) -> Frozen:
    """Adapts a task per key from `params`, and keeps what PyTorch must reproduce."""
    problem, inner, setting = side.problem, side.inner, side.setting

    def adapt(key: jax.Array) -> tuple[Any, Record]:
        key_task, key_adapt = jax.random.split(key)
        task = problem.sample_task(key_task)
        return task, run(problem, inner, params, task, key_adapt)[1]

    @jax.jit
    def program(params: Any, keys: jax.Array) -> tuple[Any, Record, Any]:
        tasks, record = jax.vmap(adapt)(keys)

        def objective(params: Any) -> jax.Array:
            def one(record: Record) -> jax.Array:
                path, judged = replay_path(problem, inner, params, record)
                losses = jax.vmap(lambda *after: problem.outer_loss(*after)[0])(path, judged)
                weights = [setting.weight(k) for k in range(1, inner.steps + 1)]
                return losses @ jnp.asarray(weights, losses.dtype)

            return jnp.mean(jax.vmap(one)(record))

        return tasks, record, jax.grad(objective)(params)

    tasks, record, gradient = program(params, keys)
    steps = range(inner.steps)
    path = [jax.tree.map(lambda p: jnp.broadcast_to(p, (setting.tasks, *p.shape)), params)]
    for k in steps:
        grads = jax.tree.map(lambda g, k=k: g[:, k], record.gradients)
        rate = setting.inner_rate(k)
        path.append(jax.tree.map(lambda p, g, r=rate: p - r * g, path[-1], grads))
    if setting.on_policy:
        batches = [jax.tree.map(lambda x, k=k: x[:, k], record.batches) for k in steps]
    else:  # all steps adapt on the batch of the initial parameters
        batches = [record.batches for _ in steps]
        path = [path[0] for _ in steps] + path[-1:]
    return Frozen(tasks, [*batches, record.judged], path, gradient)


def relative_error(ours: Any, theirs: Any) -> float:
    """‖ours − theirs‖ / ‖theirs‖, the largest over pairs of arrays."""
    pairs = [
        (np.asarray(one, np.float64), np.asarray(other, np.float64))
        for one, other in zip(ours, theirs, strict=True)
    ]
    return greatest(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30) for a, b in pairs)


def greatest(errors: Iterable[Any]) -> float:
    """The greatest error; NaN if any is, which `max` may pass over."""
    return float(np.max([*errors]))


def _converted(side: Contest, batch: Any, k: int, device: str) -> Any:
    """The batch of inner step k, K for the judging one, as PyTorch's losses take it."""
    bridge = BRIDGES[side.preset]
    judged = bridge.judged if k == side.setting.inner_steps else None
    return (judged or bridge.batch)(batch, device)


def frozen_source(
    side: Contest, frozen: Frozen, device: str, tasks: slice = slice(None)
) -> maml.Source:
    """Gives PyTorch the batches that metajax collected, advantages included."""

    def source(k: int, policies: maml.Params) -> Any:
        del policies
        batch = jax.tree.map(lambda leaf: leaf[tasks], frozen.batches[k])
        return _converted(side, batch, k, device)

    return source


def meta_gradient_error(
    side: Contest, params: Any, frozen: Frozen, contender: Contender, device: str = "cpu"
) -> float:
    """The relative error of PyTorch's meta-gradient of the frozen batches against metajax's.

    Args:
        side: the preset.
        params: the meta-parameters.
        frozen: the batches, and metajax's meta-gradient.
        contender: computes PyTorch's.
        device: PyTorch's.
    """
    theirs = torch_params(params, device)
    tasks = range(side.setting.tasks)
    slices = [slice(n, n + 1) for n in tasks] if contender.loop else [slice(None)]
    for chosen in slices:
        contender.gradient(theirs, frozen_source(side, frozen, device, chosen))
    grads = [p.grad.cpu() for p in theirs if p.grad is not None]
    return relative_error(grads, leaves(frozen.gradient))


def outer_step_error(side: Contest, params: Any, gradient: Any, after: Any) -> float:
    """How far PyTorch's outer step is from the one that led metajax to the state `after`.

    The greater of two errors: that of the gradient with which metajax stepped, against `gradient`
    clipped; and that of the parameters' change when PyTorch steps with that same gradient. With its
    own it might step the other way where the gradient is rounding error, because Adam's first step
    is the gradient's sign.

    Args:
        side: the preset.
        params: the meta-parameters before the step.
        gradient: the meta-gradient.
        after: metajax's state after its first update.
    """
    clip = optax.clip_by_global_norm(side.setting.gradient_clip or float("inf"))
    clipped = leaves(clip.update(gradient, clip.init(gradient))[0])
    _, unravel = ravel_pytree(params)  # the optimiser sees one vector
    moments = leaves(unravel(optax.tree_utils.tree_get(after.opt_state, "mu")))
    taken = [to_torch(moment) / 0.1 for moment in moments]  # 1 - β₁ of the first gradient
    theirs = torch_params(params)
    before = [p.detach().clone() for p in theirs]
    for leaf, grad in zip(theirs, taken, strict=True):
        leaf.grad = grad.clone()
    maml.make_optimizer(theirs, side.setting)()
    moved = [p.detach() - start for p, start in zip(theirs, before, strict=True)]
    goal = leaves(after.params)
    expected = [to_torch(p) - start for p, start in zip(goal, before, strict=True)]

    def flat(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.cat([x.flatten() for x in tensors])]

    return greatest(
        (
            relative_error(flat(taken), flat([to_torch(x) for x in clipped])),
            relative_error(flat(moved), flat(expected)),
        )
    )


def exact_advantage(side: Contest, batch: Any) -> np.ndarray:
    """metajax's advantages of episodes (N, T, B, ...), by its own functions in double precision.

    A baseline's features may be linearly dependent; float32 then leaves few digits on either side.
    """
    setting = side.setting

    def one(observation: jax.Array, reward: jax.Array, mask: jax.Array) -> jax.Array:
        returns = discounted_returns(reward, mask, setting.discount)
        value = BASELINES[setting.baseline](observation, returns, mask)
        advantage = generalised_advantages(
            reward, value, mask, setting.discount, setting.gae_lambda
        )
        return jnp.where(paid_alike(reward, mask), 0.0, normalise(advantage, mask))

    seen, reward, mask = map(np.asarray, (batch.observation, batch.reward, batch.mask))
    seen = seen.astype(bool if seen.dtype == np.uint8 else np.float64)
    with jax.enable_x64(True):
        doubles = (seen, reward.astype(np.float64), mask.astype(np.float64))
        return np.asarray(jax.jit(jax.vmap(one))(*doubles))


def exact_credit(side: Contest, batch: Any) -> np.ndarray:
    """The same for what judges Q-learning, (N, T, B): advantages over action probabilities.

    If no episode of a task reached its goal, advantages are normalised rounding errors.
    """
    setting, q = side.setting, side.setting.q
    assert q is not None
    exploring = np.arange(setting.episodes) < setting.episodes - q.greedy_episodes

    def one(reward: jax.Array, mask: jax.Array, greedy: jax.Array) -> jax.Array:
        returns = discounted_returns(reward, mask, setting.discount)
        advantage = normalise(returns - mean_return(reward, returns, mask), mask)
        epsilon, actions = q.judging_epsilon, side.environment.action_space.n
        return jnp.where(exploring, advantage / ((1 - epsilon) * greedy + epsilon / actions), 0.0)

    with jax.enable_x64(True):
        fields = (batch.reward, batch.mask, batch.greedy)
        doubles = [np.asarray(field, np.float64) for field in fields]
        return np.asarray(jax.jit(jax.vmap(one))(*doubles))


def exactly(side: Contest, batch: Any, judging: bool) -> Any:
    """A batch as metajax computes it, in double precision where float32 leaves few digits."""
    if side.setting.on_policy:
        return dataclasses.replace(batch, advantage=exact_advantage(side, batch))
    if side.setting.q and judging:
        return dataclasses.replace(batch, credit=exact_credit(side, batch))
    return batch


def expected_score(side: Contest, batch: Any) -> Any:
    """metajax's score of each task's batch, (N,)."""
    return jax.vmap(side.problem.score)(batch)


def of_steps_taken(values: torch.Tensor, mask: Any) -> torch.Tensor:
    """Values (N, ..., S), set to 0 where the mask (N, T, B) is 0; other shapes as they are."""
    taken = to_torch(mask, "cpu").flatten(1).bool()
    tasks, samples = taken.shape
    if values.dim() < 2 or (values.shape[0], values.shape[-1]) != (tasks, samples):
        return values
    between = (1,) * (values.dim() - 2)
    return values * taken.view(tasks, *between, samples).to(values.dtype)


def collection_errors(
    side: Contest,
    frozen: Frozen,
    contender: Contender,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> dict[str, float]:
    """How far PyTorch's policies, rollouts, advantages and scores are from metajax's.

    In float32, for compiled contenders, advantages are left out.

    Args:
        side: the preset.
        frozen: what metajax collected.
        contender: collects for PyTorch.
        device: PyTorch's.
        dtype: PyTorch's.

    Returns:
        Errors by name.
    """
    assert contender.collects is not None
    (game, kernels), setting = contender.collects, side.setting
    bridge, errors, last = BRIDGES[side.preset], {}, setting.inner_steps
    tasks, exact = bridge.tasks(frozen.tasks, device), dtype == torch.float64
    for k in range(last + 1) if setting.on_policy else (0, last):
        batch, judging = frozen.batches[k], k == last
        policies = tuple(to_torch(leaf, device).to(dtype) for leaf in leaves(frozen.params[k]))
        random, *outputs = bridge.random(policies, tasks, batch, judging, setting, device)
        played, score = game.collect(policies, tasks, random, kernels)
        expected = np.asarray(expected_score(side, batch))
        given = _converted(side, exactly(side, batch, judging) if exact else batch, k, device)
        pairs = {"policy": outputs}
        for name, ours, theirs in zip(given._fields, played, given, strict=True):
            of_advantages = name == "credit" or (name == "weight" and setting.on_policy)
            if exact or not of_advantages:
                # Steps after an episode's end are ignored, and differ between the sides.
                mask = getattr(batch, "mask", None)
                both = [ours.cpu(), theirs.cpu()]
                if mask is not None:
                    both = [of_steps_taken(values, mask) for values in both]
                pairs[name] = [[values] for values in both]
        pairs["score"] = [[score.cpu()], [expected]]
        for name, (ours, theirs) in pairs.items():
            errors[name] = greatest((errors.get(name, 0.0), relative_error(ours, theirs)))
    return errors
