"""Reinforcement learning by Q-learning: ε-greedy episodes, n-step targets, squared errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..baselines import mean_return
from ..checks import require_environment, require_integer, require_network, require_number
from ..compiling import standalone
from ..distributions import epsilon_greedy
from ..estimators import masked_mean
from ..lookups import lookup, playing_by
from ..networks import Network, initial_params
from ..recurrent import initial_carry
from ..returns import discounted_returns, n_step_returns, normalise
from ..rollout import rollout
from ..types import Hyperparameter, Params, Problem, pytree_dataclass

__all__ = ["Transitions", "q_learning"]

Array = jax.Array


@pytree_dataclass
class Transitions:
    """n-step transitions of B episodes of one task, time-major; mask 0 after an episode's end."""

    observation: Array  # (T, B, ...) before the action
    action: Array  # (T, B) int32
    reward: Array  # (T, B) float32
    mask: Array  # (T, B) float32, 1 where a step was taken
    weight: Array  # (T, B) float32, how much its error counts
    n_step_return: Array  # (T, B) float32, Σ_{j<m} γ^j r_{t+j}
    discount: Array  # (T, B) float32, of the bootstrapped value: γ^m, 0 where the task terminated
    terminated: Array  # (B,) bool, whether the task itself ended the episode
    next_observation: Array  # (T, B, ...) after those m steps
    credit: Array  # (T, B) float32, advantage / probability of the action; 0 if greedy
    greedy: Array  # (T, B) float32, probability of the action if ε were 0
    row: Array | None = None  # (T, B) int32, index of each one-hot observation; see `lookups`
    next_row: Array | None = None  # (T, B) int32, likewise


@jax.custom_jvp
def _best(values: Array) -> Array:
    return jnp.max(values, axis=-1)


@_best.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # The derivative of `max` asks which values equal it. Where each side of that question rounds
    # on its own, as in kernels that compute them again, none does: 0 / 0.
    (values,), (tangent,) = primals, tangents
    first = jax.nn.one_hot(jnp.argmax(values, axis=-1), values.shape[-1], dtype=tangent.dtype)
    return _best(values), jnp.sum(first * tangent, axis=-1)


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
    mean_over: str = "steps",
    judging_epsilon: float | None = None,
    outer: str = "td",
    temperature: float = 1.0,
    sample_task: Callable[[Array], Any] | None = None,
) -> Problem:
    """Each inner step descends on the temporal-difference errors of Q in ε-greedy episodes.

        L(θ) = mean of ½ (Q_θ(s_t, a_t) − sg[Σ_{j<m} γ^j r_{t+j} + γ^m max_a Q_θ(s_{t+m}, a)])²

    Watkins 1989; the n-step form is that of Mnih et al. 2016 (arXiv 1602.01783), section 4, without
    correction for exploratory actions within the n steps. Truncated episodes bootstrap, as the
    value looks past the horizon; terminated ones do not.

    Targets are computed from the current parameters, held constant (sg): each inner step is
    semi-gradient Q-learning. From step to step targets move with the parameters that made them, and
    the meta-gradient includes this: a value learned at one step is the next one's target.

    The last `greedy_episodes` of a batch are played without exploration. They are learned from like
    the others, as Q-learning is off-policy; the score is their mean return.

    Args:
        env: an environment with discrete actions and tasks as data, see `envs.core.Environment`.
        network: values of all actions, `apply(params, observation, ()) -> (values, _, _)`, such as
            `networks.mlp_policy`; it takes observations with any leading axes.
        episodes: B, of each inner step and of the judging batch.
        greedy_episodes: how many of them are greedy, from 1 to B.
        horizon: T, the most steps of an episode; None for the environment's own.
        discount: γ in [0, 1].
        n_step: n, at least 1; from T on the target is the whole return, bootstrapped only where the
            horizon cut an episode off.
        epsilon: ε in [0, 1], the probability of a random action in the other episodes.
        huber: the error beyond which the loss is linear; None: squared everywhere.
        mean_over: what the loss averages over: "steps", or "pairs" of a one-hot observation and an
            action, each counting by the mean over its visits, or 0 if it had none. With pairs one
            rate suits states visited often and seldom, and a rate of O · A moves a table's visited
            values to their mean targets (fitted Q iteration, Ernst et al. 2005).
        judging_epsilon: ε of separate judging batches; all K inner steps then descend on the one
            batch that the initial parameters collected. None: each step collects its own episodes,
            and the batch after the last step judges.
        outer: the outer loss: "td", as inside, or "policy", −mean of π(a|s) / μ(a|s) A, where π is
            the softmax of the values over τ and A are the advantages of the exploring episodes,
            played by μ, normalised over all episodes, and 0 in greedy ones, whose steps count in
            the mean (off-policy policy gradient, Degris et al. 2012). Errors are small where
            returns are easy to predict, not where they are high; meta-learned for "td", values
            adapt to predict rather than to gain more.
        temperature: τ of "policy", above 0.
        sample_task: key -> task, instead of the environment's own.

    Returns:
        The problem; its batches are `Transitions`.

    Raises:
        TypeError: an action space that is neither `Discrete` nor a `Box` of one axis.
        ValueError: actions that are not discrete, a size or a rate out of range, an unknown name,
            "policy" without exploring episodes, or "pairs" without one-hot observations.
    """
    require_environment(env, horizon)
    if not hasattr(env.action_space, "n"):
        raise ValueError(f"action space: Q-learning expects Discrete, got {env.action_space!r}")
    steps = env.max_horizon if horizon is None else horizon
    for name, value in (("episodes", episodes), ("horizon", steps), ("n_step", n_step)):
        require_integer(name, value, 1)
    require_integer("greedy_episodes", greedy_episodes, 1, episodes)
    judged_at = epsilon if judging_epsilon is None else judging_epsilon
    rates = (("discount", discount), ("epsilon", epsilon), ("judging_epsilon", judged_at))
    for name, value in rates:
        require_number(name, value, 0, 1)
    if huber is not None:
        require_number("huber", huber, above=True)
    require_number("temperature", temperature, above=True)
    require_network(network)
    if outer not in ("td", "policy"):
        raise ValueError(f"outer: expected one of td, policy, got {outer!r}")
    if outer == "policy" and greedy_episodes == episodes:
        raise ValueError(f"greedy_episodes: expected below {episodes} for outer 'policy', got all")
    if mean_over not in ("steps", "pairs"):
        raise ValueError(f"mean_over: expected one of steps, pairs, got {mean_over!r}")
    if jax.tree.leaves(initial_carry(network)):
        raise ValueError("network: expected none with a memory, which Q-learning does not train")
    exploring = jnp.arange(episodes) < episodes - greedy_episodes
    space = env.observation_space
    observed = lookup(network, space, env.action_space)
    if mean_over == "pairs" and observed.row is None:
        raise ValueError(f"mean_over: pairs are of one-hot observations, got {space!r}")

    def init(key: Array) -> Params:
        return initial_params(network, key, space, ())

    def collect(
        params: Params, task: Any, key: Array, epsilon: float | Array = epsilon
    ) -> Transitions:
        chances = jnp.where(exploring, jnp.asarray(epsilon, jnp.float32), 0.0)
        playing = playing_by(observed, epsilon_greedy(chances))
        played = rollout(
            env,
            observed.one,
            playing.distribution,
            playing.prepare(params),
            task,
            key,
            episodes=episodes,
            horizon=steps,
            row=observed.row,
        )
        terminated = jnp.any(played.terminated, axis=0)
        paid, following, end = n_step_returns(
            played.reward, terminated, played.mask, discount, n_step
        )

        def after(steps: Any, last: Any) -> Array:
            return jnp.concatenate([steps, last[None]])[end, jnp.arange(episodes)[None]]

        returns = discounted_returns(played.reward, played.mask, discount)
        baseline = mean_return(played.observation, returns, played.mask)
        # Equal returns differ by rounding, which normalisation would turn into credit.
        difference, size = returns - baseline, jnp.max(jnp.abs(returns), axis=1, keepdims=True)
        difference = jnp.where(jnp.abs(difference) > 1e-5 * size, difference, 0.0)
        advantage = normalise(difference, played.mask)
        of_greedy = epsilon_greedy(jnp.zeros_like(chances)[None])
        greedy = jnp.exp(of_greedy.log_prob(playing.parameters(played.parameters), played.action))
        credit = jnp.where(exploring[None], advantage / chance(greedy, chances[None]), 0.0)
        return Transitions(
            played.observation,
            played.action,
            played.reward,
            played.mask,
            weight(played.row, played.action, played.mask),
            paid,
            following,
            terminated,
            after(played.observation, played.last_observation),
            credit,
            greedy,
            played.row,
            None if played.row is None else after(played.row, played.last_row),
        )

    def judged(params: Params, task: Any, key: Array) -> Transitions:
        return collect(params, task, key, judged_at)

    def weight(row: Array | None, action: Array, mask: Array) -> Array:
        """With these the weighted sum of the errors is their mean, over steps or over pairs."""
        if mean_over == "steps" or row is None:
            return mask / jnp.maximum(jnp.sum(mask), 1.0)
        pairs = space.shape[0] * env.action_space.n
        pair = row * env.action_space.n + action
        visits = jnp.zeros((pairs,), mask.dtype).at[pair].add(mask)
        return mask / jnp.maximum(visits[pair], 1.0) / pairs

    def chance(greedy: Array, epsilon: Array) -> Array:
        """Probability of an action under ε, from its greedy probability."""
        return (1 - epsilon) * greedy + epsilon / env.action_space.n

    def exploring_log_prob(batch: Transitions, epsilon: Array) -> Array:
        """A function of ε alone: in the parameters it is piecewise constant."""
        each = jnp.log(chance(batch.greedy, epsilon))
        return masked_mean(each, batch.mask * exploring[None].astype(each.dtype))

    def seen(batch: Transitions) -> Array:
        return observed.seen(batch.observation, batch.row)

    def following_seen(batch: Transitions) -> Array:
        return observed.seen(batch.next_observation, batch.next_row)

    def softmax(values: Array) -> Array:
        return jax.nn.softmax(values / temperature)

    def td_loss(
        params: Params,
        batch: Transitions,
        discount: Array | None = None,
        target: Params | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """`discount`, meta-learned, and `target` replace the given discount and `params`."""
        target = jax.lax.stop_gradient(params) if target is None else target
        paid, power = batch.n_step_return, batch.discount
        if discount is not None:
            paid, power, _ = n_step_returns(
                batch.reward, batch.terminated, batch.mask, discount, n_step
            )
        following = observed.read(target, following_seen(batch)).each(_best)
        values = observed.read(params, seen(batch)).taken(lambda each: each, batch.action)
        error = values - (paid + power * following)
        each = 0.5 * error**2 if huber is None else optax.losses.huber_loss(error, delta=huber)
        td_error = masked_mean(jnp.abs(error), batch.mask)
        return jnp.sum(each * batch.weight), {"td_error": td_error}

    def policy_loss(params: Params, batch: Transitions) -> tuple[Array, dict[str, Array]]:
        policy = observed.read(params, seen(batch)).taken(softmax, batch.action)
        return -masked_mean(policy * batch.credit, batch.mask), {}

    return Problem(
        sample_task=standalone(sample_task or env.sample_task),
        init=standalone(init),
        collect=standalone(collect),
        inner_loss=td_loss,
        outer_loss=td_loss if outer == "td" else policy_loss,
        score=lambda batch: jnp.sum(batch.reward[:, -greedy_episodes:]) / greedy_episodes,
        query=None if judging_epsilon is None else standalone(judged),
        samples=lambda batch: jnp.sum(batch.mask).astype(jnp.int32),
        bootstraps=True,
        hyper=(
            Hyperparameter("discount", discount, high=1.0),
            Hyperparameter("epsilon", epsilon, high=1.0, log_prob=exploring_log_prob),
        ),
    )
