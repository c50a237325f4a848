"""A decision process so small that every trajectory is listed: expectations are sums.

Two states and an end, that actions of `DIMENSIONS` coins lead to by chance; three steps.
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import metajax as mj
from metajax.returns import generalised_advantages

STATES, HORIZON, END = 2, 3, 2


class Listing(NamedTuple):
    """All M trajectories, time-major; after the end, mask 0."""

    state: jax.Array  # (T, M)
    action: jax.Array  # (T, M, D) of 0 and 1
    reward: jax.Array  # (T, M)
    mask: jax.Array  # (T, M)
    chance: jax.Array  # (M,) what the environment contributes to the probability


def listing(dimensions: int) -> Listing:
    random = np.random.default_rng(dimensions)
    actions = list(itertools.product((0, 1), repeat=dimensions))
    transition = random.dirichlet(np.ones(3), size=(STATES, len(actions)))  # to 0, 1 or the end
    reward = random.normal(size=(STATES, len(actions), 3))
    rows = []

    def extend(state, steps, chance):
        if state == END or len(steps) == HORIZON:
            padding = [(0, actions[0], 0.0, 0.0)] * (HORIZON - len(steps))
            rows.append((steps + padding, chance))
            return
        for (a, action), then in itertools.product(enumerate(actions), range(3)):
            now = (state, action, reward[state, a, then], 1.0)
            extend(then, [*steps, now], chance * transition[state, a, then])

    extend(0, [], 1.0)
    columns = [
        jnp.asarray(np.stack([[step[i] for step in steps] for steps, _ in rows], axis=1))
        for i in range(4)
    ]
    return Listing(*columns, jnp.asarray([chance for _, chance in rows]))


def log_probs(theta, episodes: Listing):
    """log π(a_t|s_t), (T, M): a SUM over the coins of an action. θ is (S, D, 2) logits."""
    of_coin = jax.nn.log_softmax(theta)[episodes.state]
    return jnp.sum(jnp.take_along_axis(of_coin, episodes.action[..., None], -1), (-2, -1))


def probability(theta, episodes: Listing):
    """p_θ of every trajectory, (M,)."""
    return episodes.chance * jnp.exp(jnp.sum(log_probs(theta, episodes) * episodes.mask, 0))


def objective(theta, episodes: Listing):
    """J(θ), the expected return."""
    return jnp.sum(probability(theta, episodes) * jnp.sum(episodes.reward, 0))


def advantages(episodes: Listing):
    """Returns to go, less an arbitrary baseline of state and time: (T, M)."""
    baseline = np.random.default_rng(9).normal(size=(HORIZON, STATES))
    value = jnp.asarray(baseline)[jnp.arange(HORIZON)[:, None], episodes.state]
    return generalised_advantages(episodes.reward, value, episodes.mask, 1.0, 1.0)


def credit(name: str, episodes: Listing):
    return episodes.reward if name == "dice" else advantages(episodes)


def expected_surrogate(surrogate, theta, weight, credit, episodes: Listing):
    """The surrogate of θ, expected over trajectories of such `weight` (M,): linear in credit."""
    return surrogate(log_probs(theta, episodes), credit * weight[None], episodes.mask)


def problem(name: str, surrogate, episodes: Listing) -> mj.Problem:
    """Its batches weigh all trajectories, by p_θ: what is adapted to is an expectation."""
    given = credit(name, episodes)

    def loss(theta, batch):
        return -expected_surrogate(surrogate, theta, batch["weight"], given, episodes), {}

    def log_prob(theta, batch):
        of_trajectory = jnp.sum(log_probs(theta, episodes) * episodes.mask, 0)
        return jnp.sum(batch["weight"] * of_trajectory)

    return mj.Problem(
        sample_task=lambda key: (),
        init=partial(jax.random.normal, shape=(STATES, episodes.action.shape[-1], 2)),
        collect=lambda theta, task, key: {"weight": probability(theta, episodes)},
        inner_loss=loss,
        outer_loss=loss,
        score=lambda batch: jnp.sum(batch["weight"] * jnp.sum(episodes.reward, 0)),
        log_prob=log_prob,
    )
