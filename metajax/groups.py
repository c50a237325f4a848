"""Groups of tasks, and how much each counts in the outer gradient.

Tasks are drawn afresh at every update, so weights belong to groups of them: a function of the task
gives its group. Measurements of a group are means over an update's tasks, so weights depend on
neither the chunk nor the number of devices, and their state is a part of the learner's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .checks import require_integer
from .types import Params

__all__ = ["UNIFORM", "Measured", "Weighting", "by_optimum"]

Array = jax.Array

_DRAWS = 1024  # tasks drawn to find the boundaries of groups


class Measured(NamedTuple):
    """Measurements of one update, by group."""

    share: Array  # (G,) float32, share of the update's tasks
    mean: Array  # (M, G) float32, mean of each measurement; 0 where a group had no task


class Weighting(NamedTuple):
    """A weighting rule: how much each of G groups counts, by measurements of earlier updates.

    The outer gradient is the weighted mean over tasks, so only ratios of weights matter. A task
    whose group is outside 0..G-1 has weight 0.
    """

    groups: int  # G
    group_of: Callable[[Any], Array]  # task -> () int32
    measure: Callable[[Any, Array, Params], Array]  # task, score after, gradient -> (M,) float32
    init: Callable[[], Any]  # -> state, a pytree of arrays
    weights: Callable[[Any], Array]  # state -> (G,) float32, at least 0
    update: Callable[[Any, Measured], Any]  # state, an update by groups -> state

    def membership(self, task: Any) -> Array:
        """(G,) float32: 1 at the group of `task`, else 0.

        Raises:
            ValueError: during tracing, `group_of` does not return an integer ().
        """
        group = jnp.asarray(self.group_of(task))
        if group.shape or not jnp.issubdtype(group.dtype, jnp.integer):
            found = f"{group.dtype} {list(group.shape)}"
            raise ValueError(f"group_of: expected an integer () for a task, got {found}")
        return jax.nn.one_hot(group, self.groups, dtype=jnp.float32)


UNIFORM = Weighting(
    groups=1,
    group_of=lambda task: jnp.int32(0),
    measure=lambda task, score, gradient: jnp.zeros(0, jnp.float32),
    init=lambda: (),
    weights=lambda state: jnp.ones(1, jnp.float32),
    update=lambda state, measured: state,
)


def by_optimum(
    optimum: Callable[[Any], Array], sample_task: Callable[[Array], Any], groups: int
) -> tuple[int, Callable[[Any], Array]]:
    """Groups of about equally many tasks each, by the best score possible in them.

    Args:
        optimum: task -> () the best score.
        sample_task: key -> task; the quantiles of 1024 draws tell the groups apart.
        groups: how many, at least 2; there may be fewer where many tasks share an optimum.

    Returns:
        How many groups there are, and task -> () int32, its group, from the lowest optimum up.

    Raises:
        ValueError: fewer groups than 2.
    """
    require_integer("groups", groups, 2)
    keys = jax.random.split(jax.random.key(0), _DRAWS)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: optimum(sample_task(key))))(keys))
    cuts = np.unique(np.quantile(drawn, np.arange(1, groups) / groups))
    edges = jnp.asarray(cuts[cuts > drawn.min()], jnp.float32)

    def group_of(task: Any) -> Array:
        return jnp.sum(optimum(task) >= edges, dtype=jnp.int32)

    return len(edges) + 1, group_of
