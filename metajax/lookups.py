"""Networks on few distinct observations: evaluated on each of them once, then looked up.

An episode of a maze has more steps than the maze has squares, and a batch has dozens of steps on
each. For one-hot observations the network's outputs are a table. The derivative of a lookup sums
what each observation contributes before it goes through the network, so a loss over thousands of
steps evaluates the network only once per square.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .checks import require_returned
from .distributions import Distribution, of_action, require_outputs
from .networks import Network
from .recurrent import initial_carry, over_time
from .types import Params

__all__ = ["Lookup", "Playing", "Reading", "lookup", "playing_by"]

Array = jax.Array
Of = Callable[[Any], Any]  # function of outputs that keeps their leading axes, (O,) or (T, B)


class Reading(NamedTuple):
    """A network's outputs for a batch, (T, B, ...), through functions of them.

    A function is computed once for each distinct observation, before the lookup.
    """

    each: Callable[[Of], Any]  # function of outputs -> its values, (T, B, ...)
    # function with a value for each action, actions (T, B) -> the values of these, (T, B)
    taken: Callable[[Of, Array], Array]
    value: Array | None = None  # of the network's critic, (T, B), where it was asked for


class Lookup(NamedTuple):
    """A network, for the observations of one space.

    What it sees is the observation or, where observations are one-hot, its `row`, the index of the
    1: a rollout stores and losses read a number instead of all the zeros.
    """

    prepare: Callable[[Params], Any]  # once for all that these parameters see
    # what was prepared, seen, carry -> outputs, value, carry: a policy on what is seen
    one: Callable[[Any, Array, Any], tuple[Any, Array, Any]]
    # params, seen (T, B, ...) -> the network's outputs for it, or for all possible observations
    outputs: Callable[[Params, Array], Any]
    reading: Callable[[Any, Array], Reading]  # those outputs, seen -> reading
    # observations with any leading axes -> int32; None where the network sees them as they are
    row: Callable[[Array], Array] | None

    def read(self, params: Params, seen: Array) -> Reading:
        """The reading of a batch, (T, B, ...)."""
        return self.reading(self.outputs(params, seen), seen)

    def seen(self, observation: Array, row: Array | None) -> Array:
        """What the network sees, from observations, and their rows where these are known."""
        return observation if self.row is None else self.row(observation) if row is None else row


def lookup(network: Network, space: Any, actions: Any, critic: bool = False) -> Lookup:
    """Evaluates by table where `space` is one-hot, and step by step where it is not.

    A memory makes what is observed before a part of what is seen: sequences are evaluated whole,
    and nothing is looked up. Nor is it with a critic.

    Args:
        network: `apply(params, observation, carry)`; it takes observations with any leading axes.
            If it has a memory, see `recurrent`.
        space: of the observations; `one_hot` says that one element of each is 1, the others 0.
        actions: the action space.
        critic: whether readings have the network's value too.

    Raises:
        ValueError: during tracing, if its outputs do not fit the actions, its values are not one
            for each observation, or its memory is not what it says an episode begins with.
    """
    start = initial_carry(network)
    remembers = bool(jax.tree.leaves(start))

    def check(outputs: Any, value: Array, leading: tuple[int, ...]) -> None:
        require_outputs(actions, outputs, leading)
        if critic and jnp.shape(value) != leading:
            raise ValueError(f"network: expected values of shape {leading}, got {jnp.shape(value)}")

    def apply(params: Params, observation: Array, carry: Any) -> tuple[Any, Array, Any]:
        found = network.apply(params, observation, carry)
        require_returned("network", found, "outputs", "value", "carry")
        outputs, value, after = found
        check(outputs, value, observation.shape[: observation.ndim - len(space.shape)])
        if jax.tree.leaves(after) and not remembers:
            raise ValueError("network: expected `initial_carry` of one with a memory, got none")
        if remembers:
            _require_same(carry, after)
        return outputs, value, after

    def of_steps(params: Params, seen: Array) -> Any:
        leading = seen.shape[: seen.ndim - len(space.shape)]
        outputs, value, _ = apply(params, seen.reshape(-1, *space.shape), ())
        found = (outputs, value) if critic else outputs
        return jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), found)

    def of_sequences(params: Params, seen: Array) -> Any:
        columns = seen.shape[1 : seen.ndim - len(space.shape)]
        carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*columns, *leaf.shape)), start)
        outputs, value = over_time(network, params, seen, carry)
        check(outputs, value, (len(seen), *columns))
        return (outputs, value) if critic else outputs

    def by_step(found: Any, seen: Array) -> Reading:
        del seen
        outputs, value = found if critic else (found, None)
        each = lambda of: of(outputs)  # noqa: E731
        return Reading(each, lambda of, action: of_action(of(outputs), action), value)

    if remembers or critic or not getattr(space, "one_hot", False):
        outputs = of_sequences if remembers else of_steps
        return Lookup(lambda params: params, apply, outputs, by_step, None)

    def table(params: Params) -> Any:
        return apply(params, jnp.eye(*space.shape, dtype=space.dtype), ())[0]

    def row(observation: Array) -> Array:
        # A weighted sum takes a third of the time of `argmax`.
        places = jnp.arange(space.shape[0], dtype=jnp.int32)
        return observation.astype(jnp.int32) @ places

    def one(table: Any, at: Array, carry: Any) -> tuple[Any, Array, Any]:
        return jax.tree.map(lambda leaf: leaf[at], table), jnp.zeros(at.shape), carry

    def by_table(outputs: Any, at: Array) -> Reading:
        def each(of: Of) -> Any:
            return jax.tree.map(lambda leaf: leaf[at], of(outputs))

        def taken(of: Of, action: Array) -> Array:
            # Gathers one number per step: looking up a row and choosing from it, forward and back,
            # would be most of the cost of a batch of many steps.
            every = of(outputs)
            return every.reshape(-1)[at * every.shape[-1] + action]

        return Reading(each, taken)

    return Lookup(table, one, lambda params, _: table(params), by_table, row)


def _require_same(before: Any, after: Any) -> None:
    """Checks that a step leaves a memory in the form in which it found it."""
    forms = [
        [(jax.tree_util.keystr(path), jnp.shape(leaf), jnp.result_type(leaf).name)
         for path, leaf in jax.tree_util.tree_leaves_with_path(carry)]
        for carry in (before, after)
    ]  # fmt: skip
    if forms[0] != forms[1]:
        expected, got = (
            ", ".join(f"{path or 'carry'} {shape} {dtype}" for path, shape, dtype in form) or "none"
            for form in forms
        )
        raise ValueError(f"network: expected a carry as before, {expected}, got {got}")


class Playing(NamedTuple):
    """How a policy that is looked up plays: what a rollout is given, and how to read it."""

    distribution: Distribution  # given what is looked up
    prepare: Callable[[Params], Any]  # params -> what is looked up
    parameters: Callable[[Any], Any]  # what was looked up -> the distribution's parameters


def playing_by(observed: Lookup, distribution: Distribution) -> Playing:
    """With a table, the part of a draw that needs no noise is looked up too, not computed."""
    shares, draw_from = distribution.shares, distribution.draw_from
    if observed.row is None or shares is None or draw_from is None:
        return Playing(distribution, observed.prepare, lambda found: found)

    def prepare(params: Params) -> Any:
        table = observed.prepare(params)
        return table, shares(table)

    by_shares = distribution._replace(draw=lambda noise, found: draw_from(noise, found[1]))
    return Playing(by_shares, prepare, lambda found: found[0])
