"""Consecutive episodes: the auto-reset that other libraries expect of an environment."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..core import Environment, TimeStep, pytree_dataclass, require

__all__ = ["Episode", "as_task", "as_tasks", "begin", "draw", "follow"]

Array = jax.Array


@pytree_dataclass
class Episode:
    """An episode in progress."""

    task: Any  # a copy: one gather at a reset is cheaper than one at every step
    state: Any  # the environment's


def begin(env: Environment, key: Array, tasks: Any, task: Any = None) -> tuple[Episode, TimeStep]:
    """Starts an episode.

    Args:
      env: the environment.
      key: typed, consumed.
      tasks: [M, ...], from which a task is drawn uniformly; `env.sample_task` draws one if None.
      task: the episode's task; drawn if None.
    """
    # Folded in, not split: a key that goes unused is then never computed.
    key_task, key_reset = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    if task is None:
        task = env.sample_task(key_task) if tasks is None else draw(key_task, tasks)
    state, timestep = env.reset(key_reset, task)
    return Episode(task, state), timestep


def draw(key: Array, tasks: Any) -> Any:
    """One of the tasks [M, ...], drawn uniformly."""
    count = jax.tree.leaves(tasks)[0].shape[0]
    # The remainder favours no task by more than M / 2^32, at half the cost of `randint`.
    index = jax.random.bits(key, (), jnp.uint32) % jnp.uint32(count)
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="promise_in_bounds"), tasks)


def follow(ended: Array, following: Any, current: Any) -> Any:
    """`following` if `ended`, () bool, else `current`: two pytrees of the same form."""
    return jax.tree.map(lambda new, old: jax.lax.select(ended, new, old), following, current)


def as_tasks(env: Environment, tasks: Any) -> Any:
    """A set of tasks as arrays [M, ...].

    Raises:
      ValueError: anything but tasks of `env` with one leading axis M >= 1.
    """
    tasks = jax.tree.map(jnp.asarray, tasks)
    counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(tasks)}
    require("tasks", counts, len(counts) == 1 and 0 not in counts, "a leading axis of one length")
    form = _form(tasks, batch_axes=1)
    expected = _form(_abstract_task(env))
    require("tasks", form, form == expected, f"{expected} behind the leading axis")
    return tasks


def as_task(env: Environment, task: Any) -> Any:
    """A task as arrays.

    Raises:
      ValueError: anything but a task of `env`.
    """
    task = jax.tree.map(jnp.asarray, task)
    form, expected = _form(task), _form(_abstract_task(env))
    require("task", form, form == expected, expected)
    return task


def _abstract_task(env: Environment) -> Any:
    return jax.eval_shape(env.sample_task, jax.random.key(0))


def _form(task: Any, batch_axes: int = 0) -> str:
    """A pytree's structure, with the dtype and shape of each leaf in its place."""
    kinds = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape[batch_axes:])}", task)
    return str(kinds).replace("'", "")
