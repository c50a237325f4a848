"""The smallest meta-learner that has everything: keys, tasks, inner steps, a slow option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from metajax.types import MetaLearner, MetaState, Problem, Trace

TASKS = 4


def problem() -> Problem:
    """Pull a point toward a task's goal; the score is minus the squared distance."""

    def score(batch):
        return -jnp.sum(batch**2)

    return Problem(
        sample_task=lambda key: jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0),
        init=lambda key: {"w": jax.random.normal(key, (2,))},
        collect=lambda params, task, key: params["w"] - task,
        inner_loss=lambda params, batch: (jnp.sum(batch**2), None),
        outer_loss=lambda params, batch: (jnp.sum(batch**2), None),
        score=score,
    )


def learner(*, of: Problem | None = None, steps: int = 1, work: int = 0) -> MetaLearner:
    """First-order MAML on `problem`, with momentum outside; `work` makes an update slow."""
    of = of or problem()
    outer = optax.sgd(0.01, momentum=0.9)

    def init(key):
        key_params, key_run = jax.random.split(key)
        params = of.init(key_params)
        return MetaState(params, outer.init(params), jnp.int32(0), key_run)

    def adapt(params, task, key):
        scores = [of.score(of.collect(params, task, key))]
        for _ in range(steps):
            gradient = jax.tree.map(lambda w: 2.0 * (w - task), params)
            params = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradient)
            scores.append(of.score(of.collect(params, task, key)))
        return params, Trace(jnp.stack(scores), jnp.int32(1000))

    def update(state):
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), TASKS)
        tasks = jax.vmap(of.sample_task)(keys)
        adapted, trace = jax.vmap(adapt, in_axes=(None, 0, 0))(state.params, tasks, keys)
        if work:
            busy = jax.lax.fori_loop(0, work, lambda _, m: jnp.tanh(m @ m), jnp.ones((64, 64)))
            tasks = tasks + 0.0 * busy[0, 0]
        gradient = {"w": jnp.mean(2.0 * (adapted["w"] - tasks), axis=0)}
        change, opt_state = outer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        metrics = {
            "score_before": jnp.mean(trace.score[:, 0]),
            "score_after": jnp.mean(trace.score[:, -1]),
            "outer_loss": -jnp.mean(trace.score[:, -1]),
            "env_steps": jnp.int32(1000 * TASKS),
        }
        return MetaState(params, opt_state, state.step + 1, state.key), metrics

    return MetaLearner(init, update, adapt)


def compiled_once(directory: Path, **options: object) -> Iterator[None]:
    """A fixture's body, for tests that run the same few programs over and over.

    Subprocesses are given the same options, for they compile the same programs.
    """
    options |= {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in options}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in options.items():
            jax.config.update(name, value)
            environment.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
