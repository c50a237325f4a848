"""Published settings by name: every flag of a run, and the experiment that it describes.

A preset is a frozen dataclass with a flag per field; `build` turns it into pure functions. Here and
in the command line alone do `metajax` and `envs` meet.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn

from envs import BernoulliBandit, Gridworld, Maze, PointNavigation, TabularMDP
from envs.tasksets import sampler_of_side

from .catalogue import ALGORITHMS, learners, network_of
from .mapping import Mapping, task_mesh
from .networks import MLP, mlp_policy
from .problems import policy_gradient, q_learning, regression
from .types import MetaLearner, Problem

__all__ = ["ALGORITHMS", "PRESETS", "Experiment", "TrainConfig", "build", "describe", "from_json"]

_ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What every run has."""

    summary: ClassVar[str] = ""

    preset: str
    """The preset that the other values come from."""
    updates: int
    """Meta-updates."""
    tasks: int
    """Tasks of one update, a multiple of the devices."""
    inner_learning_rate: tuple[float, ...]
    """Inner rate of each step; the last one holds for all later steps."""
    outer_learning_rate: float
    """Rate of the outer optimiser: Adam, or plain descent for Reptile (its ε)."""
    hidden: tuple[int, ...]
    """Widths of the network's hidden layers."""
    activation: str = "tanh"
    """tanh or relu."""
    algorithm: str = "maml"
    """The meta-learner; `metajax list` has them all."""
    seed: int = 0
    """Decides everything random, from 0 to 2^32 - 1."""
    inner_steps: int = 1
    """Gradient steps that adapt to a task."""
    step_weights: tuple[float, ...] = ()
    """Weight of the loss after each inner step (MAML++); by default the last step alone counts."""
    annealing: int = 0
    """Updates with the first-order gradient before the second order begins (MAML++)."""
    context: int = 4
    """Size of the context vector of CAVIA."""
    proximal: float = 1.0
    """Strength of the pull toward the start in iMAML's inner problem."""
    exploration: float = 1.0
    """Weight of the credit for sampling in E-MAML."""
    final_rate: float = 1.0
    """Share of the outer rate that a cosine leaves at the end; 1 keeps it constant."""
    gradient_clip: float = 0.0
    """Greatest norm of the meta-gradient; 0 does not clip."""
    devices: int | None = None
    """Devices that share the tasks; all that divide them by default."""
    chunk: int | None = None
    """Tasks alive at once on a device; chosen by default."""
    tile: int | None = None
    """Tasks whose gradient is taken at once; chosen by default."""
    log_every: int = 10
    """Updates of one dispatch and of one line of metrics."""
    checkpoint_every: int = 100
    """Updates between checkpoints."""
    evaluation_tasks: int = 512
    """Held-out tasks that the run is judged on."""
    evaluation_steps: int = 3
    """Inner steps that evaluation goes to."""
    comparisons: bool = True
    """Whether to train the multi-task policy too, on the same tasks and budget."""


@dataclasses.dataclass(frozen=True)
class RegressionConfig(TrainConfig):
    """Few-shot regression of sine waves."""

    shots: int = 10
    """Examples that adapt, and as many that judge."""
    grid: int = 100
    """Evenly spaced inputs that evaluation judges by."""


@dataclasses.dataclass(frozen=True)
class EpisodesConfig(TrainConfig):
    """Reinforcement learning."""

    episodes: int = 20
    """Episodes of an inner step, and of the batch that judges."""
    discount: float = 0.99
    """γ."""
    held_out: float = 0.0
    """Share of the tasks, by their content, that evaluation alone draws; 0: both draw from all."""
    skip: float = 0.0
    """Scale of a linear path from the observation to the network's output; 0 leaves it out."""


@dataclasses.dataclass(frozen=True)
class PolicyConfig(EpisodesConfig):
    """Reinforcement learning by policy gradient."""

    gae_lambda: float = 1.0
    """λ of the advantages."""
    baseline: str = "linear"
    """linear (features of observation and time), mean (over episodes) or none."""
    normalise_advantage: bool = True
    """Whether advantages have unit standard deviation over a task's steps."""
    surrogate: str = "lvc"
    """lvc, log_prob, loaded_dice or dice: what the inner gradient's derivative sees."""
    dice_lambda: float = 1.0
    """λ of loaded_dice: 0 is lvc, 1 is unbiased."""
    entropy: float = 0.0
    """Weight of the policy's entropy in both losses."""
    initial_std: float = 1.0
    """Standard deviation of a continuous policy before training."""


@dataclasses.dataclass(frozen=True)
class QConfig(EpisodesConfig):
    """Reinforcement learning by Q-learning."""

    greedy_episodes: int = 1
    """Episodes of each batch without exploration; they are the score."""
    n_step: int = 1
    """Steps before a target bootstraps."""
    epsilon: float = 0.2
    """ε of the other episodes."""
    judging_epsilon: float | None = None
    """ε of judging episodes; with it, all inner steps descend on the first batch."""
    outer: str = "td"
    """td (errors of the judging batch) or policy (what its actions were worth)."""
    temperature: float = 1.0
    """Of the softmax of the values that the loss "policy" judges."""


@dataclasses.dataclass(frozen=True)
class MazeConfig(PolicyConfig):
    """Mazes."""

    env: Maze = Maze()
    """The environment."""


@dataclasses.dataclass(frozen=True)
class GridworldConfig(PolicyConfig):
    """Gridworlds with an unseen goal."""

    env: Gridworld = Gridworld()
    """The environment."""


@dataclasses.dataclass(frozen=True)
class GridworldQConfig(QConfig):
    """Gridworlds with an unseen goal by Q-learning."""

    env: Gridworld = Gridworld()
    """The environment."""


@dataclasses.dataclass(frozen=True)
class PointConfig(PolicyConfig):
    """Point navigation."""

    env: PointNavigation = PointNavigation()
    """The environment."""


@dataclasses.dataclass(frozen=True)
class BanditConfig(PolicyConfig):
    """Bernoulli bandits."""

    env: BernoulliBandit = BernoulliBandit()
    """The environment."""


@dataclasses.dataclass(frozen=True)
class TabularMDPConfig(PolicyConfig):
    """Random tabular MDPs."""

    env: TabularMDP = TabularMDP()
    """The environment."""


def _sinusoid(
    shots: int, inner_steps: int, step_weights: tuple[float, ...] = ()
) -> RegressionConfig:
    return RegressionConfig(
        preset=f"sinusoid-{shots}",
        updates=70_000,
        tasks=25,
        inner_learning_rate=(0.01,),
        outer_learning_rate=1e-3,
        hidden=(40, 40),
        activation="relu",
        inner_steps=inner_steps,
        step_weights=step_weights,
        shots=shots,
        log_every=500,
        checkpoint_every=10_000,
        evaluation_tasks=2000,
        evaluation_steps=10,
    )


PRESETS: dict[str, TrainConfig] = {
    "maze": MazeConfig(
        preset="maze",
        updates=400,
        tasks=32,
        inner_learning_rate=(20.0, 0.7),
        outer_learning_rate=2e-3,
        final_rate=0.1,
        gradient_clip=1.0,
        hidden=(64, 64),
        skip=3.0,
        episodes=32,
        gae_lambda=0.8,
        entropy=0.01,
        held_out=0.2,  # small mazes are few: another stream of random numbers draws the same
        evaluation_tasks=1024,
        env=Maze(horizon=60, view=0, far_exit=False),
    ),
    "gridworld": GridworldConfig(
        preset="gridworld",
        updates=200,
        tasks=64,
        inner_learning_rate=(3.0, 0.75),
        outer_learning_rate=2e-3,
        gradient_clip=1.0,
        hidden=(64, 64),
        episodes=20,
        gae_lambda=0.95,
        entropy=0.01,
    ),
    "gridworld-q": GridworldQConfig(
        preset="gridworld-q",
        updates=200,
        tasks=64,
        inner_learning_rate=(0.3,),
        outer_learning_rate=2e-3,
        final_rate=0.1,
        gradient_clip=1.0,
        hidden=(64, 64),
        skip=5.0,
        inner_steps=2,
        episodes=30,
        n_step=15,
        epsilon=1.0,
        judging_epsilon=0.3,
        outer="policy",
        temperature=0.3,
    ),
    "point": PointConfig(
        preset="point",
        updates=500,
        tasks=40,
        inner_learning_rate=(0.1, 0.025),
        outer_learning_rate=3e-3,
        hidden=(64, 64),
        episodes=20,
        initial_std=0.3,
        final_rate=0.1,
    ),
    # Trained for one step alone, five shots leave too little to go on from; for two alone, the
    # first gains too little. The published errors after one and five steps
    # (clvrai/MAML-TensorFlow) take a loss that counts both.
    "sinusoid-5": _sinusoid(5, inner_steps=2, step_weights=(0.2, 0.8)),
    "sinusoid-10": _sinusoid(10, inner_steps=1),
    "bandit-10x5": BanditConfig(
        preset="bandit-10x5",
        updates=300,
        tasks=64,
        inner_learning_rate=(1.0,),
        outer_learning_rate=1e-3,
        gradient_clip=1.0,
        hidden=(32,),
        episodes=10,
        discount=1.0,
        baseline="mean",
    ),
    "tabular-mdp": TabularMDPConfig(
        preset="tabular-mdp",
        updates=300,
        tasks=64,
        inner_learning_rate=(10.0,),
        outer_learning_rate=2e-3,
        gradient_clip=1.0,
        hidden=(64,),
        episodes=20,
        gae_lambda=0.95,
        entropy=0.01,
    ),
}

_SUMMARIES = {
    "maze": "find the unseen exit of a perfect maze; layout and exit are the task",
    "gridworld": "VariBAD's 5x5 gridworld with an unseen goal (Zintgraf et al. 2020)",
    "gridworld-q": "the same gridworld; Q-learning adapts, on one batch of random episodes",
    "point": "2-D point navigation to an unseen goal (Finn et al. 2017)",
    "sinusoid-5": "5-shot regression of sine waves (Finn et al. 2017)",
    "sinusoid-10": "10-shot regression of sine waves (Finn et al. 2017)",
    "bandit-10x5": "10 pulls of 5 Bernoulli arms (Duan et al. 2016)",
    "tabular-mdp": "random MDPs of 10 states and 5 actions (Duan et al. 2016)",
}


class Experiment(NamedTuple):
    """What a configuration describes."""

    problem: Problem  # of evaluation
    learner: MetaLearner
    evaluation: Callable[[int], MetaLearner]  # inner steps -> a learner to adapt with
    multitask: MetaLearner  # joint training on the same tasks, with the same samples an update
    oracle: Callable[[Any], Any] | None  # task -> () greatest expected score
    environment: Any | None
    mapping: Mapping  # of tasks on devices


def describe(name: str) -> str:
    """A preset in one line."""
    return _SUMMARIES[name]


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """The known names that `name` may have meant, for an error's text."""
    known = list(known)
    return ", ".join(difflib.get_close_matches(name, known, cutoff=0.4) or known)


def from_json(content: dict[str, Any]) -> TrainConfig:
    """The configuration that `dataclasses.asdict` wrote.

    Raises:
        ValueError: a preset or a field that this version does not have.
    """
    name = content.get("preset", "")
    if name not in PRESETS:
        raise ValueError(f"preset: unknown {name!r}; nearest: {nearest(name, PRESETS)}")
    return _restore(type(PRESETS[name]), content)


def _restore(cls: Any, content: dict[str, Any]) -> Any:
    types = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    if content.keys() != names:
        odd = sorted(content.keys() ^ names)
        raise ValueError(f"{cls.__name__}: unknown or missing {', '.join(odd)}")
    values: dict[str, Any] = {}
    for name, value in content.items():
        if dataclasses.is_dataclass(types[name]):
            value = _restore(types[name], value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def _check(config: TrainConfig) -> None:
    if config.algorithm not in ALGORITHMS:
        near = nearest(config.algorithm, ALGORITHMS)
        raise ValueError(f"algorithm: unknown {config.algorithm!r}; nearest: {near}")
    if config.activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ValueError(f"activation: expected one of {known}, got {config.activation!r}")
    at_least_one = ["updates", "tasks", "log_every", "checkpoint_every", "evaluation_tasks"]
    at_least_one += [name for name in ("shots", "grid") if hasattr(config, name)]
    for name in at_least_one:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(config, name)}")
    at_least_zero = ("inner_steps", "evaluation_steps", "annealing")
    for name in (*at_least_zero, "gradient_clip", "skip"):
        if getattr(config, name, 0) < 0:
            raise ValueError(f"{name}: expected at least 0, got {getattr(config, name)}")
    for name in ("outer_learning_rate", "initial_std"):
        if getattr(config, name, 1.0) <= 0:
            raise ValueError(f"{name}: expected above 0, got {getattr(config, name)}")
    held_out = getattr(config, "held_out", 0.0)
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out: expected at least 0 and below 1, got {held_out}")
    if not 0 <= config.final_rate <= 1:
        raise ValueError(f"final_rate: expected 0 to 1, got {config.final_rate}")
    if min(config.hidden, default=1) < 1:
        raise ValueError(f"hidden: expected widths of at least 1, got {config.hidden}")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed: expected 0 to 2^32 - 1, got {config.seed}")


def _problems(config: TrainConfig) -> tuple[Problem, Problem, Problem]:
    """The problem to train on, that of joint training, and that of evaluation.

    An update of joint training uses as many samples as one of the meta-learner: what K inner steps
    and the judging batch use, in one batch.
    """
    activation = _ACTIVATIONS[config.activation]
    if isinstance(config, RegressionConfig):
        network = network_of(config, MLP((*config.hidden, 1), activation))
        return (
            regression(network, shots=config.shots),
            regression(network, shots=config.shots, query=2 * config.shots),
            regression(network, shots=config.shots, query=config.grid, grid=True),
        )
    assert isinstance(config, PolicyConfig | QConfig)
    env = getattr(config, "env")  # noqa: B009  (each subclass has its own kind)
    initial_std = config.initial_std if isinstance(config, PolicyConfig) else 1.0
    policy = mlp_policy(env.action_space, config.hidden, activation, config.skip, initial_std)
    network = network_of(config, policy)

    training = judging = env.sample_task
    if config.held_out:
        share = 1 - config.held_out
        training, judging = (
            sampler_of_side(env.sample_task, share, first=first) for first in (True, False)
        )

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


def _devices(config: TrainConfig) -> int:
    """The devices asked for; otherwise as many as share the tasks evenly and are worth it."""
    import jax

    if config.devices is not None:
        return config.devices
    if config.algorithm == "reptile-serial":
        return 1
    if isinstance(config, RegressionConfig) and jax.default_backend() == "cpu":
        return 1  # an update takes less time than two devices need to meet
    return max(n for n in range(1, len(jax.devices()) + 1) if config.tasks % n == 0)


def build(config: TrainConfig) -> Experiment:
    """The pure functions that a configuration describes.

    Raises:
        ValueError: a value out of range, in one line.
    """
    _check(config)
    problems = _problems(config)
    mapping = Mapping(task_mesh(_devices(config)), config.chunk, config.tile)
    made = learners(config, problems, mapping)
    env = getattr(config, "env", None)
    return Experiment(
        problem=made.judging,
        learner=made.learner,
        evaluation=made.evaluation,
        multitask=made.multitask,
        oracle=None if env is None else env.optimal_return,
        environment=env,
        mapping=mapping,
    )
