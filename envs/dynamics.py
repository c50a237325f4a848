"""What a task of a grid may change beside its layout: controls, slip, rewards, horizon.

Each is a leaf of the task, and None where a distribution does not vary it: a step then compiles
without it.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from .core import Discrete, require, require_integer, require_number
from .grids import mark, unpack

__all__ = [
    "Varied",
    "action_for",
    "require_variation",
    "sample_variation",
    "slipped",
    "steered",
    "success_reward",
    "told",
]

Array = jax.Array


def steered(action: Array, controls: Array | None) -> Array:
    """What `action` () does, int32 (): itself, or `controls[action]` of a permutation [A]."""
    return action.astype(jnp.int32) if controls is None else controls[action]


def action_for(move: Array, controls: Array | None) -> Array:
    """The action, int32 (), that `steered` turns into `move` ()."""
    return move if controls is None else jnp.argmax(controls == move).astype(jnp.int32)


def slipped(key: Array, move: Array, slip: Array | None, moves: int) -> Array:
    """`move` () int32, or with probability `slip` () one drawn uniformly from 0..moves-1.

    One draw of 32 bits decides both: the probabilities are off by at most 2^-16.
    """
    if slip is None:
        return move
    bits = jax.random.bits(key, (), jnp.uint32)
    slips = bits >> jnp.uint32(16) < (slip * 2.0**16).astype(jnp.uint32)
    drawn = ((bits & jnp.uint32(0xFFFF)) * jnp.uint32(moves)) >> jnp.uint32(16)
    return jnp.where(slips, drawn.astype(jnp.int32), move)


def success_reward(steps: Array, horizon: Array) -> Array:
    """What success with step `steps` = 1, 2, ... pays, float32 (): MiniGrid's 1 − .9 t / T."""
    return 1.0 - 0.9 * steps.astype(jnp.float32) / horizon.astype(jnp.float32)


class Varied(Protocol):
    """The fields of an environment that say what its tasks vary."""

    @property
    def shuffle_controls(self) -> bool: ...  # whether a task permutes the actions

    @property
    def slip(self) -> float: ...  # greatest slip; a task's is uniform from 0 up to it

    @property
    def rewards(self) -> float: ...  # standard deviation of the rewards of a task's squares

    @property
    def shortest_horizon(self) -> int: ...  # horizons are uniform from here on; 0: all the longest

    @property
    def max_horizon(self) -> int: ...

    @property
    def action_space(self) -> Discrete: ...


def require_variation(env: Varied) -> None:
    """Refuses a field of `Varied` that is out of range: ValueError."""
    require_number("slip", env.slip, 0, 1)
    require_number("rewards", env.rewards, 0)
    if env.shortest_horizon != 0:
        require_integer("shortest_horizon", env.shortest_horizon, 1, env.max_horizon)


def sample_variation(key: Array, env: Varied, shape: tuple[int, int]) -> dict[str, Any]:
    """The leaves of a task on [H, W] squares that `Varied` is about, by name.

    horizon: int32 (); controls: int32 [A], a permutation, uniform over all A!; slip: float32 ();
    rewards: float32 [H, W], normal. The last three are None where they do not vary.
    """
    key_controls, key_slip, key_rewards, key_horizon = jax.random.split(key, 4)
    horizon = jnp.array(env.max_horizon, jnp.int32)
    if env.shortest_horizon:
        bounds = env.shortest_horizon, env.max_horizon + 1
        horizon = jax.random.randint(key_horizon, (), *bounds, jnp.int32)
    controls = slip = rewards = None
    if env.shuffle_controls:
        actions = jnp.arange(env.action_space.n, dtype=jnp.int32)
        controls = jax.random.permutation(key_controls, actions)
    if env.slip:
        slip = jax.random.uniform(key_slip, (), jnp.float32, 0.0, env.slip)
    if env.rewards:
        rewards = env.rewards * jax.random.normal(key_rewards, shape, jnp.float32)
    return {"horizon": horizon, "controls": controls, "slip": slip, "rewards": rewards}


def told(env: Varied, task: Any, goal: Array, size: int) -> Array:
    """All that a task on `size` by `size` squares is, uint8 of 0 and 1.

    Its walls, its goal, one-hot, and where it has controls, what each action does, one-hot.

    Raises:
      ValueError: an environment that varies what is no bit: slip, rewards or the horizon.
    """
    for name in ("slip", "rewards", "shortest_horizon"):
        value = getattr(env, name)
        require(name, value, not value, "0 where a policy is told the task")
    parts = [unpack(task.walls, size).ravel(), mark(goal[0] * size + goal[1], size**2)]
    if task.controls is not None:
        actions = jnp.arange(env.action_space.n, dtype=jnp.int32)
        parts.append((task.controls[:, None] == actions[None]).ravel())
    return jnp.concatenate(parts).astype(jnp.uint8)
