"""Streams of random keys, one for each use of a seed."""

from __future__ import annotations

import zlib
from functools import partial

import jax
import numpy as np

from .checks import require_integer

__all__ = ["STREAMS", "check_seed", "heldout_keys", "key_stream", "traced_key_stream"]

Array = jax.Array

# Tasks of one stream are never those of another: the keys differ, and so does everything derived
# from them. Whoever splits a seed's key gets what a small number folded into it gives, so the
# streams that training must not meet are folded in by name.
STREAMS = {"training": 0, "heldout": zlib.crc32(b"heldout"), "baseline": zlib.crc32(b"baseline")}


def key_stream(seed: int, name: str) -> Array:
    """The typed key from which everything random of one kind is drawn.

    Args:
        seed: 0 <= seed < 2**32.
        name: "training" (parameters, training tasks and data), "heldout" (evaluation tasks and
            data) or "baseline" (the random initialisation that evaluation compares with).

    Raises:
        ValueError: a seed out of range.
    """
    check_seed(seed)
    return traced_key_stream(np.uint32(seed), name)


def heldout_keys(seed: int) -> tuple[Array, Array, Array]:
    """The keys of evaluation: of its tasks, of adapting to them, and of what is played to be seen.

    Raises:
        ValueError: a seed out of range.
    """
    of_tasks, of_adapting, of_playing = jax.random.split(key_stream(seed, "heldout"), 3)
    return of_tasks, of_adapting, of_playing


def check_seed(seed: int) -> None:
    """Raises ValueError for an invalid seed."""
    require_integer("seed", seed, 0, 2**32 - 1)


def traced_key_stream(seed: Array | np.uint32, name: str) -> Array:
    """`key_stream` of a seed that is data, uint32 (), unchecked."""
    # Passed explicitly: jit does not notice that jax was set to another generator.
    generator = getattr(jax.config, "jax_default_prng_impl")  # noqa: B009
    return _key_stream(seed, np.uint32(STREAMS[name]), generator)


@partial(jax.jit, static_argnums=2)
def _key_stream(seed: Array | np.uint32, stream: Array | np.uint32, generator: str) -> Array:
    return jax.random.fold_in(jax.random.key(seed, impl=generator), stream)
