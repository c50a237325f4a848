"""Features of each step of an episode, for a learned advantage to depend on."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["first_visits", "transition_features"]

Array = jax.Array


def _fingerprint(values: Array) -> Array:
    """(T, B, O) -> (T, B): equal where all of O is, and otherwise only once in 2^32.

    As float32, and of integers the lower 32 bits.
    """
    if jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.float32) + 0.0  # so that -0 is 0
        words = jax.lax.bitcast_convert_type(values, jnp.uint32)
    else:
        words = values.astype(jnp.uint32)
    # Multilinear hashing: odd pseudo-random factors, sums modulo 2^32.
    index = jnp.arange(1, words.shape[-1] + 1, dtype=jnp.uint32)
    mixed = index * jnp.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA77)
    factors = (mixed ^ (mixed >> 13)) | jnp.uint32(1)
    return jnp.sum(words * factors[None, None], axis=-1, dtype=jnp.uint32)


def first_visits(observation: Array) -> Array:
    """Whether each observation is the first of its kind in its episode.

    Args:
        observation: (T, B, ...).

    Returns:
        (T, B) bool; true at t = 0.
    """
    horizon, episodes = observation.shape[:2]
    seen = _fingerprint(observation.reshape(horizon, episodes, -1))
    same = seen[:, None] == seen[None]  # (T, T, B)
    earlier = jnp.tri(horizon, k=-1, dtype=bool)[:, :, None]
    return ~jnp.any(same & earlier, axis=1)


def transition_features(
    observation: Array, action: Array, reward: Array, mask: Array
) -> tuple[Array, Array]:
    """[o, a, o', r, t / T, whether o' is new in its episode, whether rewards differ among steps].

    Args:
        observation: (T, B, ...) before the action.
        action: (T, B, A) float, such as one-hot actions.
        reward: (T, B).
        mask: (T, B), 1 where a step was taken.

    Returns:
        (T, B, 2 O + A + 4) float, and (T, B), 1 where both o and o' are in the batch. Elsewhere,
        at an episode's last step, features are meaningless.
    """
    horizon, episodes = mask.shape
    values = observation.astype(mask.dtype).reshape(horizon, episodes, -1)
    time = jnp.arange(horizon, dtype=mask.dtype)[:, None] / horizon
    spread = jnp.max(reward, initial=-jnp.inf, where=mask > 0) - jnp.min(
        reward, initial=jnp.inf, where=mask > 0
    )
    new = jnp.roll(first_visits(observation), -1, axis=0)
    columns = [reward, time, new.astype(mask.dtype), (spread > 0).astype(mask.dtype)]
    numbers = jnp.stack([jnp.broadcast_to(c, mask.shape) for c in columns], axis=-1)
    features = [values, action, jnp.roll(values, -1, axis=0), numbers]
    known = jnp.concatenate([mask[1:], jnp.zeros_like(mask[:1])])
    return jnp.concatenate(features, axis=-1), known
