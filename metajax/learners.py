"""The learners that an algorithm makes for a configuration's problems."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from .algorithms import emaml, imaml, maml, maml_trpo, multitask, promp, reptile
from .algorithms.cavia import fixed_context
from .algorithms.hyper import meta_learned
from .algorithms.imaml import proximal
from .algorithms.learned_optimizer import learned_rule
from .algorithms.meta_sgd import learned_rates
from .algorithms.norml import learned_advantage
from .configs import PolicyConfig, TrainConfig
from .groups import by_optimum
from .inner import Inner, adaptation, sgd
from .mapping import Mapping
from .networks import Conditioned, GaussianPolicy, Network
from .trust_region import TrustRegion
from .types import Adapt, MetaLearner, Problem
from .weighting import gradnorm, uncertainty_weighting

__all__ = ["Learners", "learners", "network_of", "outer_optimizer"]

_JOINT = ("multitask", "oracle")
_WEIGHTINGS = {"multitask-uncertainty": uncertainty_weighting, "multitask-gradnorm": gradnorm}


class Learners(NamedTuple):
    """The learners of a configuration's algorithm, and its problems."""

    training: Problem  # that the learner is of, with the algorithm's meta-parameters
    judging: Problem  # of evaluation, with the same meta-parameters
    learner: MetaLearner
    evaluation: Callable[[int], Adapt]  # by so many inner steps
    network: Network  # that the problems are about
    multitask: MetaLearner  # joint training
    # the same of joint training; None: adapted in the same way
    multitask_evaluation: Callable[[int], Adapt] | None = None


def network_of(config: TrainConfig, network: Network) -> Network:
    """`network` with what the algorithm needs beside its inputs."""
    return Conditioned(network, config.context) if config.algorithm == "cavia" else network


def _strength(config: TrainConfig) -> float:
    """That of iMAML's pull, of which each inner step makes its rate's share."""
    largest = max(config.inner_learning_rate)
    return min(1.0, 0.5 / largest) if config.proximal is None else config.proximal


# How many times 1 / (steps x rate) the pull and its damping are together, for policies: at 1, the
# system was not positive definite for most tasks of our presets, and training went astray.
_OF_POLICIES = 3.0


def _damping(config: TrainConfig) -> float:
    """What iMAML adds to that strength where inner steps stop short of a minimum."""
    if config.damping is not None:
        return config.damping
    rates, steps = config.inner_learning_rate, config.inner_steps
    travelled = sum(rates[:steps]) + rates[-1] * max(steps - len(rates), 0)
    times = _OF_POLICIES if isinstance(config, PolicyConfig) else 1.0
    return max(times / travelled - _strength(config), 0.0) if travelled else 0.0


def _adapting(
    config: TrainConfig, network: Network, problem: Problem, inner: Inner
) -> tuple[Problem, Inner]:
    """What the algorithm adapts, and how, with the hyper-parameters that are learned."""
    sampling = [of.name for of in problem.hyper if of.log_prob and of.name in config.learn]
    if sampling and config.algorithm != "emaml":
        raise ValueError(
            f"learn: {sampling[0]} acts in sampling, which emaml credits, not {config.algorithm}"
        )

    def of_head() -> tuple[Problem, Inner]:
        return problem, inner.among(getattr(network, "is_head"))  # noqa: B009

    choices: dict[str, Callable[[], tuple[Problem, Inner]]] = {
        "maml++": lambda: learned_rates(problem, inner, per_step=True),
        "meta-sgd": lambda: learned_rates(problem, inner),
        "learned-optimizer": lambda: learned_rule(problem, inner),
        "norml": lambda: learned_advantage(problem, inner),
        "anil": of_head,
        "cavia": lambda: (problem, inner.among(Conditioned.is_context)),
        "imaml": lambda: (problem, proximal(inner, _strength(config))),
    }
    adapting = choices.get(config.algorithm, lambda: (problem, inner))()
    return meta_learned(*adapting, config.learn) if config.learn else adapting


def _decaying(rate: float, config: TrainConfig, outer_steps: int) -> optax.Schedule:
    """The rate of each of a run's outer steps."""
    return optax.cosine_decay_schedule(rate, outer_steps, config.final_rate)


def outer_optimizer(config: TrainConfig, outer_steps: int) -> optax.GradientTransformation:
    """Adam, for a run of so many outer steps."""
    descent = optax.adam(_decaying(config.outer_learning_rate, config, outer_steps))
    if config.gradient_clip:
        descent = optax.chain(optax.clip_by_global_norm(config.gradient_clip), descent)
    return optax.flatten(descent)  # a kernel for one vector, not one per leaf


def learners(
    config: TrainConfig,
    network: Network,
    problems: tuple[Problem, Problem, Problem],
    optimum: Callable[[Any], Any] | None,
    mapping: Mapping,
) -> Learners:
    """The learners of a configuration.

    Args:
        config: of the run.
        network: what the problems are about, see `network_of`.
        problems: to train on, of joint training, and of evaluation.
        optimum: task -> () the best score possible, where it is known.
        mapping: how tasks are laid out on hardware.

    Raises:
        ValueError: a value out of range, or a problem that the algorithm is not for.
    """
    name, tasks = config.algorithm, config.tasks
    plain = sgd(config.inner_learning_rate, config.inner_steps)
    if not getattr(config, "adapt_std", True):
        plain = plain._replace(fast=lambda path: not GaussianPolicy.is_std(path))
    (problem, inner), (joint, _), (judging, _) = (
        _adapting(config, network, problem, plain) for problem in problems
    )

    def adam(outer_steps: int) -> optax.GradientTransformation:
        descent = outer_optimizer(config, outer_steps)
        return fixed_context(inner, descent) if name == "cavia" else descent

    outer = adam(config.updates)
    joint_learner = multitask(joint, inner, outer, tasks, mapping=mapping)

    def first_order(step: Any) -> Any:
        return step < config.annealing

    def of_maml() -> MetaLearner:
        annealed = config.annealing > 0 and name != "fomaml"
        return maml(
            problem,
            inner,
            outer,
            tasks,
            first_order=first_order if annealed else name == "fomaml",
            step_weights=config.step_weights,
            mapping=mapping,
        )

    def of_reptile(serial: bool) -> MetaLearner:
        outer_steps = config.updates * (tasks if serial else 1)
        descent = optax.sgd(_decaying(config.reptile_step, config, outer_steps))
        return reptile(problem, inner, descent, tasks, serial=serial, mapping=mapping)

    def of_weights() -> MetaLearner:
        if optimum is None:
            raise ValueError(f"algorithm: {name} is for tasks whose optimum is known")
        groups, group_of = by_optimum(optimum, joint.sample_task, config.groups)
        if groups == 1:
            raise ValueError(f"algorithm: {name} tells tasks apart by their optimum; all share one")
        weighting = _WEIGHTINGS[name](groups, group_of, best=optimum)
        return multitask(joint, inner, outer, tasks, weighting=weighting, mapping=mapping)

    @functools.cache  # what is compiled of such a function is kept with it
    def evaluation(steps: int) -> Adapt:
        return adaptation(judging, inner._replace(steps=steps), mapping=mapping)

    special: dict[str, Callable[[], MetaLearner]] = {
        "imaml": lambda: imaml(
            problem,
            plain,
            outer,
            tasks,
            strength=_strength(config),
            damping=_damping(config),
            mapping=mapping,
        ),
        "emaml": lambda: emaml(
            problem,
            inner,
            outer,
            tasks,
            exploration=config.exploration,
            # In the units of the outer loss.
            normalise=tasks > 1 and getattr(config, "normalise_advantage", False),
            mapping=mapping,
        ),
        "maml-trpo": lambda: maml_trpo(
            problem, inner, TrustRegion(bound=config.trust_region), tasks, mapping=mapping
        ),
        "promp": lambda: promp(
            problem,
            inner,
            adam(config.updates * config.epochs),
            tasks,
            epochs=config.epochs,
            clip=config.clip,
            penalty=config.penalty,
            target=config.penalty_target,
            mapping=mapping,
        ),
        "reptile": lambda: of_reptile(serial=False),
        "reptile-serial": lambda: of_reptile(serial=True),
        **dict.fromkeys(_JOINT, lambda: joint_learner),
        **dict.fromkeys(_WEIGHTINGS, of_weights),
    }
    return Learners(
        training=joint if name in (*_JOINT, *_WEIGHTINGS) else problem,
        judging=judging,
        learner=special.get(name, of_maml)(),
        evaluation=evaluation,
        network=network,
        multitask=joint_learner,
    )
