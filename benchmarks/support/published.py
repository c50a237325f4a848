"""Published tables, and the runs that are to reproduce them; `reproduce.py` trains them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .measures import arrival, completed, mean_so_far

__all__ = ["TABLES", "Entry", "Setting"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a published table, or one that we add: one algorithm."""

    label: str
    preset: str
    flags: tuple[str, ...] = ()
    published: Mapping[int, float] = dataclasses.field(default_factory=dict)  # by inner steps
    row: str | None = None  # a row that the run is compared with, shown instead of the run
    steps: tuple[int, ...] | None = None  # inner steps, if not the table's


@dataclasses.dataclass(frozen=True)
class Setting:
    """A table."""

    title: str
    score: str  # what is reported
    steps: tuple[int, ...]
    entries: tuple[Entry, ...]
    source: str = ""
    sign: int = 1  # -1 reports an error, the negated score
    exact: Mapping[str, float] = dataclasses.field(default_factory=dict)  # lines to draw
    measure: Callable[[Path, str | None], dict[str, Any]] | None = None  # run, row -> figures
    unit: str = "inner steps"  # what steps are


def _algorithm(label: str, preset: str, name: str, **published: Any) -> Entry:
    return Entry(label, preset, ("--algorithm", name), **published)


def _sinusoid(shots: int, maml: Mapping[int, float], meta_sgd: Mapping[int, float]) -> Setting:
    preset = f"sinusoid-{shots}"
    recipe = ("--inner-steps", "1", "--step-weights")  # the preset's own differ for five shots
    entries = [
        Entry("MAML", preset, recipe if shots == 5 else (), maml),
        *([Entry("MAML, loss after both of two steps", preset)] if shots == 5 else []),
        _algorithm("FOMAML", preset, "fomaml"),
        _algorithm("Reptile", preset, "reptile"),
        _algorithm("Meta-SGD", preset, "meta-sgd", published=meta_sgd),
        _algorithm("ANIL", preset, "anil"),
        _algorithm("CAVIA", preset, "cavia"),
        Entry("iMAML", preset, ("--algorithm", "imaml"), steps=(1, 5, 10, 50)),
        _algorithm("learned optimiser", preset, "learned-optimizer"),
    ]
    return Setting(
        f"{shots}-shot sine waves",
        "squared error",
        (1, 5, 10),
        tuple(entries),
        "MAML: clvrai/MAML-TensorFlow; Meta-SGD: 63days/Meta-SGD, where MAML has .670",
        sign=-1,
    )


def _oracle(preset: str, **published: Any) -> Entry:
    """The entry of an agent that observes its task and so has nothing to adapt to."""
    return Entry(
        "oracle, given the goal", preset, ("--algorithm", "oracle"), steps=(0,), **published
    )


def _untrained(preset: str, algorithm: str, **published: Any) -> Entry:
    """The entry of parameters that nothing trained, from the run of an algorithm."""
    label = "random initialisation"
    return _algorithm(label, preset, algorithm, row=label, **published)


def _corners(label: str, name: str, *flags: str) -> Entry:
    return Entry(label, "point-corners", ("--algorithm", name, *flags))


_CORNERS = (
    _corners("ProMP", "promp"),
    _corners("MAML, 100 updates too", "maml", "--updates", "100"),
    _corners("the same, at rate 3e-3", "maml", "--updates", "100", "--outer-learning-rate", "3e-3"),
    _corners("MAML, 500 updates", "maml"),
    _algorithm("MAML-TRPO", "point-corners", "maml-trpo"),
    _untrained("point-corners", "maml"),
)

_POINT = {"standing still": -40.1, "optimum": -0.54}

TABLES: dict[str, Setting] = {
    "sinusoid-5": _sinusoid(5, {1: 0.661, 5: 0.302, 10: 0.271}, {}),
    "sinusoid-10": _sinusoid(10, {1: 0.451, 5: 0.202, 10: 0.190}, {1: 0.3145}),
    "point-as-published": Setting(
        "point navigation, 4000 steps before each inner step, rates .5 then .25",
        "undiscounted return of episodes that ended",
        (0, 1, 2, 3),
        (
            _algorithm(
                "MAML-TRPO",
                "point-published",
                "maml-trpo",
                published={0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23},
            ),
            _algorithm("MAML, Adam", "point-published", "maml"),
            _algorithm("ProMP", "point-published", "promp"),
            _untrained(
                "point-published",
                "maml-trpo",
                published={0: -82.66, 1: -57.96, 2: -53.84, 3: -46.81},
            ),
            _oracle("point-published", published={0: -2.29}),
        ),
        "cbfinn/maml_rl, 40 goals: ± 4.1, 2.2, .6 and .6; episodes that end early count for more",
        exact=_POINT,
        measure=completed,
    ),
    "point": Setting(
        "point navigation, 20 episodes before each inner step, rates .5 then .25",
        "undiscounted return",
        (0, 1, 2, 3),
        (
            _algorithm("MAML-TRPO", "point-published", "maml-trpo"),
            _algorithm("MAML, Adam", "point-published", "maml"),
            _algorithm("ProMP", "point-published", "promp"),
            _algorithm("NoRML", "point-published", "norml"),
            _untrained("point-published", "maml-trpo"),
            _oracle("point-published"),
        ),
        exact=_POINT,
    ),
    "point-corners": Setting(
        "navigation to one of four corners, sparse rewards",
        "undiscounted return",
        (0, 1, 2, 3),
        _CORNERS,
        "published as curves alone (Rothfuss et al. 2019); going in and out of a corner's quarter "
        "pays again and again",
    ),
    "point-corners-arrival": Setting(
        "where the episodes of the same runs end",
        "distance to the goal after the last step",
        (0, 1, 2, 3),
        _CORNERS,
        sign=-1,
        exact={"standing still": 2.83},
        measure=arrival,
    ),
    "gridworld": Setting(
        "VariBAD's gridworld, goal unseen",
        "return of an episode",
        (0, 1, 2, 3),
        (
            Entry("MAML", "gridworld"),
            Entry("random initialisation", "gridworld", row="random initialisation"),
            _algorithm("MAML++ rates", "gridworld", "maml++"),
            _algorithm("E-MAML", "gridworld", "emaml"),
            _algorithm("ProMP", "gridworld", "promp"),
            _algorithm("NoRML", "gridworld", "norml"),
            _algorithm("RL², after so many episodes", "gridworld", "rl2"),
            _oracle("gridworld"),
            Entry("Q-learning, MAML++", "gridworld-q"),
        ),
        exact={"Bayes-optimal, first episode": 4.0, "Bayes-optimal, later episodes": 11.071},
    ),
    "maze": Setting(
        "mazes of 9 by 9 squares, exit unseen",
        "return of an episode",
        (0, 1, 2, 3),
        (
            Entry("NoRML", "maze"),
            _algorithm("MAML", "maze", "maml"),
            _untrained("maze", "maml"),
            _algorithm("MAML++ rates", "maze", "maml++"),
            _algorithm("Meta-SGD", "maze", "meta-sgd"),
            _algorithm("FOMAML", "maze", "fomaml"),
            _algorithm("RL², after so many episodes", "maze", "rl2"),
        ),
    ),
    "bandit-10x5": Setting(
        "five arms with unseen odds, ten pulls an episode",
        "reward of an episode",
        (0, 1, 2, 3),
        (
            _algorithm(
                "RL², no other episode", "bandit-10x5", "rl2", published={0: 6.7}, steps=(0,)
            ),
            Entry("MAML, ten episodes a step", "bandit-10x5"),
        ),
        "Duan et al. 2016, whose Gittins index has 6.6 and Thompson sampling 5.7",
        exact={"Bayes-optimal": 6.66},
    ),
    "tabular-mdp": Setting(
        "random MDPs of ten states and five actions, ten episodes of ten steps",
        "mean return of a trial's episodes so far",
        (0, 3, 6, 9),
        (
            Entry(
                "RL², after other episodes",
                "tabular-mdp",
                ("--algorithm", "rl2", "--updates", "5000", "--final-rate", "0.1"),
                {9: 15.62},
            ),
        ),
        "Duan et al. 2016, whose PSRL has 13.81 over ten episodes, and acting at random 10.01",
        exact={"each task known from the start": 21.81},
        measure=mean_so_far,
        unit="other episodes before",
    ),
    "maze-q": Setting(
        "the same mazes with time for 200 steps, by Q-learning",
        "return of the greedy episode",
        (0, 1, 3, 5, 10),
        (
            Entry("MAML++ rates", "maze-q"),
            _algorithm("MAML", "maze-q", "maml"),
            _algorithm("Meta-SGD", "maze-q", "meta-sgd"),
            _algorithm("Reptile", "maze-q", "reptile"),
            _untrained("maze-q", "maml"),
        ),
    ),
}
