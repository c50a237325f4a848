"""Reinforcement learning by policy gradient: trajectories, advantages, surrogates."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..baselines import (
    BASELINES,
    Baseline,
    linear_features,
    linear_features_of_rows,
    mean_return,
)
from ..checks import require_environment, require_integer, require_network, require_number
from ..compiling import standalone
from ..distributions import for_action_space
from ..estimators import (
    SURROGATES,
    Surrogate,
    dice_surrogate,
    loaded_dice_surrogate,
    masked_mean,
    ratio_surrogate,
)
from ..lookups import Reading, lookup, playing_by
from ..networks import Network, initial_params
from ..recurrent import initial_carry
from ..returns import discounted_returns, generalised_advantages, normalise, paid_alike
from ..rollout import Episodes, rollout
from ..transitions import transition_features
from ..types import Divergence, Hyperparameter, Params, Problem, pytree_dataclass

__all__ = ["Trajectories", "policy_gradient"]

Array = jax.Array


@pytree_dataclass
class Trajectories:
    """B episodes of one task with their advantages, time-major; mask 0 after an episode's end."""

    observation: Array  # (T, B, ...) before the action
    action: Array  # (T, B, ...)
    reward: Array  # (T, B) float32
    mask: Array  # (T, B) float32, 1 where a step was taken
    advantage: Array  # (T, B) float32, 0 where no step was taken; γ^t r_t for the surrogate "dice"
    behaviour: Any  # (T, B, ...) parameters of the distributions that the actions were drawn from
    row: Array | None = None  # (T, B) int32, index of each one-hot observation; see `lookups`
    value: Array | None = None  # (T, B) that the critic gave
    target: Array | None = None  # (T, B) of the critic: its value plus the advantage as it was


def _choice(name: str, value: str | Callable[..., Any], choices: dict[str, Any]) -> Any:
    if callable(value):
        return value
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return choices[value]


def _itself(parameters: Any) -> Any:
    return parameters


def _scores_of_trials(env: Any, batch: Trajectories) -> Array:
    """The mean return of the first, second, ... episode of trials, (E,)."""
    episode = env.episode_of(batch.observation)
    each = jnp.arange(env.episodes, dtype=episode.dtype)[:, None, None]
    # Not a product, which an accelerator would round.
    of_episode = jnp.where(each == episode[None], batch.reward[None], 0.0)
    return jnp.sum(of_episode, axis=(1, 2)) / batch.mask.shape[1]


def policy_gradient(
    env: Any,
    network: Network,
    *,
    episodes: int,
    horizon: int | None = None,
    discount: float = 0.99,
    gae_lambda: float = 1.0,
    baseline: str | Baseline = "linear",
    normalise_advantage: bool = True,
    surrogate: str | Surrogate = "lvc",
    dice_lambda: float = 1.0,
    entropy: float = 0.0,
    value_weight: float = 0.5,
    sample_task: Callable[[Array], Any] | None = None,
) -> Problem:
    """Each inner step descends on the policy gradient of `episodes` fresh episodes.

    Args:
        env: an environment with tasks as data, see `envs.core.Environment`.
        network: a policy, `apply(params, observation, carry)`, such as `networks.mlp_policy`; it
            takes observations with any leading axes. With a memory, such as
            `recurrent.gru_policy`, it sees each episode in order.
        episodes: B, of each inner step and of the judging batch.
        horizon: T, the most steps of an episode; None for the environment's own. What would come
            after an episode's last step counts nothing, truncated or not: no value stands for it.
        discount: γ in [0, 1].
        gae_lambda: λ in [0, 1].
        baseline: "linear" (features of observation and time; where a batch has hardly more steps
            than twice an observation's values, it fits every return and leaves noise), "mean" (over
            two episodes or more), "none", "critic" (the network's own value, which both losses
            teach) or a function, see `baselines.Baseline`.
        normalise_advantage: whether advantages get zero mean and unit standard deviation over the
            task's steps. Otherwise a step shrinks as a task is solved, which several large inner
            steps need.
        surrogate: "lvc", "log_prob", "loaded_dice", "dice" or a function, see
            `estimators.Surrogate`. The loss is minus its mean over the steps taken. Where actions
            decide how many those are, its gradient is biased as a ratio of two means is, by a part
            of order 1/B: a single episode learns to be paid more a step. "dice" uses plain
            discounted rewards, without λ, baseline or normalisation.
        dice_lambda: λ of "loaded_dice" in [0, 1]: how far back actions are credited for where they
            led, in the second derivative.
        entropy: weight of the policy's entropy in the inner and outer losses.
        value_weight: weight of the critic's mean squared error in them, with the baseline "critic".
        sample_task: key -> task, instead of the environment's own; `train.sample` of an
            `envs.TaskSet` draws from a fixed set.

    Returns:
        The problem; its batches are `Trajectories`, and its score is the undiscounted return of an
        episode, the mean over a batch's; of a trial, that of all its episodes together.

    Raises:
        ValueError: a size or a rate out of range, an unknown name, a critic that the network does
            not have, or what is no environment, or no network for its observations.
        TypeError: an action space that is neither `Discrete` nor a `Box` of one axis.
    """
    require_environment(env, horizon)
    steps = env.max_horizon if horizon is None else horizon
    for name, value in (("episodes", episodes), ("horizon", steps)):
        require_integer(name, value, 1)
    remembers = hasattr(env, "episode_of")  # a trial, whose episodes are told apart
    if remembers and steps < env.max_horizon:
        raise ValueError(
            f"horizon: a trial is played to its end, {env.max_horizon} steps, got {steps}"
        )
    for name, value in (
        ("discount", discount),
        ("gae_lambda", gae_lambda),
        ("dice_lambda", dice_lambda),
    ):
        require_number(name, value, 0, 1)
    require_number("entropy", entropy, -math.inf)
    require_number("value_weight", value_weight)
    require_network(network)
    fit = _choice("baseline", baseline, {**BASELINES, "critic": None})
    if fit is mean_return and episodes == 1:
        raise ValueError("baseline: a mean over one episode leaves no advantage, use another")
    objective = _choice("surrogate", surrogate, SURROGATES)
    of_rewards = objective is dice_surrogate
    critic = fit is None and not of_rewards
    if critic and not getattr(network, "has_critic", True):
        raise ValueError("baseline: critic is for networks that have one, such as `gru_policy`")
    if objective is loaded_dice_surrogate:
        objective = partial(loaded_dice_surrogate, dice_lambda=dice_lambda)
    distribution = for_action_space(env.action_space)
    space = env.observation_space
    observed = lookup(network, space, env.action_space, critic)
    is_binary = space.dtype.kind in "bu" and np.all(space.low == 0) and np.all(space.high == 1)

    def init(key: Array) -> Params:
        return initial_params(network, key, space, initial_carry(network))

    playing = playing_by(observed, distribution)

    def collect(params: Params, task: Any, key: Array) -> Trajectories:
        played = rollout(
            env,
            observed.one,
            playing.distribution,
            playing.prepare(params),
            task,
            key,
            episodes=episodes,
            horizon=steps,
            carry=initial_carry(network),
            row=observed.row,
            critic=critic,
        )
        with jax.named_scope("advantage"):
            raw = advantages(played, discount, gae_lambda, played.value)
            advantage = scaled(raw, played)
        return Trajectories(
            observation=played.observation,
            action=played.action,
            reward=played.reward,
            mask=played.mask,
            advantage=advantage,
            behaviour=playing.parameters(played.parameters),
            row=played.row,
            value=played.value,
            target=None if played.value is None else raw + played.value,
        )

    def seen(batch: Episodes | Trajectories) -> Array:
        return observed.seen(batch.observation, batch.row)

    def advantages(
        played: Episodes | Trajectories,
        discount: float | Array,
        gae_lambda: float | Array,
        value: Any = None,
    ) -> Array:
        if of_rewards:
            discounts = discount ** jnp.arange(steps, dtype=played.reward.dtype)
            return discounts[:, None] * played.reward * played.mask
        if fit is not None:
            returns = discounted_returns(played.reward, played.mask, discount)
            if fit is linear_features and observed.row is not None:
                rows = space.shape[0]
                value = linear_features_of_rows(seen(played), rows, returns, played.mask)
            else:
                observation = played.observation.astype(bool) if is_binary else played.observation
                value = fit(observation, returns, played.mask)
        return generalised_advantages(played.reward, value, played.mask, discount, gae_lambda)

    def scaled(advantage: Array, played: Episodes | Trajectories) -> Array:
        if of_rewards or not normalise_advantage:
            return advantage
        scaled = normalise(advantage, played.mask)
        if critic:  # which knows more than this batch
            return scaled
        return jnp.where(paid_alike(played.reward, played.mask), 0.0, scaled)

    @jax.named_scope("advantage")
    def credit(
        batch: Trajectories,
        discount: float | Array = discount,
        gae_lambda: float | Array = gae_lambda,
    ) -> Array:
        return scaled(advantages(batch, discount, gae_lambda), batch)

    def policy(params: Params, batch: Trajectories) -> tuple[Reading, Array]:
        """The policy's outputs for every step, and log π of the actions taken, (T, B)."""
        reading = observed.read(params, seen(batch))
        if distribution.log_probs is None:
            return reading, distribution.log_prob(reading.each(_itself), batch.action)
        return reading, reading.taken(distribution.log_probs, batch.action)

    def loss_of(
        gain: Array, reading: Reading, batch: Trajectories, weight: float | Array = entropy
    ) -> tuple[Array, dict[str, Array]]:
        """Minus the mean gain per step, less the entropy, plus the critic's error, weighted."""
        mean_entropy = masked_mean(reading.each(distribution.entropy), batch.mask)
        value = -gain / jnp.maximum(jnp.sum(batch.mask), 1.0)
        if isinstance(weight, Array) or weight:
            value -= weight * mean_entropy
        metrics = {"entropy": mean_entropy}
        if reading.value is not None and batch.target is not None:
            error = masked_mean((reading.value - batch.target) ** 2, batch.mask)
            value += value_weight * error
            metrics["value_error"] = error
        return value, metrics

    def loss(
        params: Params, batch: Trajectories, **learned: Array
    ) -> tuple[Array, dict[str, Array]]:
        """`learned`: hyper-parameters that replace the given ones, and a bonus on advantages."""
        weight, bonus = learned.pop("entropy", entropy), learned.pop("bonus", None)
        advantage = credit(batch, **learned) if learned else batch.advantage
        if bonus is not None:
            advantage += bonus * batch.mask
        reading, log_prob = policy(params, batch)
        return loss_of(objective(log_prob, advantage, batch.mask), reading, batch, weight)

    def ratio_loss(
        params: Params, batch: Trajectories, clip: float | None = None
    ) -> tuple[Array, dict[str, Array]]:
        reading, log_prob = policy(params, batch)
        behaviour = distribution.log_prob(batch.behaviour, batch.action)
        gain = ratio_surrogate(log_prob, behaviour, batch.advantage, batch.mask, clip)
        return loss_of(gain, reading, batch)

    def transitions(batch: Trajectories) -> tuple[Array, Array]:
        action = batch.action
        if hasattr(env.action_space, "n"):
            action = jax.nn.one_hot(action, env.action_space.n, dtype=batch.mask.dtype)
        return transition_features(batch.observation, action, batch.reward, batch.mask)

    def from_behaviour(outputs: Any, batch: Trajectories) -> Array:
        now = observed.reading(outputs, seen(batch)).each(_itself)
        return masked_mean(distribution.divergence(batch.behaviour, now), batch.mask)

    return Problem(
        sample_task=standalone(sample_task or env.sample_task),
        init=standalone(init),
        collect=standalone(collect),
        inner_loss=loss,
        outer_loss=loss,
        score=lambda batch: jnp.sum(batch.reward) / episodes,
        scores=partial(_scores_of_trials, env) if remembers else None,
        samples=lambda batch: jnp.sum(batch.mask).astype(jnp.int32),
        log_prob=lambda params, batch: masked_mean(policy(params, batch)[1], batch.mask),
        hyper=(
            *([] if critic else [Hyperparameter("discount", discount, high=1.0)]),
            *([] if of_rewards or critic else [Hyperparameter("gae_lambda", gae_lambda, high=1.0)]),
            Hyperparameter("entropy", entropy),
        ),
        ratio_loss=None if of_rewards else ratio_loss,
        divergence=Divergence(
            lambda params, batch: observed.outputs(params, seen(batch)), from_behaviour
        ),
        transitions=None if of_rewards else transitions,
    )
