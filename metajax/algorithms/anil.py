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
    """MAML whose inner steps change the parameters of the `head` alone; the body is slow.

    Args:
        problem: what is learned over.
        inner: the inner optimiser.
        outer: the outer optimiser, of head and body.
        tasks: N, tasks of one update.
        head: whether the parameter of a path, such as "params/Dense_2/kernel", is the head's.
        **options: of `maml`.

    Returns:
        The learner, as of `maml`.

    Raises:
        ValueError: a size that cannot be, or a head without parameters.
    """
    check_parts(problem, inner, outer)
    return maml(problem, inner._replace(fast=head), outer, tasks, **options)
