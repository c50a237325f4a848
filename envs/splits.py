"""Which task a task is, and which side of a train/test split it is on.

A task's identity is a hash of its arrays. The hash alone decides the side, so no task changes sides
when a set is drawn again, shuffled, filtered or extended.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core import require, require_integer
from .taskfiles import form_drawn_by, form_of

__all__ = ["content_hash", "has_sides", "is_first", "sampler_of_side", "samplers"]

Array = jax.Array

_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: successive multiples are far apart


def content_hash(task: Any) -> Array:
    """A 64-bit hash of one task's content, (2,) uint32.

    It covers the bits, dtype and shape of every leaf, in the order of the leaves; -0.0 and 0.0
    differ. It uses integer arithmetic only, so it is the same on every platform, with and without
    jit and vmap.

    Two different tasks collide with a probability of about 2^-64, some pair among a million with
    3e-8; they would count as one task. The hash does not withstand an adversary.

    Each 32-bit word is scrambled with a key that depends on its position, and the results are
    summed; two sums use different keys.

    Raises:
      ValueError: a task without leaves, or a leaf that does not hold bools, integers or floats.
    """
    # A leaf in numpy or Python is hashed as what a set keeps of it, so that its side is the same.
    task = jax.tree.map(jnp.asarray, task)
    form = json.dumps([[dtype, shape] for _, dtype, shape in form_of(task)])
    seeds = np.frombuffer(hashlib.sha256(form.encode()).digest()[:8], "<u4").astype(np.uint32)
    sums = jnp.asarray(seeds)
    first = 0
    for words in map(_words, jax.tree.leaves(task)):
        place = np.arange(first, first + words.size, dtype=np.uint32)
        keys = _mixed(place * np.uint32(_GOLDEN) ^ seeds[:, None])
        sums += jnp.sum(_mixed(words ^ keys), axis=-1, dtype=jnp.uint32)
        first += words.size
    return _mixed(sums ^ _mixed(sums[::-1]))


def is_first(hashes: Array, share: float, salt: int) -> Array:
    """Whether tasks of these hashes, [..., 2], are on the first side of a split: bool [...]."""
    bound = round(share * 2**32)
    if bound == 2**32:
        return jnp.ones(hashes.shape[:-1], bool)
    return _place(hashes, salt) < jnp.uint32(bound)


def sampler_of_side(
    sample_task: Callable[[Array], Any], share: float, *, first: bool, salt: int = 0
) -> Callable[[Array], Any]:
    """A `sample_task` that draws from one side of a split only: key -> task.

    The sides are those of `TaskSet.split(share, salt=salt)`, so what is learned on one side can be
    tested on unseen tasks of the other. A task is the first of its side among so many draws that
    there is none with a probability below 1e-9. If p(T) has so few tasks that a side is empty, the
    task is of the other side; `has_sides` shows this beforehand.

    Args:
      sample_task: key -> task.
      share: probability that a task is on the first side.
      first: whether to draw from the first side or the second.
      salt: as in `TaskSet.split`.

    Raises:
      ValueError: a share outside (0, 1), or that leaves this side less than a thousandth, a salt
        that is not an unsigned 32-bit integer, or tasks that have no `content_hash`.
    """
    require("share", share, 0 < share < 1, "a number between 0 and 1")
    missing = 1 - share if first else share
    require("share", share, missing <= 0.999, "at least a thousandth for the side drawn from")
    require_integer("salt", salt, 0, 2**32 - 1)
    form = form_drawn_by(sample_task)
    form_of(form)
    draws = math.ceil(math.log(1e-9) / math.log(missing))

    # One by one: a batch of draws within a batch of tasks takes twice as long to compile, and most
    # of its draws would not be needed.
    def sample(key: Array) -> Any:
        keys = jax.random.split(key, draws)

        def missed(carry: tuple[Array, Array, Any]) -> Array:
            drawn, found, _ = carry
            return ~found & (drawn < draws)

        def draw(carry: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
            drawn, _, _ = carry
            task = sample_task(keys[drawn])
            task = jax.tree.map(lambda leaf, kept: jnp.asarray(leaf, kept.dtype), task, form)
            return drawn + 1, is_first(content_hash(task), share, salt) == first, task

        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)
        return jax.lax.while_loop(missed, draw, (jnp.int32(0), jnp.array(False), nothing))[2]

    return sample


def samplers(
    sample_task: Callable[[Array], Any], held_out: float
) -> tuple[Callable[[Array], Any], Callable[[Array], Any]]:
    """Two of `sampler_of_side`: to train on, and of the share `held_out`; 0: both draw from all."""
    if not held_out:
        return sample_task, sample_task
    share = 1 - held_out
    return (
        sampler_of_side(sample_task, share, first=True),
        sampler_of_side(sample_task, share, first=False),
    )


def has_sides(
    sample_task: Callable[[Array], Any], share: float, *, salt: int = 0, draws: int = 1024
) -> bool:
    """Whether a split leaves tasks on both sides, as far as `draws` tasks show.

    Where most of them differ, p(T) has too many tasks for a side to be empty.

    Args:
      sample_task: key -> task.
      share: probability of the first side, as in `sampler_of_side`.
      salt: as in `sampler_of_side`.
      draws: how many tasks are drawn.

    Raises:
      ValueError: a share outside (0, 1), a number that is not an integer in its range, or tasks
        that have no `content_hash`.
    """
    require("share", share, 0 < share < 1, "a number between 0 and 1")
    require_integer("salt", salt, 0, 2**32 - 1)
    require_integer("draws", draws, 1)
    form_of(form_drawn_by(sample_task))

    # One by one: the program of a single draw compiles faster than that of many.
    draw = jax.jit(lambda key: content_hash(sample_task(key)))
    keys = jax.random.split(jax.random.key(0), draws)
    different = np.unique(np.stack([np.asarray(draw(key)) for key in keys]), axis=0)
    if len(different) > draws // 2:
        return True
    first = np.asarray(is_first(jnp.asarray(different), share, salt))
    return bool(first.any() and not first.all())


def _place(hashes: Array, salt: int) -> Array:
    """A pseudo-random number per hash [..., 2], to be compared to a split's bound: uint32 [...]."""
    low, high = hashes[..., 0], hashes[..., 1]
    # An array of one element: numpy warns when a scalar overflows.
    (salted,) = _mixed(np.array([salt], np.uint32))
    return _mixed(low ^ _mixed(high ^ salted))


def _words(leaf: Array) -> Array:
    """The bits of an array as words, uint32 [1, words]; an element of 32 bits or less takes one."""
    bits = leaf.ravel()
    if bits.dtype != bool:
        bits = jax.lax.bitcast_convert_type(bits, f"uint{8 * leaf.dtype.itemsize}")
    words = [bits.astype(jnp.uint32)]
    if leaf.dtype.itemsize == 8:
        words.append((bits >> 32).astype(jnp.uint32))
    return jnp.concatenate(words)[None]


def _mixed(words: Any) -> Any:
    """Mixes 32-bit words by a bijection in which each bit depends on all: Wellons' lowbias32."""
    words = words ^ words >> np.uint32(16)
    words = words * np.uint32(0x7FEB352D)
    words = words ^ words >> np.uint32(15)
    words = words * np.uint32(0x846CA68B)
    return words ^ words >> np.uint32(16)
