"""The exact Bayes-optimal values: the published ones, and those of every policy there is."""

import itertools

import bayes
import numpy as np
import pytest


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("pulls", "arms", "value"), [(10, 5, 6.6600), (10, 10, 6.7140), (10, 50, 6.7140)]
)
def test_bandits_have_the_known_value(pulls, arms, value):
    assert float(bayes.bandit_value(pulls, arms)) == pytest.approx(value, abs=5e-5)


@pytest.mark.smoke
def test_the_gridworld_has_the_known_value_in_each_episode():
    values = list(map(float, bayes.gridworld_values()))
    np.testing.assert_allclose(values, [4.0, 11.071, 11.071, 11.071], atol=5e-4)
    assert sum(values) == pytest.approx(37.214, abs=5e-4)


def test_two_arms_are_worth_what_plain_recursion_over_all_beliefs_says():
    def value(left, beliefs):  # of each arm (paid + 1, unpaid + 1)
        if left == 0:
            return 0.0
        worth = []
        for arm, (paid, unpaid) in enumerate(beliefs):
            chance = paid / (paid + unpaid)
            after = [(*beliefs[:arm], belief, *beliefs[arm + 1 :])
                     for belief in ((paid + 1, unpaid), (paid, unpaid + 1))]  # fmt: skip
            worth.append(
                chance * (1 + value(left - 1, after[0])) + (1 - chance) * value(left - 1, after[1])
            )
        return max(worth)

    assert float(bayes.bandit_value(5, 2)) == pytest.approx(value(5, [(1, 1)] * 2), abs=1e-12)


def _return_of(walk, goal, size, horizon, episodes):
    """Of a walk until it finds the goal, and of the best that can be done from then on."""
    total, found = 0.0, False
    for episode in range(episodes):
        square = (0, 0)
        for step in range(horizon):
            if found:  # along a shortest path, and stays
                at_goal = step + 1 >= sum(goal) or square == goal
            else:
                down, right = walk[episode * horizon + step]
                target = (square[0] + down, square[1] + right)
                square = target if min(target) >= 0 and max(target) < size else square
                at_goal = found = square == goal
            total += 1.0 if at_goal else -0.1
    return total


@pytest.mark.parametrize(("size", "horizon", "episodes"), [(3, 5, 1), (3, 3, 2), (3, 2, 3)])
def test_small_gridworlds_are_worth_as_much_as_the_best_of_all_walks(size, horizon, episodes):
    goals = [(i, j) for i in range(size) for j in range(size) if i > 1 or j > 1]
    moves = [(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)]
    best = max(
        np.mean([_return_of(walk, goal, size, horizon, episodes) for goal in goals])
        for walk in itertools.product(moves, repeat=horizon * episodes)
    )
    assert sum(bayes.gridworld_values(size, horizon, episodes)) == pytest.approx(best)
