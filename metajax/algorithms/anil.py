"""ANIL (Raghu et al. 2020): almost no inner loop, only the head adapts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import optax

from ..inner import Inner, check_parts
from ..types import MetaLearner, Problem
from .maml import MAMLOptions, maml

__all__ = ["anil"]


def anil(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    head: Callable[[str], bool],
    **options: Unpack[MAMLOptions],
) -> MetaLearner:
    """MAML whose inner steps update only the `head`; the body is slow (see `inner`).

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser.
        outer: the outer optimiser, for head and body.
        tasks: N, tasks per update.
        head: path of a parameter, such as "params/Dense_2/kernel" -> whether it is in the head; of
            a policy by `networks.mlp_policy`, its `is_head`.
        **options: options of `maml`.

    Returns:
        The learner, as from `maml`.

    Raises:
        ValueError: an invalid size, or a head without parameters.
    """
    check_parts(problem, inner, outer)
    return maml(problem, inner.among(head), outer, tasks, **options)
