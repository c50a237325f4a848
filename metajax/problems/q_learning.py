"""Reinforcement learning by Q-learning: ε-greedy episodes, n-step targets, squared errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..distributions import epsilon_greedy
from ..estimators import masked_mean
from ..networks import Network
from ..returns import n_step_returns
from ..rollout import rollout
from ..types import Params, Problem, pytree_dataclass

__all__ = ["Transitions", "q_learning"]

Array = jax.Array


@pytree_dataclass
class Transitions:
    """n-step transitions of B episodes of one task, time-major; mask 0 after an episode's end."""

    observation: Array  # (T, B, ...) before the action
    action: Array  # (T, B) int32
    reward: Array  # (T, B) float32
    mask: Array  # (T, B) float32, 1 where a step was taken
    n_step_return: Array  # (T, B) float32, Σ_{j<m} γ^j r_{t+j}
    discount: Array  # (T, B) float32, of the value that follows: γ^m, 0 where the task terminated
    next_observation: Array  # (T, B, ...) after those m steps


def q_learning(
    env: Any,
    network: Network,
    *,
    episodes: int,
    greedy_episodes: int = 1,
    horizon: int | None = None,
    discount: float = 0.99,
    n_step: int = 1,
    epsilon: float = 0.2,
    huber: float | None = None,
    fresh: bool = True,
    sample_task: Callable[[Array], Any] | None = None,
) -> Problem:
    """Each inner step descends on the temporal-difference errors of Q over ε-greedy episodes.

        L(θ) = mean of ½ (Q_θ(s_t, a_t) − sg[Σ_{j<m} γ^j r_{t+j} + γ^m max_a Q_θ(s_{t+m}, a)])²

    Watkins 1989; the n-step form is that of Mnih et al. 2016 (arXiv 1602.01783), section 4, without
    correction for the exploring actions within the n steps. Truncation bootstraps, for the value
    looks past the horizon; termination does not.

    The target parameters are the current ones, held constant (sg): semi-gradient Q-learning, step
    for step. Its derivative, which second-order meta-learners take, is that of regression on
    constant targets: how the initial parameters reach an inner step's targets is left out, and less
    is, the longer n. (The derivative of a semi-gradient is not symmetric where its targets move, so
    that the engine's forward-mode product would not be its transpose.)

    The last `greedy_episodes` of a batch are played without exploration. They teach as the others
    do, for Q-learning is off-policy; the score is their mean return.

    Args:
        env: an environment with discrete actions and tasks as data, see `envs.core.Environment`.
        network: values of all actions, `apply(params, observation, ()) -> (values, _, _)`, such as
            `networks.mlp_policy`; it takes observations with any leading axes.
        episodes: B, of each inner step and of the judging batch.
        greedy_episodes: how many of them are greedy, from 1 to B.
        horizon: T, the most steps of an episode; the environment's own where None.
        discount: γ in [0, 1].
        n_step: n, at least 1; T or more makes the target the whole return, with nothing
            bootstrapped but what a horizon cut off.
        epsilon: ε in [0, 1], the chance of a random action in the other episodes.
        huber: the error from which on the loss is linear; None: squared everywhere.
        fresh: whether each inner step collects its own episodes. Otherwise all K steps descend on
            those that the first parameters collected, with targets of the current ones.
        sample_task: key -> task, in the place of the environment's own.

    Raises:
        ValueError: actions that are not discrete, or a size or a rate out of range.
    """
    if not hasattr(env.action_space, "n"):
        raise ValueError(f"action space: Q-learning expects Discrete, got {env.action_space!r}")
    steps = env.max_horizon if horizon is None else horizon
    for name, value in (("episodes", episodes), ("horizon", steps), ("n_step", n_step)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not 1 <= greedy_episodes <= episodes:
        raise ValueError(f"greedy_episodes: expected 1 to {episodes}, got {greedy_episodes}")
    for name, value in (("discount", discount), ("epsilon", epsilon)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected 0 to 1, got {value}")
    if huber is not None and huber <= 0:
        raise ValueError(f"huber: expected above 0, got {huber}")
    exploring = jnp.arange(episodes) < episodes - greedy_episodes
    behaviour = epsilon_greedy(jnp.where(exploring, jnp.float32(epsilon), 0.0))
    space = env.observation_space

    def init(key: Array) -> Params:
        return network.init(key, jnp.zeros(space.shape, space.dtype), ())

    def collect(params: Params, task: Any, key: Array) -> Transitions:
        played = rollout(
            env, network.apply, behaviour, params, task, key, episodes=episodes, horizon=steps
        )
        paid, following, end = n_step_returns(
            played.reward, played.terminated, played.mask, discount, n_step
        )
        states = jnp.concatenate([played.observation, played.last_observation[None]])
        after = states[end, jnp.arange(episodes)[None]]
        return Transitions(
            played.observation, played.action, played.reward, played.mask, paid, following, after
        )

    def action_values(params: Params, observation: Array) -> Array:
        flat = observation.reshape(-1, *space.shape)
        return network.apply(params, flat, ())[0].reshape(*observation.shape[:2], -1)

    def loss(params: Params, batch: Transitions) -> tuple[Array, dict[str, Array]]:
        following = action_values(jax.lax.stop_gradient(params), batch.next_observation)
        target = batch.n_step_return + batch.discount * jnp.max(following, axis=-1)
        values = action_values(params, batch.observation)
        # A masked sum rather than a gather: its transpose is a product, not a scatter.
        taken = jax.nn.one_hot(batch.action, values.shape[-1], dtype=bool)
        error = jnp.sum(jnp.where(taken, values, 0.0), axis=-1) - target
        each = 0.5 * error**2 if huber is None else optax.losses.huber_loss(error, delta=huber)
        return masked_mean(each, batch.mask), {
            "td_error": masked_mean(jnp.abs(error), batch.mask),
        }

    return Problem(
        sample_task=sample_task or env.sample_task,
        init=init,
        collect=collect,
        inner_loss=loss,
        outer_loss=loss,
        score=lambda batch: jnp.sum(batch.reward[:, -greedy_episodes:]) / greedy_episodes,
        query=None if fresh else collect,
        samples=lambda batch: jnp.sum(batch.mask).astype(jnp.int32),
    )
