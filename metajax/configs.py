"""Configurations: a frozen dataclass for each kind of experiment, a field for each flag."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from envs import BernoulliBandit, Gridworld, Maze, PointCorners, PointNavigation, TabularMDP

from .catalogue import ALGORITHMS
from .checks import require_integer, require_number
from .streams import check_seed

__all__ = [
    "ACTIVATIONS",
    "INITIALISATIONS",
    "PRECISIONS",
    "BanditConfig",
    "EpisodesConfig",
    "GridworldConfig",
    "GridworldQConfig",
    "MazeConfig",
    "MazeQConfig",
    "PointConfig",
    "PointCornersConfig",
    "PolicyConfig",
    "QConfig",
    "RegressionConfig",
    "TabularMDPConfig",
    "TrainConfig",
    "check",
    "nearest",
    "restore",
]

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}
# Of a policy's weights; None: LeCun's, and a last layer of nearly 0.
INITIALISATIONS = {"lecun": None, "glorot": nn.initializers.glorot_uniform()}
PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}  # None: what the parameters have


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What every run has."""

    preset: str
    """The preset that the other values come from."""
    updates: int
    """Meta-updates."""
    tasks: int
    """Tasks per update, a multiple of the number of devices; in RL² of that times minibatches."""
    inner_learning_rate: tuple[float, ...]
    """Inner learning rate of each step; the last one applies to all later steps."""
    outer_learning_rate: float
    """Learning rate of the outer optimiser, Adam."""
    hidden: tuple[int, ...]
    """Widths of the network's hidden layers; in RL² the last is that of the memory."""
    activation: str = "tanh"
    """tanh or relu; in RL² of the layers before the memory."""
    precision: str = "float32"
    """float32 or bfloat16: operands of the network's products. All else is float32: parameters,
    sums, gradients and losses."""
    algorithm: str = "maml"
    """The meta-learner; `metajax list` has them all."""
    seed: int = 0
    """Seed of everything random, from 0 to 2^32 - 1."""
    inner_steps: int = 1
    """Gradient steps that adapt to a task."""
    step_weights: tuple[float, ...] = ()
    """Weight of the loss after each inner step (MAML++); by default the last step alone counts."""
    annealing: int = 0
    """Updates with the first-order gradient before the second order begins (MAML++)."""
    learn: tuple[str, ...] = ()
    """Hyper-parameters of the inner steps that the meta-gradient improves too: learning_rate (a
    factor), of episodes discount, gae_lambda and entropy, and by emaml Q-learning's epsilon."""
    context: int = 4
    """Size of the context vector of CAVIA."""
    reptile_step: float = 0.3
    """Share of the way to where adaptation ends that Reptile goes (its ε)."""
    proximal: float | None = None
    """Strength of the pull toward the start in iMAML's inner problem; by default 1, or where an
    inner step is large, what undoes half of the way from the start in a step."""
    damping: float | None = None
    """Added to that strength where iMAML solves for the meta-gradient, for inner steps that end
    short of the minimum; by default what makes it 1 / (steps x rate), of policies 3 times that."""
    exploration: float = 1.0
    """Weight of the credit for sampling in E-MAML, in deviations of the score over tasks where
    advantages are normalised."""
    trust_region: float = 0.01
    """Greatest KL divergence of the adapted policies from those that sampled, in MAML-TRPO."""
    epochs: int = 5
    """Outer steps of ProMP on the same batches; passes of RL² over the same trials."""
    clip: float = 0.3
    """How far ProMP and RL² let a policy's probability ratio leave 1."""
    minibatches: int = 4
    """Parts of an update's tasks, on each of which RL² takes an outer step in a pass."""
    penalty: float = 5e-4
    """Weight of the KL divergence from the policies that sampled, in ProMP."""
    penalty_target: float | None = None
    """KL divergence that ProMP adapts that weight toward; by default it stays."""
    groups: int = 10
    """Groups of tasks, by their optimum, that adaptive weights distinguish."""
    final_rate: float = 1.0
    """Fraction of the outer rate, or Reptile's step, at the end of its cosine decay; 1 keeps it."""
    gradient_clip: float = 0.0
    """Largest norm of the meta-gradient, which is clipped beyond it; 0 for no clipping."""
    devices: int | None = None
    """Devices per process; by default as many as divide the tasks evenly."""
    chunk: int | None = None
    """Tasks alive at once on a device; chosen automatically by default."""
    tile: int | None = None
    """Tasks whose gradients are taken at once; chosen automatically by default."""
    log_every: int = 10
    """Updates per dispatch, and per line of metrics."""
    checkpoint_every: int = 100
    """Updates between checkpoints."""
    evaluation_tasks: int = 512
    """Held-out tasks in evaluation."""
    evaluation_steps: int = 3
    """Inner steps in evaluation; in RL², episodes that a trial has before its last."""
    comparisons: bool = True
    """Whether to train the multi-task policy too, on the same tasks and budget."""


@dataclasses.dataclass(frozen=True)
class RegressionConfig(TrainConfig):
    """Few-shot regression of sine waves."""

    shots: int = 10
    """Examples of the support set, and as many of the query set."""
    grid: int = 100
    """Evenly spaced query inputs in evaluation."""


@dataclasses.dataclass(frozen=True)
class EpisodesConfig(TrainConfig):
    """Reinforcement learning."""

    episodes: int = 20
    """Episodes per inner step, and of the batch after the last step; in RL², of a trial."""
    discount: float = 0.99
    """γ."""
    held_out: float = 0.0
    """Share of the tasks, by their content, that evaluation alone draws; 0: both draw from all."""
    skip: float = 0.0
    """Scale of a linear path from the observation to the network's output; 0 leaves it out."""
    initialisation: str = "lecun"
    """Of weights: lecun, with a last layer of nearly 0, or glorot, in all layers. An inner step of
    the same rate moves a policy the more, the larger its features are."""


@dataclasses.dataclass(frozen=True)
class PolicyConfig(EpisodesConfig):
    """Reinforcement learning by policy gradient."""

    gae_lambda: float = 1.0
    """λ of the advantages."""
    baseline: str = "linear"
    """linear (features of observation and time), mean (over episodes) or none; RL² has a critic."""
    normalise_advantage: bool = True
    """Whether advantages get zero mean and unit standard deviation over a task's steps."""
    surrogate: str = "lvc"
    """lvc, log_prob, loaded_dice or dice: what the inner gradient's derivative sees."""
    dice_lambda: float = 1.0
    """λ of loaded_dice: 0 is lvc, 1 is unbiased."""
    entropy: float = 0.0
    """Weight of the policy's entropy in both losses."""
    value_weight: float = 0.5
    """Weight of the critic's mean squared error, in RL²."""
    initial_std: float = 1.0
    """Standard deviation of a continuous policy before training, in units of action_scale."""
    action_scale: float = 1.0
    """Unit of a continuous policy: the action that an output of 1 stands for."""
    adapt_std: bool = True
    """Whether inner steps move the standard deviation too. The gradient grows with its inverse
    square, so one that a step makes small lets the next step go too far."""


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
    mean_over: str = "steps"
    """steps or pairs (of a one-hot observation and an action): what the error is a mean over."""
    outer: str = "td"
    """td (errors of the judging batch) or policy (what its actions were worth)."""
    temperature: float = 1.0
    """Temperature of the softmax over values, for the outer loss "policy"."""


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
class MazeQConfig(QConfig):
    """Mazes by Q-learning."""

    env: Maze = Maze()
    """The environment."""


@dataclasses.dataclass(frozen=True)
class PointConfig(PolicyConfig):
    """Point navigation."""

    env: PointNavigation = PointNavigation()
    """The environment."""


@dataclasses.dataclass(frozen=True)
class PointCornersConfig(PolicyConfig):
    """Navigation to one of four corners with sparse rewards."""

    env: PointCorners = PointCorners()
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


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Which known names `name` may have meant, or what there is, for an error's text."""
    known = list(known)
    close = difflib.get_close_matches(name, known, cutoff=0.4)
    return f"nearest: {', '.join(close)}" if close else f"there are {', '.join(known)}"


def restore(cls: Any, content: dict[str, Any]) -> Any:
    """The configuration of class `cls` that `dataclasses.asdict` wrote.

    What an earlier version wrote lacks the fields that came later: they have their defaults.

    Raises:
        ValueError: a field that the class does not have, one missing that has no default, or a
            value of another type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    required = {name for name, of in fields.items() if of.default is dataclasses.MISSING}
    odd = sorted((content.keys() - fields.keys()) | (required - content.keys()))
    if odd:
        raise ValueError(f"{cls.__name__}: unknown or missing {', '.join(odd)}")
    values: dict[str, Any] = {}
    for name, value in content.items():
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, dict):
            value = restore(hints[name], value)
        values[name] = tuple(value) if isinstance(value, list) else value
        default = fields[name].default
        # A field whose default is of another type than it says is what a user's code makes of it.
        trusted = default is dataclasses.MISSING or _fits(default, hints[name])
        if trusted and not _fits(values[name], hints[name]):
            raise ValueError(f"{cls.__name__}: {name}: expected {fields[name].type}, got {value!r}")
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type, as far as JSON tells; True of types it has not."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        many = len(arguments) == 2 and arguments[1] is Ellipsis
        hints = arguments[:1] * len(value) if many else arguments
        return len(hints) == len(value) and all(map(_fits, value, hints))
    if hint in (int, float):
        kinds = (int, float) if hint is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    if not isinstance(hint, type):
        return True
    known = hint in (str, bool, types.NoneType) or dataclasses.is_dataclass(hint)
    return isinstance(value, hint) if known else True


def check(config: TrainConfig) -> None:
    """Raises ValueError, in one line, for a value out of range."""
    if config.algorithm not in ALGORITHMS:
        near = nearest(config.algorithm, ALGORITHMS)
        raise ValueError(f"algorithm: unknown {config.algorithm!r}; {near}")
    for name, known in (
        ("activation", ACTIVATIONS),
        ("precision", PRECISIONS),
        ("initialisation", INITIALISATIONS),
    ):
        # What a configuration does not have, as sine waves have no policy, is as by default.
        if (value := getattr(config, name, next(iter(known)))) not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    at_least_one = ["updates", "tasks", "log_every", "checkpoint_every", "evaluation_tasks"]
    at_least_one += ["minibatches"]
    at_least_one += [name for name in ("shots", "grid") if hasattr(config, name)]
    for name in at_least_one:
        require_integer(name, getattr(config, name), 1)
    for name in ("inner_steps", "evaluation_steps", "annealing"):
        require_integer(name, getattr(config, name), 0)
    for name in ("gradient_clip", "skip"):
        require_number(name, getattr(config, name, 0.0))
    for name in ("outer_learning_rate", "reptile_step", "initial_std", "action_scale"):
        require_number(name, getattr(config, name, 1.0), above=True)
    require_number("held_out", getattr(config, "held_out", 0.0), 0, 1, below=True)
    require_number("final_rate", config.final_rate, 0, 1)
    if len({*config.learn}) < len(config.learn):
        raise ValueError(f"learn: expected each name once, got {' '.join(config.learn)}")
    for width in config.hidden:
        require_integer("hidden", width, 1)
    check_seed(config.seed)
