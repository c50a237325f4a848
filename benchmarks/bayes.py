"""What is the best return an agent that does not know its task can expect? Exact values.

    python benchmarks/bayes.py

A Bayes-optimal agent trades exploration off against reward: no learner's expected return over the
task distribution can be higher, and one that measures higher has been selected for luck.

**Bernoulli bandits**, probabilities uniform in [0, 1]: dynamic programming over what is known of
the arms, how many times each paid and did not. Arms are alike before they are pulled, so the order
of the pulled ones does not matter, and of the others only whether one is left.

**The gridworld** with an unseen goal: until the goal is found, the only observation is that there
is no reward, so a policy is a walk that is the same for every goal until it steps on it. From then
on the goal is known, and the optimum is the shortest path in every later episode. What a goal adds
to the sum over goals is therefore settled when it is first stepped on, and the belief is the set of
squares searched. Dynamic programming runs forward over (square, searched squares), step by step. A
state is kept only if an upper bound on its total clears a bar. The bar starts at the bound of the
first state; if no walk clears it, it is lowered to the highest bound that fell short. The first
walk to reach the end is optimal, as no state with a higher bound was dropped. All arithmetic is in
integers.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from fractions import Fraction
from pathlib import Path

import tyro
from rich.table import Table

from support import records, screen

Arms = tuple[tuple[int, int], ...]  # how often each pulled arm paid, and did not, sorted
Square = tuple[int, int]
Goals = frozenset[Square]  # the squares not searched yet
Gains = tuple[int, ...]  # one for each episode
States = dict[tuple[Square, Goals], Gains]

_START = (0, 0)


def bandit_value(pulls: int, arms: int) -> Fraction:
    """The greatest expected total of `pulls` pulls of `arms` unknown arms."""

    @functools.cache
    def value(left: int, pulled: Arms) -> Fraction:
        if left == 0:
            return Fraction(0)
        return max(
            pull(left - 1, rest, paid, unpaid)
            for rest, (paid, unpaid) in _choices(pulled, fresh=len(pulled) < arms)
        )

    def pull(left: int, rest: Arms, paid: int, unpaid: int) -> Fraction:
        chance = Fraction(paid + 1, paid + unpaid + 2)
        after = [tuple(sorted((*rest, arm))) for arm in ((paid + 1, unpaid), (paid, unpaid + 1))]
        return chance * (1 + value(left, after[0])) + (1 - chance) * value(left, after[1])

    return value(pulls, ())


def _choices(pulled: Arms, fresh: bool) -> list[tuple[Arms, tuple[int, int]]]:
    """Every distinct arm, as the second of a pair; the first is the pulled arms without it."""
    choices = [(pulled, (0, 0))] if fresh else []
    for arm in dict.fromkeys(pulled):
        place = pulled.index(arm)
        choices.append((pulled[:place] + pulled[place + 1 :], arm))
    return choices


def gridworld_values(size: int = 5, horizon: int = 15, episodes: int = 4) -> list[Fraction]:
    """The Bayes-optimal expected return of each episode of a trial in `envs.Gridworld`."""
    goals = frozenset((i, j) for i in range(size) for j in range(size) if i > 1 or j > 1)
    # Gains over never finding the goal, in tenths. `found`: first stepping on it in a given step of
    # an episode gains 11 for each step of that episode from then on. `known`: what each goal, once
    # known, gains in every later episode.
    found = [11 * (horizon + 1 - step) for step in range(horizon + 1)]
    known = {goal: found[sum(goal)] if sum(goal) <= horizon else 0 for goal in goals}

    def bound(square: Square, left: Goals, step: int, later: int) -> int:
        """An upper bound on the gain: at most one goal a step, none before it can be reached."""
        gain, time = later * sum(known[goal] for goal in left), step
        for distance in sorted(_distance(square, goal) for goal in left):
            time = max(time + 1, step + distance)
            gain += found[time] if time <= horizon else 0
        return gain

    def best_walk(bar: int) -> tuple[Gains | None, int]:
        """The gains of the best walk that clears the bar, and the highest bound that did not."""
        states: States = {(_START, goals): (0,) * episodes}
        missed = 0
        for episode, step in itertools.product(range(episodes), range(1, horizon + 1)):
            reached: States = {}
            for (square, left), gains in states.items():
                for target in _neighbours(square if step > 1 else _START, size):
                    after = gains
                    if target in left:
                        pays = (0,) * episode + (found[step],) + (known[target],) * episodes
                        after = tuple(map(sum, zip(gains, pays, strict=False)))
                    state = target, left - {target}
                    if state not in reached or sum(after) > sum(reached[state]):
                        reached[state] = after
            states = {}
            for (square, left), gains in reached.items():
                most = sum(gains) + bound(square, left, step, episodes - 1 - episode)
                if most >= bar:
                    states[square, left] = gains
                else:
                    missed = max(missed, most)
        return max(states.values(), key=sum, default=None), missed

    bar, gains = bound(_START, goals, 0, episodes - 1), None
    while gains is None:
        gains, bar = best_walk(bar)
    unfound = -horizon * len(goals)
    return [Fraction(unfound + gain, 10 * len(goals)) for gain in gains]


def _distance(square: Square, other: Square) -> int:
    return abs(square[0] - other[0]) + abs(square[1] - other[1])


def _neighbours(square: Square, size: int) -> list[Square]:
    """The squares that one step leads to on an open grid, staying included."""
    steps = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))
    targets = [(square[0] + down, square[1] + right) for down, right in steps]
    return [target for target in targets if min(target) >= 0 and max(target) < size]


@dataclasses.dataclass(frozen=True)
class Options:
    """Prints the exact Bayes-optimal values."""

    json: Path | None = None
    """Also writes the figures to this JSON file."""


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    table = Table("task distribution", "total", "by episode", title="Bayes-optimal, exact")
    values: dict[str, list[float]] = {}
    for pulls, arms in ((10, 5), (10, 10), (10, 50)):
        values[f"bandit, {pulls} pulls of {arms} arms"] = [float(bandit_value(pulls, arms))]
    values["gridworld 5 x 5, 4 times 15 steps"] = list(map(float, gridworld_values()))
    for what, parts in values.items():
        table.add_row(what, f"{sum(parts):.4f}", " ".join(f"{part:.4f}" for part in parts))
    screen.show(table)
    if options.json:
        records.write(options.json, values)


if __name__ == "__main__":
    main()
