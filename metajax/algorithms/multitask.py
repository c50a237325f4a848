"""Joint training: one policy for all tasks, without adaptation."""

from __future__ import annotations

import optax

from ..groups import UNIFORM, Weighting
from ..inner import Inner, adaptation, check_parts
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

    With a `weighting`, such as `uncertainty_weighting` or `gradnorm`, it minimises
    E_T[w_g(T) L_T(θ)], with a weight for each group g of tasks.

    Args:
        problem: the meta-learning problem.
        inner: the optimiser of fine-tuning.
        outer: the optimiser of joint training.
        tasks: N, tasks per update.
        weighting: how much each group of tasks counts.
        mapping: how tasks are laid out on hardware.

    Returns:
        The learner, as from `maml`.

    Raises:
        ValueError: an invalid size.
    """
    check_parts(problem, inner, outer)
    steps = inner._replace(steps=0)
    joint = maml(problem, steps, outer, tasks, weighting=weighting, mapping=mapping)
    return joint._replace(adapt=adaptation(problem, inner, mapping=mapping))
