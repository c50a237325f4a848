"""Does the PyTorch baseline do what metajax does? Errors between them, from the same numbers.

metajax adapts N tasks and everything it collected is kept; PyTorch then takes the meta-gradient of
the same batches, replays the episodes from the noise that metajax's actions had, and fits its own
baseline to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch_learn2learn
import torch_maml

import envs
import metajax as mj
from metajax.inner import Record, replay, run

__all__ = [
    "Contest",
    "Frozen",
    "collection_errors",
    "contest",
    "freeze",
    "meta_gradient_errors",
    "relative_error",
    "torch_params",
    "update_keys",
]


class Contest(NamedTuple):
    """The metajax side of one setting, and what both sides share."""

    problem: mj.Problem
    inner: mj.Inner
    learner: mj.MetaLearner
    setting: torch_maml.Setting


def contest(setting: torch_maml.Setting, mesh: jax.sharding.Mesh | None = None) -> Contest:
    """The `point` preset at the sizes of `setting`, on the devices of `mesh`."""
    env = envs.make("point", horizon=setting.horizon)
    problem = mj.policy_gradient(
        env,
        mj.networks.mlp_policy(env.action_space),
        episodes=setting.episodes,
        discount=setting.discount,
        gae_lambda=setting.gae_lambda,
    )
    inner = mj.sgd(setting.inner_rate, steps=setting.inner_steps)
    outer = optax.adam(setting.outer_rate)
    mapping = mj.Mapping(mesh=mesh)
    learner = mj.maml(problem, inner, outer, setting.tasks, mapping=mapping)
    return Contest(problem, inner, learner, setting)


def leaves(params: Any) -> list[Any]:
    """A flax policy's arrays in the order of `torch_maml`: (W, b) of each layer, log σ."""
    tree = params["params"]
    (mlp,) = (branch for name, branch in tree.items() if name != "log_std")
    layers = [mlp[f"Dense_{index}"] for index in range(len(mlp))]
    return [layer[kind] for layer in layers for kind in ("kernel", "bias")] + [tree["log_std"]]


def to_torch(array: Any, device: str = "cpu") -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def torch_params(params: Any, device: str = "cpu") -> torch_maml.Params:
    """A flax policy as the leaves that PyTorch learns."""
    return tuple(to_torch(leaf, device).requires_grad_() for leaf in leaves(params))


def policy_module(params: Any) -> torch_learn2learn.Policy:
    """A flax policy as the module that `torch_learn2learn` learns."""
    *layers, log_std = (to_torch(leaf) for leaf in leaves(params))
    policy = torch_learn2learn.Policy(len(layers[0]), len(log_std))
    state = {"sigma": log_std}
    for index, (kernel, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        state |= {f"mean.{2 * index}.weight": kernel.T, f"mean.{2 * index}.bias": bias}
    policy.load_state_dict(state)
    return policy


def module_gradients(policy: torch_learn2learn.Policy) -> list[torch.Tensor]:
    """Its gradients in the order and shape of `leaves`."""
    linear = [layer for layer in policy.mean if isinstance(layer, torch.nn.Linear)]
    found = [p.grad for layer in linear for p in (layer.weight, layer.bias)]
    return [g.T if g.dim() == 2 else g for g in (*found, policy.sigma.grad) if g is not None]


def module_episodes(batch: Any, task: int) -> torch_learn2learn.Episodes:
    """One task's `Trajectories` as `torch_learn2learn` has them."""
    fields = (batch.observation, batch.action, batch.advantage, batch.mask)
    return torch_learn2learn.Episodes(*(to_torch(field[task]) for field in fields))


class Frozen(NamedTuple):
    """What metajax collected in one adaptation of N tasks, and the meta-gradient it takes of it."""

    goal: jax.Array  # (N, 2)
    batches: list[Any]  # K + 1 `Trajectories`, (N, T, B, ...), the judging one last
    params: list[Any]  # K + 1 policies that played them, N of each
    gradient: Any  # of the meta-parameters


def update_keys(state: mj.MetaState, tasks: int) -> jax.Array:
    """The key of each task of the update from `state`, as the learner draws them."""
    return jax.random.split(jax.random.fold_in(state.key, state.step), tasks)


def freeze(side: Contest, params: Any, keys: jax.Array) -> Frozen:
    """Adapts a task per key from `params`; keeps what the other side must reproduce."""
    problem, inner, _, setting = side

    def adapt(key: jax.Array) -> tuple[Any, Record]:
        key_task, key_adapt = jax.random.split(key)
        task = problem.sample_task(key_task)
        return task, run(problem, inner, params, task, key_adapt)[1]

    @jax.jit
    def program(params: Any, keys: jax.Array) -> tuple[Any, Record, Any]:
        tasks, record = jax.vmap(adapt)(keys)

        def objective(params: Any) -> jax.Array:
            def one(record: Record) -> jax.Array:
                adapted = replay(problem, inner, params, record)
                return problem.outer_loss(adapted, record.judged)[0]

            return jnp.mean(jax.vmap(one)(record))

        return tasks, record, jax.grad(objective)(params)

    tasks, record, gradient = program(params, keys)
    batches = [jax.tree.map(lambda x, k=k: x[:, k], record.batches) for k in range(inner.steps)]
    played = [jax.tree.map(lambda p: jnp.broadcast_to(p, (setting.tasks, *p.shape)), params)]
    for k in range(inner.steps):
        grads = jax.tree.map(lambda g, k=k: g[:, k], record.gradients)
        played.append(jax.tree.map(lambda p, g: p - setting.inner_rate * g, played[-1], grads))
    return Frozen(tasks.goal, [*batches, record.judged], played, gradient)


def relative_error(ours: Any, theirs: Any) -> float:
    """‖ours − theirs‖ / ‖theirs‖, the largest over pairs of arrays."""
    pairs = [
        (np.asarray(one, np.float64), np.asarray(other, np.float64))
        for one, other in zip(ours, theirs, strict=True)
    ]
    return max(
        float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30)) for a, b in pairs
    )


def samples_last(array: Any, device: str) -> torch.Tensor:
    """(N, T, B, ...) of metajax -> (T, ..., N, B) of PyTorch."""
    return to_torch(array, device).movedim((0, 2), (-2, -1)).contiguous()


def frozen_source(
    frozen: Frozen, device: str = "cpu", tasks: slice = slice(None)
) -> torch_maml.Source:
    """Gives PyTorch the batches that metajax collected, advantages included."""

    def source(k: int, policies: torch_maml.Params) -> torch_maml.Batch:
        del policies
        batch = frozen.batches[k]
        fields = (batch.observation, batch.action, batch.mask, batch.advantage)
        return torch_maml.to_batch(*(samples_last(field[tasks], device) for field in fields))

    return source


def meta_gradient_errors(
    side: Contest,
    params: Any,
    frozen: Frozen,
    device: str = "cpu",
    chunk: int | None = None,
    compiled: torch_maml.Kernels | None = None,
) -> dict[str, float]:
    """How far each PyTorch meta-gradient of the frozen batches is from metajax's."""
    setting = side.setting
    everyone = frozen_source(frozen, device)

    def error(fill: Callable[[torch_maml.Params], None]) -> float:
        theirs = torch_params(params, device)
        fill(theirs)
        grads = [p.grad.cpu() for p in theirs if p.grad is not None]
        return relative_error(grads, leaves(frozen.gradient))

    def loop(theirs: torch_maml.Params) -> None:
        for index in range(setting.tasks):
            source = frozen_source(frozen, device, slice(index, index + 1))
            torch_maml.meta_gradient_loop(theirs, source, setting)

    def as_learn2learn(theirs: torch_maml.Params) -> None:
        policy = policy_module(params)
        for index in range(setting.tasks):
            *supports, query = (module_episodes(batch, index) for batch in frozen.batches)
            weights: Mapping[str, torch.Tensor] = dict(policy.named_parameters())
            for support in supports:
                weights = torch_learn2learn.fast_adapt(policy, weights, support, setting.inner_rate)
            loss = torch_learn2learn.surrogate_loss(policy, weights, query)
            (loss / setting.tasks).backward()
        for leaf, grad in zip(theirs, module_gradients(policy), strict=True):
            leaf.grad = grad.to(device)

    errors = {
        "loop": error(loop),
        "loop, learn2learn's way": error(as_learn2learn),
        "batched": error(lambda p: torch_maml.meta_gradient(p, everyone, setting)),
        "chunked": error(lambda p: torch_maml.meta_gradient(p, everyone, setting, chunk)),
    }
    if compiled is not None:
        errors["compiled"] = error(
            lambda p: torch_maml.meta_gradient(p, everyone, setting, chunk, compiled)
        )
    return errors


def collection_errors(side: Contest, frozen: Frozen, device: str = "cpu") -> dict[str, float]:
    """How far PyTorch's rollouts and advantages are from metajax's.

    Its rollouts are given the noise that metajax's actions had, and must then reproduce the
    episodes; its baseline and advantages are computed from metajax's episodes.
    """
    errors: dict[str, float] = {"observation": 0.0, "action": 0.0, "advantage": 0.0, "score": 0.0}
    for batch, params in zip(frozen.batches, frozen.params, strict=True):
        policies = tuple(to_torch(leaf, device) for leaf in leaves(params))
        observation, action = (samples_last(x, device) for x in (batch.observation, batch.action))
        places = observation.transpose(1, 2).unbind()  # (N, O, B) each
        mean = torch.stack([torch_maml.policy_mean(policies, place) for place in places], dim=0)
        noise = (action - mean.transpose(1, 2)) * torch.exp(-policies[6].T.unsqueeze(-1))
        played, score = torch_maml.collect(
            policies, to_torch(frozen.goal, device), noise, side.setting
        )
        reward, mask = (samples_last(x, device) for x in (batch.reward, batch.mask))
        advantage = torch_maml.advantages(observation, reward, mask, side.setting)
        given = torch_maml.to_batch(observation, action, mask, advantage)
        pairs = {
            "observation": (played.observation, given.observation),
            "action": (played.action, given.action),
            "advantage": (advantage, samples_last(batch.advantage, device)),
            "score": (score, reward.sum((0, 2)) / side.setting.episodes),
        }
        for name, (ours, theirs) in pairs.items():
            errors[name] = max(errors[name], relative_error([ours.cpu()], [theirs.cpu()]))
        weight_error = relative_error([played.weight.cpu()], [given.weight.cpu()])
        errors["advantage"] = max(errors["advantage"], weight_error)
    return errors
