"""Groups of tasks, and how much each counts in the outer gradient.

Tasks are drawn afresh at every update, so weights belong to groups of them: a function of the task
says which group it is of. What is measured of a group is a mean over an update's tasks, so weights
depend on neither the chunk nor the number of devices, and their state is a part of the learner's.
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

_DRAWS = 1024  # tasks that tell where groups part


class Measured(NamedTuple):
    """One update by groups."""

    share: Array  # (G,) float32, of the update's tasks
    mean: Array  # (M, G) float32, of what was measured of them; 0 where a group had none


class Weighting(NamedTuple):
    """A rule of weights: how G groups count, from what the updates before have measured.

    The outer gradient is the weighted mean over tasks, so only ratios of weights count. A task of
    no group, outside 0..G-1, counts for nothing.
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
            ValueError: `group_of` does not name a group (while tracing).
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
    """Groups of about equally many tasks each, by the best score that can be had in them.

    Args:
        optimum: task -> () the best score.
        sample_task: key -> task; the quantiles of 1024 draws tell the groups apart.
        groups: how many, at least 2; where optima are equal for many tasks there may be fewer.

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
