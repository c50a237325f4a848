"""What is the most that an agent can expect that does not know its task? Exact values.

    python benchmarks/bayes.py

A Bayes-optimal agent weighs what it learns against what it earns: no learner's mean over the task
distribution can be higher, and one that measures higher has been selected for luck.

**Bernoulli bandits**, probabilities uniform in [0, 1]: dynamic programming over what is known of
the arms, the number of times that each paid and did not. Arms are alike before they are pulled, so
the order of the pulled ones does not matter, and of the others only whether there is one.

**The gridworld** whose goal is unseen: until the goal is found there is one thing to observe, no
reward, so a policy is a walk, the same for every goal until it steps on it. From then on the goal
is known and the optimum is the shortest path in every episode to come. The sum over goals is
therefore settled when each is first stepped on, and the belief is the set of squares searched.
Dynamic programming runs forward over (square, searched squares), step by step. A state is kept only
where an upper bound on what it can still reach clears a bar; the bar starts at the bound of the
first state, and where no walk clears it, it is lowered to the best that fell short. The first walk
that ends is optimal, for no bound was cut that is higher. All of it is in integers.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from fractions import Fraction
from pathlib import Path

import records
import tyro
from rich.console import Console
from rich.table import Table

Arms = tuple[tuple[int, int], ...]  # how often each pulled arm paid, and did not, sorted
Square = tuple[int, int]
Goals = frozenset[Square]  # those not searched yet
Gains = tuple[int, ...]  # of each episode
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
    """Every arm that differs from the others, after what is left without it."""
    choices = [(pulled, (0, 0))] if fresh else []
    for arm in dict.fromkeys(pulled):
        place = pulled.index(arm)
        choices.append((pulled[:place] + pulled[place + 1 :], arm))
    return choices


def gridworld_values(size: int = 5, horizon: int = 15, episodes: int = 4) -> list[Fraction]:
    """The Bayes-optimal expected return of each episode of a trial in `envs.Gridworld`."""
    goals = frozenset((i, j) for i in range(size) for j in range(size) if i > 1 or j > 1)
    # In tenths, summed over the goals: what stepping on one first in a given step of an episode
    # gains in that episode, 11 from then on, and what it gains in each later one, the goal known.
    found = [11 * (horizon + 1 - step) for step in range(horizon + 1)]
    known = {goal: found[sum(goal)] if sum(goal) <= horizon else 0 for goal in goals}

    def bound(square: Square, left: Goals, step: int, later: int) -> int:
        """No walk gains more: one goal a step, none before its square can be reached."""
        gain, time = later * sum(known[goal] for goal in left), step
        for distance in sorted(_distance(square, goal) for goal in left):
            time = max(time + 1, step + distance)
            gain += found[time] if time <= horizon else 0
        return gain

    def best_walk(bar: int) -> tuple[Gains | None, int]:
        """What the best walk that clears the bar gains; the highest bound that did not."""
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
    """Where one step leads on an open grid; staying is a step."""
    steps = ((0, 0), (-1, 0), (0, 1), (1, 0), (0, -1))
    targets = [(square[0] + down, square[1] + right) for down, right in steps]
    return [target for target in targets if min(target) >= 0 and max(target) < size]


@dataclasses.dataclass(frozen=True)
class Options:
    """Prints the exact Bayes-optimal values."""

    json: Path | None = None
    """Writes the figures there as well."""


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
    Console().print(table)
    if options.json:
        records.write(options.json, values)


if __name__ == "__main__":
    main()
