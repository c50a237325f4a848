"""A network where there are few observations: evaluated on each of them once, then looked up.

An episode of a maze has more steps than the maze has squares, and a batch has dozens of steps on
each. Of one-hot observations the network's outputs are a table. Its derivative adds up what each
observation is due before the network is gone through, so that a loss of thousands of steps costs as
much network as there are squares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .distributions import Distribution, of_action, require_outputs
from .networks import Network
from .types import Params

__all__ = ["Lookup", "Playing", "Reading", "lookup", "playing_by"]

Array = jax.Array
Of = Callable[[Any], Any]  # of outputs, whose leading axes, (O,) or (T, B), it keeps


class Reading(NamedTuple):
    """A network's outputs for what was seen in a batch, (T, B, ...), and what is made of them.

    What each observation has is computed once for each that there is, before it is looked up.
    """

    each: Callable[[Of], Any]  # of outputs -> (T, B, ...)
    # the same where that is a number for each action, and actions (T, B) -> those taken, (T, B)
    taken: Callable[[Of, Array], Array]


class Lookup(NamedTuple):
    """A network without memory, for what is observed in one space.

    What it has seen of an observation is the observation, or where observations are one-hot its
    `row`, which of all it is: a rollout keeps and losses read a number, and not all the zeros.
    """

    prepare: Callable[[Params], Any]  # once for all that is seen under the same parameters
    # what was prepared, seen, carry -> outputs, value, carry: a policy of what was seen
    one: Callable[[Any, Array, Any], tuple[Any, Array, Any]]
    # params, seen (T, B, ...) -> what the network has for it, or for all that can be observed
    outputs: Callable[[Params, Array], Any]
    reading: Callable[[Any, Array], Reading]  # those outputs, what was seen
    # observations with any leading axes -> int32; None where the network sees them as they are
    row: Callable[[Array], Array] | None

    def read(self, params: Params, seen: Array) -> Reading:
        """What is read of a batch, (T, B, ...)."""
        return self.reading(self.outputs(params, seen), seen)

    def seen(self, observation: Array, row: Array | None) -> Array:
        """Of observations, and their rows where these are known."""
        return observation if self.row is None else self.row(observation) if row is None else row


def lookup(network: Network, space: Any, actions: Any) -> Lookup:
    """By table where `space` is one-hot, and step by step where it is not.

    Args:
        network: `apply(params, observation, carry)`; it takes observations with any leading axes.
        space: of the observations; `one_hot` says that one element of each is 1, the others 0.
        actions: the action space.

    Raises (while the network is traced):
        ValueError: its outputs do not fit the actions, or it has a memory.
    """

    def apply(params: Params, observation: Array, carry: Any) -> tuple[Any, Array, Any]:
        outputs, value, carry = network.apply(params, observation, carry)
        leading = observation.shape[: observation.ndim - len(space.shape)]
        require_outputs(actions, outputs, leading)
        if jax.tree.leaves(carry):
            raise ValueError("network: expected none with a memory, whose carry is (), got one")
        return outputs, value, carry

    def of_steps(params: Params, seen: Array) -> Any:
        leading = seen.shape[: seen.ndim - len(space.shape)]
        outputs = apply(params, seen.reshape(-1, *space.shape), ())[0]
        return jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), outputs)

    def by_step(outputs: Any, seen: Array) -> Reading:
        del seen
        return Reading(lambda of: of(outputs), lambda of, action: of_action(of(outputs), action))

    if not getattr(space, "one_hot", False):
        return Lookup(lambda params: params, apply, of_steps, by_step, None)

    def table(params: Params) -> Any:
        return apply(params, jnp.eye(*space.shape, dtype=space.dtype), ())[0]

    def row(observation: Array) -> Array:
        # A sum is a third of the time of `argmax`.
        places = jnp.arange(space.shape[0], dtype=jnp.int32)
        return observation.astype(jnp.int32) @ places

    def one(table: Any, at: Array, carry: Any) -> tuple[Any, Array, Any]:
        return jax.tree.map(lambda leaf: leaf[at], table), jnp.zeros(at.shape), carry

    def by_table(outputs: Any, at: Array) -> Reading:
        def each(of: Of) -> Any:
            return jax.tree.map(lambda leaf: leaf[at], of(outputs))

        def taken(of: Of, action: Array) -> Array:
            # One number a step: to look up a row and choose from it, forward and back, is most of
            # what a batch of many steps would cost.
            every = of(outputs)
            return every.reshape(-1)[at * every.shape[-1] + action]

        return Reading(each, taken)

    return Lookup(table, one, lambda params, _: table(params), by_table, row)


class Playing(NamedTuple):
    """How a policy that is looked up plays: what a rollout is given, and what comes of it."""

    distribution: Distribution  # over what was looked up
    prepare: Callable[[Params], Any]  # what is looked up
    parameters: Callable[[Any], Any]  # of what was looked up, those of the distribution


def playing_by(observed: Lookup, distribution: Distribution) -> Playing:
    """Of a table that part of a draw which needs no noise is looked up too, not taken each step."""
    shares, draw_from = distribution.shares, distribution.draw_from
    if observed.row is None or shares is None or draw_from is None:
        return Playing(distribution, observed.prepare, lambda found: found)

    def prepare(params: Params) -> Any:
        table = observed.prepare(params)
        return table, shares(table)

    by_shares = distribution._replace(draw=lambda noise, found: draw_from(noise, found[1]))
    return Playing(by_shares, prepare, lambda found: found[0])
