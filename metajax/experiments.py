"""What a configuration describes, as pure functions.

Only on this floor do `metajax` and `envs` meet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from envs import Informed
from envs.splits import has_sides, samplers

from . import checkpoints, programs, runs, training, trials, updates
from .catalogue import ALGORITHMS, BY_MEMORY, OPTIONS, WITH
from .checks import require_number
from .configs import (
    ACTIVATIONS,
    INITIALISATIONS,
    PRECISIONS,
    PolicyConfig,
    QConfig,
    RegressionConfig,
    TrainConfig,
    check,
)
from .learners import learners, network_of
from .mapping import Mapping, task_mesh
from .networks import MLP, Network, mlp_policy
from .presets import is_ours, preset
from .problems import policy_gradient, q_learning, regression
from .types import Adapt, MetaLearner, MetaState, Problem

__all__ = ["Experiment", "build", "check_held_out", "check_resumable", "load", "shelf"]


class Experiment(NamedTuple):
    """What a configuration describes.

    Attributes:
        problem: of evaluation.
        training: the problem that the learner is of.
        learner: the algorithm's.
        evaluation: inner steps, or episodes before a trial's last -> adapting by so many.
        network: what the problems' parameters are of; `problem.init` makes them.
        multitask: joint training on the same tasks, with the same samples an update.
        multitask_evaluation: as `evaluation`, of its parameters.
        oracle: task -> (), the greatest expected score, where it is known.
        environment: of reinforcement learning.
        mapping: of tasks on devices.
    """

    problem: Problem
    training: Problem
    learner: MetaLearner
    evaluation: Callable[[int], Adapt]
    network: Network
    multitask: MetaLearner
    multitask_evaluation: Callable[[int], Adapt]
    oracle: Callable[[Any], Any] | None
    environment: Any | None
    mapping: Mapping


def _environment(config: TrainConfig) -> Any:
    env = getattr(config, "env")  # noqa: B009  (each subclass has its own kind)
    return Informed(env) if config.algorithm == "oracle" else env


def _network(config: TrainConfig) -> Network:
    activation, dtype = ACTIVATIONS[config.activation], PRECISIONS[config.precision]
    if isinstance(config, RegressionConfig):
        if config.algorithm == "oracle":
            raise ValueError(f"algorithm: oracle is for episodes, got {config.preset}")
        return network_of(config, MLP((*config.hidden, 1), activation, dtype=dtype))
    assert isinstance(config, PolicyConfig | QConfig)
    env = _environment(config)
    units = (
        dict(initial_std=config.initial_std, action_scale=config.action_scale)
        if isinstance(config, PolicyConfig)
        else {}
    )
    policy = mlp_policy(
        env.action_space,
        config.hidden,
        activation,
        config.skip,
        **units,
        dtype=dtype,
        observation_axes=len(env.observation_space.shape),
        kernel_init=INITIALISATIONS[config.initialisation],
    )
    return network_of(config, policy)


def _problems(config: TrainConfig, network: Network) -> tuple[Problem, Problem, Problem]:
    """The problem to train on, that of joint training, and that of evaluation.

    An update of joint training uses as many samples as one of the meta-learner: those of K inner
    steps and the judging batch, in one batch.
    """
    if isinstance(config, RegressionConfig):
        return (
            regression(network, shots=config.shots),
            regression(network, shots=config.shots, query=2 * config.shots),
            regression(network, shots=config.shots, query=config.grid, grid=True),
        )
    assert isinstance(config, PolicyConfig | QConfig)
    env = _environment(config)
    training, judging = samplers(env.sample_task, config.held_out)

    def problem(episodes: int, sample_task: Callable[[Any], Any]) -> Problem:
        if isinstance(config, QConfig):
            return q_learning(
                env,
                network,
                episodes=episodes,
                greedy_episodes=config.greedy_episodes,
                discount=config.discount,
                n_step=config.n_step,
                epsilon=config.epsilon,
                judging_epsilon=config.judging_epsilon,
                mean_over=config.mean_over,
                outer=config.outer,
                temperature=config.temperature,
                sample_task=sample_task,
            )
        return policy_gradient(
            env,
            network,
            episodes=episodes,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
            baseline=config.baseline,
            normalise_advantage=config.normalise_advantage,
            surrogate=config.surrogate,
            dice_lambda=config.dice_lambda,
            entropy=config.entropy,
            sample_task=sample_task,
        )

    on_one_batch = isinstance(config, QConfig) and config.judging_epsilon is not None
    collected = min(config.inner_steps, 1) if on_one_batch else config.inner_steps
    return (
        problem(config.episodes, training),
        problem(config.episodes * (collected + 1), training),
        problem(config.episodes, judging),
    )


def _check_options(config: TrainConfig) -> None:
    """Raises ValueError for a changed option that would be ignored, or let inner steps diverge."""
    default = preset(config.preset, config.algorithm)

    def is_changed(name: str) -> bool:
        return getattr(config, name, None) != getattr(default, name, None)

    if config.algorithm in BY_MEMORY and len(config.hidden) == 1 and is_changed("activation"):
        raise ValueError("activation: is of the layers before the memory, and hidden has none")
    for name, algorithms in OPTIONS.items():
        # A preset of one's own may set what only some algorithms take, and be used with others,
        # except for this, with which those would train another problem than they are judged by.
        acts = is_changed(name) or (name == "learn" and config.learn)
        if acts and config.algorithm not in algorithms:
            others = [each for each in ALGORITHMS if each not in algorithms]
            few = len(algorithms) <= len(others)
            which = f"for {', '.join(algorithms)}, not" if few else "not for"
            raise ValueError(f"{name}: is {which} {config.algorithm}")
    for name, (other, values) in WITH.items():
        value = getattr(config, other, None)
        if is_changed(name) and value not in values:
            raise ValueError(f"{name}: acts with {other} {', '.join(values)}, not {value}")
    if config.annealing and not config.inner_steps:
        raise ValueError("annealing: is of the derivative through inner steps, which are 0")
    largest = max(config.inner_learning_rate, default=0.0)
    if config.proximal is not None and config.proximal * largest >= 2:
        raise ValueError(
            f"proximal: expected below 2 / inner_learning_rate, {2 / largest:.3g}, where an inner "
            f"step overshoots the start, got {config.proximal}"
        )
    actions = getattr(getattr(config, "env", None), "action_space", None)
    of_continuous_actions = ("initial_std", "action_scale", "adapt_std")
    for name in of_continuous_actions if hasattr(actions, "n") else ():
        if is_changed(name):
            raise ValueError(f"{name}: is for continuous actions, not {config.preset}")


def _devices(config: TrainConfig) -> int:
    """Devices per process: those asked for, or as many as share the tasks evenly and pay off."""
    if config.devices is not None:
        return config.devices
    if config.algorithm == "reptile-serial":
        return 1
    if isinstance(config, RegressionConfig) and jax.default_backend() == "cpu":
        return 1  # an update takes less time than two devices need to meet
    here, processes = jax.local_device_count(), jax.process_count()
    parts = config.minibatches if config.algorithm in BY_MEMORY else 1
    shares = (n for n in range(1, here + 1) if config.tasks % (n * processes * parts) == 0)
    return max(shares, default=1)


def build(config: TrainConfig, *, begun: bool = False) -> Experiment:
    """The pure functions that a configuration describes.

    Args:
        config: what to build.
        begun: whether it is that of a run. Its options passed when it began, beside the presets of
            that day.

    Raises:
        ValueError: a value out of range, or an option that nothing would take, in one line.
    """
    check(config)
    if not begun:
        _check_options(config)
    mapping = Mapping(task_mesh(_devices(config)), config.chunk, config.tile)
    env = getattr(config, "env", None)
    oracle = getattr(env, "optimal_return", None)
    if config.algorithm in BY_MEMORY:
        made = trials.learners(config, mapping)
    else:
        network = _network(config)
        made = learners(config, network, _problems(config, network), oracle, mapping)
    return Experiment(
        problem=made.judging,
        training=made.training,
        learner=made.learner,
        evaluation=made.evaluation,
        network=made.network,
        multitask=made.multitask,
        multitask_evaluation=made.multitask_evaluation or made.evaluation,
        oracle=oracle,
        environment=env,
        mapping=mapping,
    )


def check_held_out(config: TrainConfig) -> None:
    """Checks that p(T) has tasks to train on and tasks to hold out; draws some to see.

    Not part of `build`, which opens runs too: those passed when they began.

    Raises:
        ValueError: one of them is empty.
    """
    share = getattr(config, "held_out", 0.0)
    require_number("held_out", share, 0, 1, below=True)
    known = preset(config.preset, config.algorithm)
    if not share or all(getattr(config, n) == getattr(known, n) for n in ("held_out", "env")):
        return  # what presets hold out leaves tasks on both sides
    if not has_sides(getattr(config, "env").sample_task, 1 - share):  # noqa: B009
        raise ValueError(
            f"held_out: expected a share that leaves tasks to train on and to judge by, got {share}"
        )


def check_resumable(experiment: Experiment, run: Path) -> None:
    """Checks that a run may go on: from its newest whole checkpoint, or from the beginning.

    Raises:
        CheckpointError: it has checkpoints, and none is whole and the experiment's.
    """
    like = updates.abstract_state(experiment.learner)
    config = checkpoints.fingerprint(runs.described(run))
    checkpoints.newest(run / training.CHECKPOINTS, like, config)


def shelf(config: TrainConfig, row: str = "", **others: Any) -> programs.Shelf:
    """Where the programs of a run are kept; none of a user's own preset, whose code may change.

    Args:
        config: of the run.
        row: which of the run's learners, see `runs.described`.
        **others: what else determines the programs, JSON-able.
    """
    if not is_ours(config.preset) or type(config) is not type(preset(config.preset)):
        return programs.NOWHERE
    return programs.shelf(runs.versions(), {**runs.computed(config, row), **others})


def load(run: str | os.PathLike[str]) -> tuple[Experiment, MetaState]:
    """The experiment and the newest whole state of a run folder of the command line.

    ```python
    experiment, state = experiments.load("runs/maze")
    mj.evaluate(experiment.evaluation(3), state.params, experiment.problem)
    ```

    Raises:
        RunError: it is not a run folder, or was written by a version that differs too much.
        CheckpointError: it has no checkpoint that can be used.
    """
    config, _ = runs.read(Path(run))
    experiment = build(config, begun=True)
    state, _ = training.restore(experiment.learner, run, runs.described(Path(run)))
    return experiment, state
