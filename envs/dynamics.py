"""What a grid task may vary besides its layout: controls, slip, rewards and horizon.

Each is a leaf of the task. A leaf that a distribution does not vary is None (the horizon is always
there), and steps compile without it.
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
    """The action that is carried out, () int32: `action`, or `controls[action]` if controls [A]."""
    return action.astype(jnp.int32) if controls is None else controls[action]


def action_for(move: Array, controls: Array | None) -> Array:
    """The action, () int32, that `steered` turns into `move` ()."""
    return move if controls is None else jnp.argmax(controls == move).astype(jnp.int32)


def slipped(key: Array, move: Array, slip: Array | None, moves: int) -> Array:
    """The move that is made, () int32: `move`, or with probability `slip` a random one.

    One draw of 32 bits decides both whether and where to slip, so the probabilities are off by at
    most 2^-16.

    Args:
      key: typed, consumed; unused if `slip` is None.
      move: () int32, the intended move.
      slip: () float32, or None for no slip.
      moves: how many moves there are; a random one is uniform over 0..moves - 1.
    """
    if slip is None:
        return move
    bits = jax.random.bits(key, (), jnp.uint32)
    slips = bits >> jnp.uint32(16) < (slip * 2.0**16).astype(jnp.uint32)
    drawn = ((bits & jnp.uint32(0xFFFF)) * jnp.uint32(moves)) >> jnp.uint32(16)
    return jnp.where(slips, drawn.astype(jnp.int32), move)


def success_reward(steps: Array, horizon: Array) -> Array:
    """The reward for success at step `steps` = 1, 2, ..., () float32: MiniGrid's 1 − .9 t / T."""
    return 1.0 - 0.9 * steps.astype(jnp.float32) / horizon.astype(jnp.float32)


class Varied(Protocol):
    """The fields by which an environment says what its tasks vary."""

    @property
    def shuffle_controls(self) -> bool: ...  # whether each task permutes the actions

    @property
    def slip(self) -> float: ...  # greatest slip probability; a task's is uniform in [0, slip)

    @property
    def rewards(self) -> float: ...  # standard deviation of the reward of each square

    @property
    def shortest_horizon(self) -> int: ...  # the least horizon of a task; 0: all are the longest

    @property
    def max_horizon(self) -> int: ...

    @property
    def action_space(self) -> Discrete: ...


def require_variation(env: Varied) -> None:
    """Checks the fields of `Varied`.

    Raises:
      ValueError: a field out of range.
    """
    require_number("slip", env.slip, 0, 1)
    require_number("rewards", env.rewards, 0)
    if env.shortest_horizon != 0:
        require_integer("shortest_horizon", env.shortest_horizon, 1, env.max_horizon)


def sample_variation(key: Array, env: Varied, shape: tuple[int, int]) -> dict[str, Any]:
    """Draws the leaves of a task that `Varied` describes, by name, on [H, W] squares.

    horizon: () int32; controls: int32 [A], uniform over all A! permutations; slip: () float32;
    rewards: float32 [H, W], normal. The last three are None if they do not vary.
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
    """A whole task as bits, uint8 [size^2 * 2], or [size^2 * 2 + A^2] if it has controls.

    The walls, the goal, one-hot, and for each of the A actions what it does, one-hot.

    Args:
      env: the environment of the task.
      task: the task.
      goal: (2,) int32, the task's goal.
      size: squares along a side of the grid.

    Raises:
      ValueError: an environment that varies slip, rewards or the horizon, which are not bits.
    """
    for name in ("slip", "rewards", "shortest_horizon"):
        value = getattr(env, name)
        require(name, value, not value, "0 where a policy is told the task")
    parts = [unpack(task.walls, size).ravel(), mark(goal[0] * size + goal[1], size**2)]
    if task.controls is not None:
        actions = jnp.arange(env.action_space.n, dtype=jnp.int32)
        parts.append((task.controls[:, None] == actions[None]).ravel())
    return jnp.concatenate(parts).astype(jnp.uint8)
