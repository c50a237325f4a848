"""A learned inner optimiser (Andrychowicz et al. 2016): one small recurrent rule for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ..checks import require_integer
from ..inner import Inner, check_parts
from ..networks import Dense
from ..slow import beside
from ..types import MetaLearner, Params, Problem
from .maml import MAMLOptions, maml

__all__ = ["learned_optimizer", "learned_rule"]

Array = jax.Array

_SMALLEST = 1e-5  # the sign feature of smaller changes fades to 0


class Rule(nn.Module):
    """The rule for one coordinate: a recurrent layer, and an output that is 0 at first.

    The weights of its memory start at 0, so that a rule learned for one step holds at later ones.
    """

    size: int

    @nn.compact
    def __call__(self, memory: Array, inputs: Array, lengths: Sequence[int]) -> tuple[Array, Array]:
        """The next memory (P, `size`) and the output (P,), P the sum of the arrays' lengths."""
        codes = self.param("codes", nn.initializers.zeros, (len(lengths), self.size))
        code = jnp.concatenate(
            [jnp.broadcast_to(one, (n, self.size)) for one, n in zip(codes, lengths, strict=True)]
        )
        seen = Dense(self.size, nn.initializers.lecun_normal())(inputs)
        remembered = Dense(self.size, nn.initializers.zeros)(memory)
        memory = nn.tanh(seen + remembered + code)
        return memory, Dense(1, nn.initializers.zeros)(memory)[:, 0]


def _features(change: Array) -> Array:
    """Size, on a logarithmic scale from -1 to about 1, and sign: (P,) -> (P, 2).

    The preprocessing of Andrychowicz et al. 2016, appendix A, made smooth near 0.
    """
    size = jnp.abs(change) + _SMALLEST
    return jnp.stack([jnp.log(size / _SMALLEST) / 5 - 1, change / size], axis=-1)


def learned_rule(problem: Problem, inner: Inner, size: int = 8) -> tuple[Problem, Inner]:
    """`problem` with an update rule's weights as meta-parameters, and `inner` followed by the rule.

    The meta-parameters are {"params": those of `problem`, "rule": weights}. For each coordinate the
    rule sees the change that `inner` proposes, remembers `size` numbers from earlier steps, and
    multiplies the change by exp(output), 1 at first. All coordinates share the rule, and those of
    one parameter array also share a learned code: so it fits layers of any width, and treats
    interchangeable units alike.

    Args:
        problem: the meta-learning problem.
        inner: the optimiser that proposes the changes; the rule's weights are slow.
        size: numbers that the rule remembers per coordinate.

    Returns:
        The problem and the inner optimiser with these meta-parameters.

    Raises:
        ValueError: a size below 1.
    """
    check_parts(problem, inner)
    require_integer("size", size, 1)
    rule = Rule(size)
    apply: Callable[..., Any] = rule.apply

    def parts(tree: Params) -> tuple[Array, list[int], Callable[[Array], Params]]:
        flat, unflatten = ravel_pytree(tree)
        return flat, [leaf.size for leaf in jax.tree.leaves(tree)], unflatten

    def init(key: Array, params: Params) -> Params:
        flat, lengths, _ = parts(inner.split(params)[0])
        return rule.init(key, init_memory(flat), _features(flat), lengths)

    def init_memory(params: Params) -> Array:
        flat, _, _ = parts(params)
        return jnp.zeros((flat.size, size), flat.dtype)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params
        flat, lengths, unflatten = parts(updates)
        memory, output = apply(extra["slow"], state, _features(flat), lengths)
        return unflatten(flat * jnp.exp(output)), memory

    after = optax.GradientTransformationExtraArgs(init_memory, update)
    return beside(problem, inner, "rule", init, optax.chain(inner.optimizer, after))


def learned_optimizer(
    problem: Problem,
    inner: Inner,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    size: int = 8,
    **options: Unpack[MAMLOptions],
) -> MetaLearner:
    """MAML whose inner update rule is learned with the initialisation, see `learned_rule`.

    Andrychowicz et al. 2016 learn the rule alone and treat gradients as constants; here they are
    functions of the parameters, as everywhere in MAML.

    Args:
        problem: the meta-learning problem.
        inner: the inner optimiser, whose changes the rule multiplies.
        outer: the outer optimiser, for parameters and rule.
        tasks: N, tasks per update.
        size: numbers that the rule remembers per coordinate.
        **options: options of `maml`.

    Returns:
        The learner, as from `maml`; its parameters are those of `learned_rule`.

    Raises:
        ValueError: an invalid size.
    """
    return maml(*learned_rule(problem, inner, size), outer, tasks, **options)
