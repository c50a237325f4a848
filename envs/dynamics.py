"""What a task of a grid may change beside its layout: controls, slip, rewards, horizon.

Each is a leaf of the task, and None where a distribution does not vary it: a step then compiles
without it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = [
    "action_for",
    "sample_controls",
    "sample_horizon",
    "sample_rewards",
    "sample_slip",
    "slipped",
    "steered",
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


def sample_controls(key: Array, actions: int) -> Array:
    """A permutation of the actions, int32 [A], uniform over all A!."""
    return jax.random.permutation(key, jnp.arange(actions, dtype=jnp.int32))


def sample_slip(key: Array, greatest: float) -> Array:
    """A probability, float32 (), uniform in [0, greatest]."""
    return jax.random.uniform(key, (), jnp.float32, 0.0, greatest)


def sample_rewards(key: Array, shape: tuple[int, int], deviation: float) -> Array:
    """What being on each square after a step pays, float32 [H, W], N(0, deviation^2)."""
    return deviation * jax.random.normal(key, shape, jnp.float32)


def sample_horizon(key: Array, shortest: int, longest: int) -> Array:
    """Steps of an episode, int32 (), uniform over shortest..longest."""
    return jax.random.randint(key, (), shortest, longest + 1, jnp.int32)
