"""Joint training: one policy for all tasks, without adaptation."""

from __future__ import annotations

import optax

from ..inner import Inner
from ..mapping import Mapping
from ..types import MetaLearner, Problem
from .maml import maml

__all__ = ["multitask"]


def multitask(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """Minimises E_T[L_T(θ)]: MAML without inner steps. `inner` is for `adapt` alone (fine-tuning).

    Raises:
        ValueError: a size that cannot be.
    """
    joint = maml(problem, inner._replace(steps=0), outer, tasks, mapping=mapping)
    fine_tuned = maml(problem, inner, outer, tasks, mapping=mapping)
    return joint._replace(adapt=fine_tuned.adapt)
