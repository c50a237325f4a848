"""Episodes of one task: B at once, T steps, nothing after an episode's end counts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .distributions import Distribution
from .fused import once_differentiated
from .types import Params, pytree_dataclass

__all__ = ["Episodes", "retrace", "rollout"]

Array = jax.Array


@pytree_dataclass
class Episodes:
    """B episodes of one task, time-major.

    Steps after an episode's end have mask 0, reward 0 and the observation that it ended on,
    whatever the environment returns for them.
    """

    observation: Array  # (T, B, ...) in the environment's dtype, before the action
    action: Array  # (T, B, ...)
    reward: Array  # (T, B) float32
    mask: Array  # (T, B) float32, 1 where a step was taken
    terminated: Array  # (T, B) bool, whether the task, not the horizon, ended at this step
    parameters: Any  # (T, B, ...) of the distributions that the actions were drawn from
    last_observation: Array  # (B, ...) after step T; observation[L] if it had L < T steps
    row: Array | None  # (T, B) int32, given to the policy in its place, see `lookups`
    last_row: Array | None  # (B,) of the last observation
    value: Array | None  # (T, B) that the policy's critic gave each observation, if asked for


@jax.named_scope("rollout")
def rollout(
    env: Any,
    apply: Callable[..., tuple[Any, Array, Any]],
    distribution: Distribution,
    params: Params,
    task: Any,
    key: Array,
    *,
    episodes: int,
    horizon: int,
    carry: Any = (),
    row: Callable[[Array], Array] | None = None,
    critic: bool = False,
) -> Episodes:
    """Plays `episodes` episodes of at most `horizon` steps with actions drawn from the policy.

    Args:
        env: `reset(key, task)` and `step(key, state, action, task)`, see `envs.core`.
        apply: the policy: params, observation, carry -> distribution parameters, value, carry.
            Without memory it is given all episodes' observations, (B, ...), else one episode's.
        distribution: over actions, of those parameters.
        params: of the policy.
        task: one task.
        key: typed key, ().
        episodes: B.
        horizon: T.
        carry: the policy's memory before the first step, for one episode; `()` without memory.
        row: one-hot observations with any leading axes -> their indices, which the policy is given
            in their place.
        critic: whether to keep the policy's values.

    Returns:
        The episodes, (T, B, ...).

    Raises:
        ValueError: an environment whose `reset` or `step` returns other than `envs.core` says.
    """
    key_actions, keys_reset, keys = _keys(key, horizon, episodes)
    reset = jax.vmap(env.reset, in_axes=(0, None))
    state, timestep = _state_and_timestep(reset(keys_reset, task), env)
    carries = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (episodes, *leaf.shape)), carry)
    # Without memory, one call of the policy takes the observations of all episodes.
    policy = jax.vmap(apply, in_axes=(None, 0, 0)) if jax.tree.leaves(carry) else apply
    policy = once_differentiated()(policy)
    advance = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    action_shape = getattr(env.action_space, "shape", ())
    noise = distribution.noise(key_actions, (horizon, episodes, *action_shape))

    told = getattr(env, "observed_row", None)  # see `envs.OneHot`
    find = row and told and jax.vmap(told, in_axes=(0, None))

    def observed(state: Any, timestep: Any) -> tuple[Array, Array | None]:
        observation = timestep.observation
        return observation, find(state, task) if find else row and row(observation)

    def step(loop: Any, drawn: tuple[Array, Array]) -> tuple[Any, dict[str, Any]]:
        state, (observation, at), mask, carries = loop
        noise, keys = drawn
        parameters, value, carries = policy(params, observation if at is None else at, carries)
        action = distribution.draw(noise, parameters)
        following, timestep = _state_and_timestep(advance(keys, state, action, task), env, state)
        taken = mask > 0
        # A reward after the end may be anything, even NaN, which times 0 is not 0. What is added up
        # over an episode has single precision at least.
        halves = timestep.reward.dtype.itemsize < mask.dtype.itemsize
        reward = timestep.reward.astype(mask.dtype) if halves else timestep.reward
        reward = jnp.where(taken, reward, 0.0)
        seen = jax.tree.map(
            partial(_where, taken), observed(following, timestep), (observation, at)
        )
        record = dict(
            observation=observation,
            action=action,
            reward=reward,
            mask=mask,
            terminated=timestep.terminated & taken,
            parameters=parameters,
            row=at,
            value=value if critic else None,
        )
        running = 1.0 - (timestep.terminated | timestep.truncated).astype(jnp.float32)
        return (following, seen, mask * running, carries), record

    loop = (state, observed(state, timestep), jnp.ones((episodes,), jnp.float32), carries)
    (_, (last_observation, last_row), _, _), record = jax.lax.scan(step, loop, (noise, keys))
    return Episodes(**record, last_observation=last_observation, last_row=last_row)


def retrace(env: Any, task: Any, key: Array, action: Array) -> Any:
    """The states that `rollout` went through, which it does not keep.

    ```python
    played = problem.collect(params, task, key)
    states = retrace(env, task, key, played.action)
    ```

    Args:
        env: as the rollout's.
        task: as the rollout's.
        key: as the rollout's; a problem's `collect` hands on its own.
        action: (T, B, ...), the actions that it drew.

    Returns:
        The environment's states, (T + 1, B, ...): before each step, and after the last.
    """
    _, keys_reset, keys = _keys(key, *action.shape[:2])
    start, _ = jax.vmap(env.reset, in_axes=(0, None))(keys_reset, task)

    def step(state: Any, now: tuple[Array, Array]) -> tuple[Any, Any]:
        following, _ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(now[0], state, now[1], task)
        return following, state

    last, before = jax.lax.scan(step, start, (keys, action))
    return jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), before, last)


def _keys(key: Array, horizon: int, episodes: int) -> tuple[Array, Array, Array]:
    """The key of all actions, those of the resets, (B,), and of the steps, (T, B).

    Random numbers are drawn for all steps at once: a generator's rounds are dozens of kernels,
    which every step would launch. Keys that an environment does not use are never computed.
    """
    key_reset, key_actions, key_steps = jax.random.split(key, 3)
    keys_reset = jax.random.split(key_reset, episodes)
    return key_actions, keys_reset, jax.random.split(key_steps, (horizon, episodes))


def _where(taken: Array, new: Array, old: Array) -> Array:
    """`new` (B, ...) where `taken` (B,), else `old`."""
    return jnp.where(taken.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def _state_and_timestep(result: Any, env: Any, before: Any = None) -> Any:
    """Checks what B environments' `reset` returned, or `step` from the states `before`.

    Otherwise an environment's mistake would surface only where its values meet others.

    Returns:
        `result`, a state and a timestep.

    Raises:
        ValueError: it is not a state and a timestep of the shapes and types of the protocol.
    """
    called = "env.reset" if before is None else "env.step"
    if not isinstance(result, tuple) or len(result) != 2:
        count = f" of {len(result)}" if isinstance(result, tuple) else ""
        got = f"a {type(result).__name__}{count}"
        raise ValueError(f"{called}: expected (state, timestep), got {got}")
    state, timestep = result
    space = env.observation_space
    for name, shape, kind in (
        ("observation", space.shape, space.dtype),
        ("reward", (), jnp.floating),
        ("terminated", (), jnp.bool),
        ("truncated", (), jnp.bool),
    ):
        value = getattr(timestep, name, None)
        if not isinstance(value, jax.Array):
            got = type(value).__name__
            raise ValueError(f"{called}: {name}: expected an array, got {got}")
        if value.shape[1:] != shape or not jnp.issubdtype(value.dtype, kind):
            what = f"shape {shape}, {jnp.dtype(kind).name if kind is not jnp.floating else 'float'}"
            got = f"shape {value.shape[1:]}, {value.dtype.name}"
            raise ValueError(f"{called}: {name}: expected {what}, got {got}")
    if before is not None:
        old, new = (_leaves(states) for states in (before, state))
        for path in sorted({*old, *new}):
            was, now = old.get(path), new.get(path)
            if was is None or now is None or not _same_form(was, now):
                expected, got = (_form(leaf) for leaf in (was, now))
                there = f"expected {expected} as from env.reset, got {got}"
                raise ValueError(f"{called}: state{path}: {there}")
    return state, timestep


def _leaves(state: Any) -> dict[str, Array]:
    """The leaves of B states, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _same_form(one: Array, other: Array) -> bool:
    """Whether leaves of a loop's state match; a weak type, as a Python number has, is promoted."""
    weak = one.weak_type or other.weak_type
    return one.shape == other.shape and (weak or one.dtype == other.dtype)


def _form(leaf: Array | None) -> str:
    return "none" if leaf is None else f"shape {leaf.shape[1:]}, {leaf.dtype.name}"
