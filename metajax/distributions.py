"""Action distributions as pure functions of their parameters.

Every function takes the parameters of one or many distributions (any leading axes); the joint
log-probability over action dimensions is a SUM, never a mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .checks import require_actions

__all__ = [
    "Distribution",
    "categorical",
    "diagonal_gaussian",
    "epsilon_greedy",
    "for_action_space",
    "of_action",
]

Array = jax.Array


class Distribution(NamedTuple):
    """Functions of the distribution parameters that a policy network returns.

    A draw has two parts: noise, which does not depend on the parameters and so may be drawn for
    many steps at once, and the function of noise and parameters that gives the action.
    """

    noise: Callable[[Array, tuple[int, ...]], Array]  # key, shape of the actions -> noise
    draw: Callable[[Array, Any], Array]  # noise, parameters -> action
    log_prob: Callable[[Any, Array], Array]  # parameters, action -> (...)
    entropy: Callable[[Any], Array]  # parameters -> (...)
    mode: Callable[[Any], Array]  # parameters -> action
    divergence: Callable[[Any, Any], Array]  # parameters of p and of q -> KL(p ‖ q), (...)
    # parameters -> log-probabilities of all actions, (..., A); None where there is no such table
    log_probs: Callable[[Any], Array] | None = None
    # `draw` in two steps: parameters -> shares, (..., A), which need no noise, so that they can be
    # computed once for a whole table; and noise, shares -> action. None where it is not split.
    shares: Callable[[Any], Array] | None = None
    draw_from: Callable[[Array, Array], Array] | None = None

    def sample(self, key: Array, parameters: Any) -> Array:
        """An action from each of the distributions."""
        shape = jax.eval_shape(self.mode, parameters).shape
        return self.draw(self.noise(key, shape), parameters)


def _shares_categorical(logits: Array) -> Array:
    """Where each category ends in the unit interval, (..., A); one of probability 0 does not.

    Sums round, each in its own way: the greatest end is made 1, and a category of probability 0
    gets -1, so that no number is below its end.
    """
    probabilities = jax.nn.softmax(logits)
    ends = jnp.where(probabilities > 0, jnp.cumsum(probabilities, axis=-1), -1.0)
    return ends / jnp.max(ends, axis=-1, keepdims=True)


def _draw_categorical(uniform: Array, shares: Array) -> Array:
    """Inverse transform: one uniform number per action instead of one per category.

    The first category whose end is above the number.
    """
    # In the wider of the two types: a number below 1 must not be rounded to 1.
    wide = max(uniform.dtype, shares.dtype, key=lambda dtype: dtype.itemsize)
    beyond = uniform.astype(wide)[..., None] < shares.astype(wide)
    place = jax.lax.broadcasted_iota(jnp.int32, shares.shape, shares.ndim - 1)
    last = shares.shape[-1] - 1
    return jnp.min(jnp.where(beyond, place, last), axis=-1)


def of_action(values: Array, action: Array) -> Array:
    """The values of the actions (...), from those of all actions, (..., A)."""
    # A masked sum rather than a gather: its transpose is a product, not a scatter.
    chosen = jax.nn.one_hot(action, values.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=-1)


def _log_prob_categorical(logits: Array, action: Array) -> Array:
    return of_action(jax.nn.log_softmax(logits), action)


def _entropy_categorical(logits: Array) -> Array:
    log_probs = jax.nn.log_softmax(logits)
    # Actions of probability 0 add nothing; 0 times -inf is no number, nor is its derivative.
    finite = jnp.where(log_probs > -jnp.inf, log_probs, 0.0)
    return -jnp.sum(jnp.exp(log_probs) * finite, axis=-1)


def _divergence_categorical(logits: Array, other: Array) -> Array:
    log_probs, others = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    # Actions of probability 0 add nothing, however improbable under the other.
    difference = jnp.where(log_probs > -jnp.inf, log_probs - others, 0.0)
    return jnp.sum(jnp.exp(log_probs) * difference, axis=-1)


categorical = Distribution(
    noise=jax.random.uniform,
    draw=lambda noise, logits: _draw_categorical(noise, _shares_categorical(logits)),
    log_prob=_log_prob_categorical,
    entropy=_entropy_categorical,
    mode=lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.int32),
    divergence=_divergence_categorical,
    log_probs=jax.nn.log_softmax,
    shares=_shares_categorical,
    draw_from=_draw_categorical,
)
"""Over the integers 0..A-1; the parameters are logits (..., A)."""


def epsilon_greedy(epsilon: Array) -> Distribution:
    """Over the integers 0..A-1, whose values (..., A) are the parameters.

    With probability ε a uniformly random action, otherwise the best one, ties broken uniformly. ε
    broadcasts to the values' leading axes, so that each episode of a batch may have its own.
    """

    def best(values: Array) -> Array:
        # The first of the best by its place: compared with a maximum that was rounded apart, it
        # might not be among them.
        first = jax.nn.one_hot(jnp.argmax(values, axis=-1), values.shape[-1], dtype=bool)
        each = first | (values == jnp.max(values, axis=-1, keepdims=True))
        return each.astype(values.dtype)

    def probabilities(values: Array) -> Array:
        chance, each = epsilon[..., None].astype(values.dtype), best(values)
        greedy = each / jnp.sum(each, axis=-1, keepdims=True)
        return (1 - chance) * greedy + chance / values.shape[-1]

    def shares(values: Array) -> Array:
        # Of whole numbers: what is not among the best ends where the one before it does.
        counts = jnp.cumsum(best(values), axis=-1)
        return counts / counts[..., -1:]

    def draw_from(noise: Array, shares: Array) -> Array:
        chance, number = epsilon[..., None].astype(shares.dtype), shares.shape[-1]
        place = jax.lax.broadcasted_iota(shares.dtype, shares.shape, shares.ndim - 1)
        return _draw_categorical(noise, (1 - chance) * shares + chance * ((place + 1) / number))

    def logits(values: Array) -> Array:
        return jnp.log(probabilities(values))

    def entropy(values: Array) -> Array:
        each = probabilities(values)
        return -jnp.sum(jax.scipy.special.xlogy(each, each), axis=-1)

    return Distribution(
        noise=categorical.noise,
        draw=lambda noise, values: draw_from(noise, shares(values)),
        log_prob=lambda values, action: categorical.log_prob(logits(values), action),
        entropy=entropy,
        mode=categorical.mode,
        divergence=lambda values, other: categorical.divergence(logits(values), logits(other)),
        shares=shares,
        draw_from=draw_from,
    )


def _draw_gaussian(normal: Array, parameters: tuple[Array, Array]) -> Array:
    mean, log_std = parameters
    return mean + jnp.exp(log_std) * normal.astype(mean.dtype)


def _log_prob_gaussian(parameters: tuple[Array, Array], action: Array) -> Array:
    mean, log_std = parameters
    standard = (action - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi), axis=-1)


def _divergence_gaussian(parameters: tuple[Array, Array], other: tuple[Array, Array]) -> Array:
    mean, log_std = parameters
    other_mean, other_log_std = other
    ratio = jnp.exp(log_std - other_log_std)
    offset = (mean - other_mean) * jnp.exp(-other_log_std)
    return jnp.sum(other_log_std - log_std + 0.5 * (ratio**2 + offset**2 - 1.0), axis=-1)


diagonal_gaussian = Distribution(
    noise=jax.random.normal,
    draw=_draw_gaussian,
    log_prob=_log_prob_gaussian,
    entropy=lambda parameters: jnp.sum(
        parameters[1] + 0.5 * math.log(2 * math.pi * math.e), axis=-1
    ),
    mode=lambda parameters: parameters[0],
    divergence=_divergence_gaussian,
)
"""Independent normals; the parameters are (mean, log standard deviation), both (..., A)."""


def require_outputs(space: Any, outputs: Any, leading: tuple[int, ...]) -> None:
    """Checks, during tracing, that outputs of a network are parameters for an action space.

    Args:
        space: of the actions.
        outputs: logits or values (..., n) for `n` actions, else mean and log standard deviation.
        leading: the leading axes of the observations, which outputs share.

    Raises:
        ValueError: outputs of another shape.
    """
    counts = hasattr(space, "n")
    shape = (*leading, space.n) if counts else (*leading, *space.shape)
    expected = [shape] if counts else [shape, shape]
    found = [jnp.shape(leaf) for leaf in jax.tree.leaves(outputs)]
    if found != expected:
        forms = " and ".join(map(str, expected))
        got = " and ".join(map(str, found)) or "none"
        raise ValueError(
            f"network: expected outputs of shape {forms} for these actions, got {got}; of "
            "observations with several axes, `mlp_policy` asks for their number, `observation_axes`"
        )


def for_action_space(space: Any) -> Distribution:
    """The distribution over an action space: categorical if it has `n` actions, else Gaussian.

    Raises:
        TypeError: the space is neither a set of `n` integers nor a box of one axis.
    """
    require_actions(space)
    return categorical if hasattr(space, "n") else diagonal_gaussian
