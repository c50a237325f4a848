"""The algorithms by name, and the learners that each makes for a configuration's problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import optax

from .algorithms import emaml, imaml, maml, maml_trpo, multitask, promp, reptile
from .algorithms.cavia import fixed_context
from .algorithms.hyper import meta_learned
from .algorithms.imaml import proximal
from .algorithms.learned_optimizer import learned_rule
from .algorithms.meta_sgd import learned_rates
from .algorithms.norml import learned_advantage
from .groups import by_optimum
from .inner import Inner, sgd
from .mapping import Mapping
from .networks import Conditioned, GaussianPolicy, Network
from .trust_region import TrustRegion
from .types import MetaLearner, Problem
from .weighting import gradient_norm, uncertainty

if TYPE_CHECKING:
    from .configs import TrainConfig

__all__ = [
    "ALGORITHMS",
    "BY_MEMORY",
    "OPTIONS",
    "Learners",
    "learners",
    "network_of",
    "outer_optimizer",
    "outer_rate",
    "unit_of",
]

ALGORITHMS = {
    "maml": "MAML: second-order gradient through the inner steps (Finn et al. 2017)",
    "fomaml": "MAML with the first-order gradient (Finn et al. 2017, section 5.2)",
    "maml++": "MAML with a learned rate for each layer and inner step (Antoniou et al. 2019)",
    "meta-sgd": "MAML with a learned rate for each parameter (Li et al. 2017)",
    "learned-optimizer": "MAML with a learned recurrent update rule (Andrychowicz et al. 2016)",
    "norml": "MAML with a learned advantage beside that of rewards (Yang et al. 2019)",
    "anil": "MAML that adapts the last layer alone (Raghu et al. 2020)",
    "cavia": "MAML that adapts a context vector alone (Zintgraf et al. 2019)",
    "imaml": "MAML by the implicit gradient, inner steps unseen (Rajeswaran et al. 2019)",
    "emaml": "MAML that credits the sampling before adaptation too (Stadie et al. 2018)",
    "maml-trpo": "MAML with an outer step as long as a trust region allows (Finn et al. 2017)",
    "promp": "MAML by several clipped steps on the same batches (Rothfuss et al. 2019)",
    "reptile": "Reptile: toward where adaptation ends (Nichol et al. 2018)",
    "reptile-serial": "Reptile, the tasks of an update one after another (Nichol et al. 2018)",
    "rl2": "RL²: a recurrent policy remembers, by PPO over whole trials (Duan et al. 2016)",
    "multitask": "joint training without inner steps, fine-tuned at evaluation",
    "oracle": "joint training of a policy that is given the task (Finn et al. 2017, section 5.3)",
    "multitask-uncertainty": "the same, tasks weighed by their uncertainty (Kendall et al. 2018)",
    "multitask-gradnorm": "the same, weights by norms and rates of training (Chen et al. 2018)",
}

_WEIGHTINGS = {"multitask-uncertainty": uncertainty, "multitask-gradnorm": gradient_norm}
BY_MEMORY = ("rl2",)  # which adapt without inner steps, see `trials`
_BY_STEPS = tuple(name for name in ALGORITHMS if name not in BY_MEMORY)
_BY_RATIO = ("maml-trpo", "promp")  # whose surrogate is the probability ratio
_BY_SURROGATE = tuple(name for name in _BY_STEPS if name not in _BY_RATIO)
# What `algorithms.maml` differentiates.
_BY_MAML = ("maml", "maml++", "meta-sgd", "learned-optimizer", "norml", "anil", "cavia")

# The algorithms that use an option of a configuration. The others would ignore it.
OPTIONS: dict[str, tuple[str, ...]] = {
    "step_weights": (*_BY_MAML, "fomaml"),
    "annealing": _BY_MAML,
    "context": ("cavia",),
    "proximal": ("imaml",),
    "damping": ("imaml",),
    "exploration": ("emaml",),
    "learn": (*_BY_MAML, "emaml"),
    "epochs": ("promp", *BY_MEMORY),
    "clip": ("promp", *BY_MEMORY),
    "minibatches": BY_MEMORY,
    "value_weight": BY_MEMORY,
    **dict.fromkeys(("inner_learning_rate", "inner_steps", "adapt_std", "skip"), _BY_STEPS),
    **dict.fromkeys(("baseline", "normalise_advantage"), _BY_STEPS),
    "penalty": ("promp",),
    "penalty_target": ("promp",),
    "trust_region": ("maml-trpo",),
    "surrogate": _BY_SURROGATE,
    "dice_lambda": _BY_SURROGATE,
    "groups": tuple(_WEIGHTINGS),
}


def unit_of(algorithm: str) -> str:
    """What an algorithm takes one more of to adapt further."""
    return "episode" if algorithm in BY_MEMORY else "inner step"


class Learners(NamedTuple):
    """The learners of a configuration's algorithm, and its problem of evaluation."""

    judging: Problem  # of evaluation, with the algorithm's meta-parameters
    learner: MetaLearner
    evaluation: Callable[[int], MetaLearner]  # inner steps -> a learner to adapt with
    multitask: MetaLearner  # joint training
    # the same of joint training; None: adapted in the same way
    multitask_evaluation: Callable[[int], MetaLearner] | None = None


def network_of(config: TrainConfig, network: Network) -> Network:
    """`network` with what the algorithm needs beside its inputs."""
    return Conditioned(network, config.context) if config.algorithm == "cavia" else network


def _adapting(config: TrainConfig, problem: Problem, inner: Inner) -> tuple[Problem, Inner]:
    """What the algorithm adapts, and how, with the hyper-parameters that are learned."""
    sampling = [of.name for of in problem.hyper if of.log_prob and of.name in config.learn]
    if sampling and config.algorithm != "emaml":
        raise ValueError(
            f"learn: {sampling[0]} acts in sampling, which emaml credits, not {config.algorithm}"
        )
    head = f"Dense_{len(config.hidden)}"
    choices: dict[str, Callable[[], tuple[Problem, Inner]]] = {
        "maml++": lambda: learned_rates(problem, inner, per_step=True),
        "meta-sgd": lambda: learned_rates(problem, inner),
        "learned-optimizer": lambda: learned_rule(problem, inner),
        "norml": lambda: learned_advantage(problem, inner),
        "anil": lambda: (problem, inner._replace(fast=lambda path: head in path.split("/"))),
        "cavia": lambda: (problem, inner._replace(fast=Conditioned.is_context)),
        "imaml": lambda: (problem, proximal(inner, config.proximal)),
    }
    adapting = choices.get(config.algorithm, lambda: (problem, inner))()
    return meta_learned(*adapting, config.learn) if config.learn else adapting


def outer_rate(config: TrainConfig, outer_steps: int) -> optax.Schedule:
    """The rate of each of a run's outer steps."""
    return optax.cosine_decay_schedule(config.outer_learning_rate, outer_steps, config.final_rate)


def outer_optimizer(config: TrainConfig, outer_steps: int) -> optax.GradientTransformation:
    """Adam, for a run of so many outer steps."""
    descent = optax.adam(outer_rate(config, outer_steps))
    if config.gradient_clip:
        descent = optax.chain(optax.clip_by_global_norm(config.gradient_clip), descent)
    return optax.flatten(descent)  # a kernel for one vector, not one per leaf


def learners(
    config: TrainConfig,
    problems: tuple[Problem, Problem, Problem],
    optimum: Callable[[Any], Any] | None,
    mapping: Mapping,
) -> Learners:
    """The learners of a configuration.

    Args:
        config: of the run.
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
        _adapting(config, problem, plain) for problem in problems
    )

    def adam(outer_steps: int) -> optax.GradientTransformation:
        descent = outer_optimizer(config, outer_steps)
        return fixed_context(descent) if name == "cavia" else descent

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
        descent = optax.sgd(outer_rate(config, config.updates * (tasks if serial else 1)))
        return reptile(problem, inner, descent, tasks, serial=serial, mapping=mapping)

    def of_weights() -> MetaLearner:
        if optimum is None:
            raise ValueError(f"algorithm: {name} is for tasks whose optimum is known")
        groups, group_of = by_optimum(optimum, joint.sample_task, config.groups)
        weighting = _WEIGHTINGS[name](groups, group_of, best=optimum)
        return multitask(joint, inner, outer, tasks, weighting=weighting, mapping=mapping)

    special: dict[str, Callable[[], MetaLearner]] = {
        "imaml": lambda: imaml(
            problem,
            plain,
            outer,
            tasks,
            strength=config.proximal,
            damping=config.damping,
            mapping=mapping,
        ),
        "emaml": lambda: emaml(
            problem, inner, outer, tasks, exploration=config.exploration, mapping=mapping
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
        **dict.fromkeys(("multitask", "oracle"), lambda: joint_learner),
        **dict.fromkeys(_WEIGHTINGS, of_weights),
    }
    return Learners(
        judging=judging,
        learner=special.get(name, of_maml)(),
        evaluation=lambda steps: maml(
            judging, inner._replace(steps=steps), outer, tasks, mapping=mapping
        ),
        multitask=joint_learner,
    )
