"""Published settings by name, and a user's own by where they are."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from envs import Maze

from .configs import (
    BanditConfig,
    GridworldConfig,
    GridworldQConfig,
    MazeConfig,
    MazeQConfig,
    PointConfig,
    PointCornersConfig,
    RegressionConfig,
    TabularMDPConfig,
    TrainConfig,
    nearest,
    restore,
)

__all__ = ["PRESETS", "describe", "from_json", "preset"]


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


# As MAML takes them, unless they say another algorithm.
_SETTINGS: dict[str, TrainConfig] = {
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
        algorithm="maml++",  # large steps whose rates are learned
        updates=200,
        tasks=64,
        inner_learning_rate=(1.0,),
        outer_learning_rate=2e-3,
        final_rate=0.1,
        gradient_clip=1.0,
        hidden=(64, 64),
        skip=5.0,
        inner_steps=3,
        episodes=30,
        discount=0.9,
        n_step=15,
        epsilon=1.0,
        judging_epsilon=0.3,
        outer="policy",
        temperature=0.3,
    ),
    # A table of values, for which a rate of O · A / skip² moves visited ones to their mean targets.
    # Episodes are long enough for random steps to come upon the exit of nineteen mazes in twenty.
    "maze-q": MazeQConfig(
        preset="maze-q",
        algorithm="maml++",
        updates=150,
        tasks=32,
        inner_learning_rate=(7.0,),
        outer_learning_rate=3e-3,
        final_rate=0.1,
        gradient_clip=1.0,
        hidden=(),
        skip=5.0,
        inner_steps=10,
        episodes=96,
        discount=0.95,
        held_out=0.2,
        n_step=5,
        epsilon=1.0,
        judging_epsilon=0.3,
        mean_over="pairs",
        outer="policy",
        temperature=0.02,
        evaluation_tasks=1024,
        evaluation_steps=10,
        env=Maze(horizon=200, view=0, far_exit=False),
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
    # As in cbfinn/maml_rl, maml_examples/maml_trpo_point.py, whose policies act in strides too. The
    # second rate is of maml_examples/test_maml_point.py. From weights of LeCun's, whose features of
    # two inputs are five times as large, the second step goes far astray.
    "point-published": PointConfig(
        preset="point-published",
        updates=200,
        tasks=40,
        inner_learning_rate=(0.5, 0.25),
        outer_learning_rate=6e-3,
        final_rate=0.1,
        gradient_clip=0.5,
        hidden=(100, 100),
        activation="relu",
        episodes=20,
        action_scale=0.1,
        initialisation="glorot",
    ),
    # As ProMP's run_scripts/pro-mp_run_point_mass.py, whose policies act in strides.
    "point-corners": PointCornersConfig(
        preset="point-corners",
        updates=500,
        tasks=40,
        inner_learning_rate=(0.1,),
        outer_learning_rate=1e-3,
        hidden=(64, 64),
        episodes=20,
        action_scale=0.2,
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

# Network, inner rate and an ε that goes to 0 are those of the authors' own script (Nichol et al.
# 2018, openai.com/blog/reptile); ε is larger, for 25 tasks at once, and the steps are more: 10 on
# the shots alone, not 5 on ever new ones. Relu units diverge at this rate.
_REPTILE: dict[str, Any] = dict(
    updates=20_000,
    inner_learning_rate=(0.02,),
    inner_steps=10,
    reptile_step=0.3,
    final_rate=0.0,
    hidden=(64, 64),
    activation="tanh",
)

# The implicit gradient does not know of the steps, and lets curvatures grow until they overshoot,
# unless they are small and many. They still stop short of a minimum whose pull is so weak: hence
# the damping, 1 / (steps x rate). A stronger pull without it diverged; so did relu units.
_IMAML: dict[str, Any] = dict(
    updates=6000,
    inner_learning_rate=(1e-3,),
    inner_steps=50,
    evaluation_steps=50,
    proximal=0.5,
    damping=20.0,
    final_rate=0.02,
    gradient_clip=1.0,
    hidden=(64, 64),
    activation="tanh",
)


def _rl2(episodes: int, **own: Any) -> dict[str, Any]:
    """PPO's usual settings over trials of so many episodes, and a memory of 64 units."""
    values: dict[str, Any] = dict(
        episodes=episodes,
        evaluation_steps=episodes - 1,
        outer_learning_rate=1e-3,
        final_rate=0.1,
        gradient_clip=0.5,
        hidden=(64,),
        skip=0.0,
        epochs=4,
        clip=0.2,
        discount=0.95,
        gae_lambda=0.95,
        entropy=0.01,
    )
    return values | own


# What an algorithm takes in the place of a preset's values, which are chosen for MAML.
_ANYWHERE: dict[str, dict[str, Any]] = {
    "oracle": dict(evaluation_steps=0),  # it is given the task: there is nothing to adapt to
}
_OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("point", "oracle"): dict(outer_learning_rate=1e-2),  # one that knows the goal needs no noise
    # With the one inner step of these settings it would be joint training.
    **{
        (name, algorithm): dict(inner_steps=3)
        for name in (
            *("maze", "gridworld", "bandit-10x5", "tabular-mdp"),
            *("point", "point-published", "point-corners"),
        )
        for algorithm in ("reptile", "reptile-serial")
    },
    # A goal that no episode came upon is found by sampling elsewhere.
    ("gridworld", "emaml"): dict(exploration=3.0),
    ("sinusoid-5", "reptile"): _REPTILE,
    ("sinusoid-10", "reptile"): _REPTILE,
    ("sinusoid-5", "imaml"): _IMAML,
    ("sinusoid-10", "imaml"): _IMAML,
    ("point-published", "maml-trpo"): dict(updates=100, tasks=20),
    ("point-published", "promp"): dict(updates=100, tasks=20, outer_learning_rate=1e-3),
    # Three steps that are all judged: its learned advantage makes more of the later ones.
    ("point-published", "norml"): dict(
        tasks=20,
        inner_steps=3,
        step_weights=(0.4, 0.3, 0.3),
        discount=0.95,
        initialisation="lecun",
    ),
    # Five outer steps an update: it is where MAML gets in four times as many updates, and with more
    # of them its noise, and with that what one inner step can find, is gone.
    ("point-corners", "promp"): dict(updates=100),
    # An update takes as long as ten of the others.
    ("point-corners", "maml-trpo"): dict(updates=60),
    ("bandit-10x5", "rl2"): _rl2(1, tasks=4096, outer_learning_rate=2e-3, discount=1.0),
    # It remembers what each action paid in each state, for which 64 units are too few; a layer
    # before the memory tells the pairs apart. Advantages are of few steps, for rewards are as noisy
    # as they are different, and the critic's error, of the square of returns, must not outweigh
    # them in the memory that both share. Without a bonus on entropy it repeats what paid last,
    # whatever the state.
    ("tabular-mdp", "rl2"): _rl2(
        10,
        tasks=256,
        updates=1000,
        hidden=(128, 128),
        final_rate=0.3,
        minibatches=8,
        discount=0.9,
        gae_lambda=0.3,
        entropy=0.02,
        value_weight=0.02,
    ),
    ("gridworld", "rl2"): _rl2(4, tasks=256, updates=1600),
    ("maze", "rl2"): _rl2(4, tasks=256),
    ("point", "rl2"): _rl2(4, tasks=256, updates=200, hidden=(64, 64)),
    ("point-published", "rl2"): _rl2(4, tasks=256, hidden=(100, 100)),
    ("point-corners", "rl2"): _rl2(4, tasks=256, updates=200, hidden=(64, 64)),
    # Later steps explore and learn as much as the first, which MAML's there do not.
    ("maze", "norml"): dict(inner_steps=3, inner_learning_rate=(20.0, 5.0)),
}

# The algorithm that serves a preset best, where that is not the one of its settings.
_BEST = {"maze": "norml"}

_SUMMARIES = {
    "maze": "find the unseen exit of a perfect maze; layout and exit are the task",
    "gridworld": "VariBAD's 5x5 gridworld with an unseen goal (Zintgraf et al. 2020)",
    "gridworld-q": "the same gridworld; Q-learning adapts, on one batch of random episodes",
    "maze-q": "the same mazes, with more time; Q-learning adapts, on one batch of random episodes",
    "point": "2-D point navigation to an unseen goal (Finn et al. 2017)",
    "point-published": "the same by the published network, inner rates and sample sizes",
    "point-corners": "2-D navigation to one of four corners, sparse rewards (Rothfuss et al. 2019)",
    "sinusoid-5": "5-shot regression of sine waves (Finn et al. 2017)",
    "sinusoid-10": "10-shot regression of sine waves (Finn et al. 2017)",
    "bandit-10x5": "10 pulls of 5 Bernoulli arms (Duan et al. 2016)",
    "tabular-mdp": "random MDPs of 10 states and 5 actions (Duan et al. 2016)",
}


def preset(name: str, algorithm: str | None = None) -> TrainConfig:
    """A preset: with the algorithm that serves it best, or as it is for another one.

    Args:
        name: one of `PRESETS`, or MODULE:NAME for a configuration in a module of the user's, which
            is imported from the working directory or from where Python finds it.
        algorithm: one of `catalogue.ALGORITHMS`.

    Raises:
        ValueError: there is none of this name, or what is there is not a configuration that JSON
            can hold.
    """
    config = _SETTINGS[name] if name in _SETTINGS else _imported(name)
    algorithm = algorithm or _BEST.get(name, config.algorithm)
    own = _ANYWHERE.get(algorithm, {}) | _OWN.get((name, algorithm), {})
    return dataclasses.replace(config, algorithm=algorithm, **own)


def is_ours(name: str) -> bool:
    """Whether metajax's own sources, and nothing else, say what a preset is."""
    return name in _SETTINGS


def _imported(name: str) -> TrainConfig:
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"preset: unknown {name!r}; {nearest(name, _SETTINGS)}")
    here = str(Path.cwd())
    if here not in sys.path:  # `python -m metajax` has it, the script `metajax` does not
        sys.path.append(here)
    try:
        config = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError, OSError) as error:
        raise ValueError(f"preset: {name} cannot be imported from here ({error})") from None
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"preset: expected {name} to be a configuration, such as a PolicyConfig with an "
            f"environment, got {type(config).__name__}"
        )
    config = dataclasses.replace(config, preset=name)
    try:  # as a run folder will
        content = json.loads(json.dumps(dataclasses.asdict(config)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"preset: {name} has a field that JSON cannot hold ({error})") from None
    try:
        read = restore(type(config), content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"preset: {name}: {error}") from None
    if read != config:
        changed = [
            field.name
            for field in dataclasses.fields(config)
            if getattr(read, field.name) != getattr(config, field.name)
        ]
        raise ValueError(f"preset: {name} has a field that JSON cannot hold: {', '.join(changed)}")
    return config


PRESETS: dict[str, TrainConfig] = {name: preset(name) for name in _SETTINGS}


def describe(name: str) -> str:
    """A preset in one line."""
    return _SUMMARIES[name]


def from_json(content: dict[str, Any]) -> TrainConfig:
    """The configuration that `dataclasses.asdict` wrote.

    Raises:
        ValueError: a preset or a field that this version does not have.
    """
    return restore(type(preset(content.get("preset", ""))), content)
