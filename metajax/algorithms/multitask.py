"""Joint training: one policy for all tasks, without adaptation."""

from __future__ import annotations

import optax

from ..groups import UNIFORM, Weighting
from ..inner import Inner, check_parts
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
    weighting: Weighting = UNIFORM,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """Minimises E_T[L_T(θ)]: MAML without inner steps. `inner` is for `adapt` alone (fine-tuning).

    With a `weighting` it minimises E_T[w_g(T) L_T(θ)], a weight for each group g of tasks:
    `uncertainty` or `gradient_norm`.

    Args:
        problem: what is learned over.
        inner: the optimiser of fine-tuning.
        outer: the optimiser of joint training.
        tasks: N, tasks of one update.
        weighting: how much each group of tasks counts.
        mapping: how tasks are laid on hardware.

    Returns:
        The learner, as of `maml`.

    Raises:
        ValueError: a size that cannot be.
    """
    check_parts(problem, inner, outer)
    steps = inner._replace(steps=0)
    joint = maml(problem, steps, outer, tasks, weighting=weighting, mapping=mapping)
    fine_tuned = maml(problem, inner, outer, tasks, mapping=mapping)
    return joint._replace(adapt=fine_tuned.adapt)
