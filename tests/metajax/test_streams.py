"""What a seed is used for: streams of keys that have none in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metajax import streams


def test_keys_are_of_the_generator_that_jax_is_told_to_take():
    before = streams.key_stream(0, "training")
    with jax.default_prng_impl("rbg"):
        assert jax.random.key_impl(streams.key_stream(0, "training")) == "rbg"
    expected = jax.random.fold_in(jax.random.key(0), streams.STREAMS["training"])
    assert before == expected == streams.key_stream(0, "training")


def test_no_key_of_one_stream_is_one_of_another():
    """The keys of the tasks and data of a run, as learners and evaluation derive them."""

    @jax.jit
    def drawn(key):
        updates = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(200))
        tasks = jax.vmap(lambda k: jax.random.split(k, 32))(updates).ravel()
        heldout = jax.random.split(key, 4096)
        return [jax.random.key_data(keys) for keys in (key[None], updates, tasks, heldout)]

    of_all = [streams.key_stream(seed, name) for seed in (0, 1) for name in streams.STREAMS]
    keys = [np.unique(np.concatenate(drawn(key)), axis=0) for key in of_all]
    together = np.concatenate(keys)
    assert len(np.unique(together, axis=0)) == len(together)


def test_splitting_a_seeds_key_leads_to_no_stream_of_evaluation():
    """As `learner.init(jax.random.key(seed))` does, and updates from that state."""
    key = jax.random.key(0)
    own = {tuple(map(int, jax.random.key_data(k))) for k in jax.random.split(key, 1024)}
    for name in ("heldout", "baseline"):
        assert tuple(map(int, jax.random.key_data(streams.key_stream(0, name)))) not in own
