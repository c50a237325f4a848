"""Policies with a memory, for learners that adapt by remembering instead of by gradient steps.

A network with a memory also has `initial_carry`, the memory before the first step of one episode,
as a pytree of arrays. `over_time` applies it to whole sequences; a network may bring a faster way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .checks import require_actions, require_integer, require_number, require_widths
from .networks import Dense, Network, matmul, weight_gradient

__all__ = ["GRUPolicy", "gru_policy", "initial_carry", "over_time"]

Array = jax.Array

_orthogonal = nn.initializers.orthogonal()
_small = nn.initializers.orthogonal(0.01)  # a nearly uniform first policy, as in `networks`


def initial_carry(network: Network) -> Any:
    """The memory that an episode begins with; `()` where the network has none."""
    return getattr(network, "initial_carry", ())


def over_time(network: Network, params: Any, observations: Array, carry: Any) -> tuple[Any, Array]:
    """What the network returns at each step of sequences that it sees from their start.

    Args:
        network: with a memory.
        params: of the network.
        observations: (T, B, ...).
        carry: the memory before the first step, leaves (B, ...).

    Returns:
        Distribution parameters and values, both (T, B, ...).
    """
    faster = getattr(network, "over_time", None)
    if faster is not None:
        return faster(params, observations, carry)

    def step(carry: Any, observation: Array) -> tuple[Any, tuple[Any, Array]]:
        outputs, value, carry = network.apply(params, observation, carry)
        return carry, (outputs, value)

    return jax.lax.scan(step, carry, observations)[1]


def _orthogonal_blocks(key: Array, shape: tuple[int, int], dtype: Any = None) -> Array:
    """A square orthogonal matrix for each gate, side by side."""
    rows, columns = shape
    dtype = jnp.result_type(float) if dtype is None else dtype
    keys = jax.random.split(key, columns // rows)
    return jnp.concatenate([_orthogonal(each, (rows, rows), dtype) for each in keys], axis=1)


class _Unit(NamedTuple):
    """A step of gated recurrent units, leaves (..., H)."""

    reset: Array
    update: Array
    kept: Array  # h U_n + b
    new: Array
    after: Array  # h'


def _unit(into: Array, carry: Array, remembered: Array, bias: Array) -> _Unit:
    """What follows the products: `into` is x W and `remembered` h U, (..., 3H), of r, z and n."""
    of_reset, of_update, of_new = jnp.split(into, 3, axis=-1)
    to_reset, to_update, to_new = jnp.split(remembered, 3, axis=-1)
    reset, update = nn.sigmoid(of_reset + to_reset), nn.sigmoid(of_update + to_update)
    kept = to_new + jnp.broadcast_to(bias, to_new.shape)
    new = jnp.tanh(of_new + reset * kept)
    return _Unit(reset, update, kept, new, new + update * (carry - new))


def _memories(into: Array, carry: Array, kernel: Array, bias: Array, dtype: Any) -> Array:
    def step(carry: Array, into: Array) -> tuple[Array, Array]:
        after = _unit(into, carry, matmul(carry, kernel, dtype), bias).after
        return after, after

    return jax.lax.scan(step, carry, into)[1]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _run(into: Array, carry: Array, kernel: Array, bias: Array, dtype: Any) -> Array:
    """The memories after each step (T, S, H), of S sequences whose x W is `into`, (T, S, 3H).

    Its gradient has a single product with the recurrent weights in each step: those of all steps
    are together one product for the gates, which are computed again, and one for the gradient of
    the weights. Differentiated as written, each step would add to that gradient.
    """
    return _memories(into, carry, kernel, bias, dtype)


def _run_forward(
    into: Array, carry: Array, kernel: Array, bias: Array, dtype: Any
) -> tuple[Array, Any]:
    hidden = _memories(into, carry, kernel, bias, dtype)
    return hidden, (into, carry, kernel, bias, hidden)


def _run_backward(dtype: Any, saved: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
    into, carry, kernel, bias, hidden = saved
    before = jnp.concatenate([carry[None], hidden[:-1]])
    units = _unit(into, before, matmul(before, kernel, dtype), bias)
    # How far a change of h' moves what r, z and n are functions of, and h itself.
    of_new = (1 - units.update) * (1 - units.new**2)
    of_update = (before - units.new) * units.update * (1 - units.update)
    of_reset = of_new * units.kept * units.reset * (1 - units.reset)
    slopes = jnp.concatenate([of_reset, of_update, of_new * units.reset], axis=-1)
    transposed = kernel.T

    def step(later: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
        cotangent, slopes, update = now
        total = cotangent + later
        change = jnp.concatenate([total] * 3, axis=-1) * slopes
        return total * update + matmul(change, transposed, dtype), total

    of_carry, total = jax.lax.scan(
        step, jnp.zeros_like(carry), (cotangent, slopes, units.update), reverse=True
    )
    change = jnp.concatenate([total] * 3, axis=-1) * slopes
    of_into = jnp.concatenate([total * of_reset, total * of_update, total * of_new], axis=-1)
    inputs, outputs = (leaf.reshape(-1, leaf.shape[-1]) for leaf in (before, change))
    of_kernel = weight_gradient(inputs, outputs, dtype)
    of_bias = jnp.sum((total * of_new * units.reset).reshape(-1, carry.shape[-1]), axis=0)
    return of_into, of_carry, of_kernel, of_bias


_run.defvjp(_run_forward, _run_backward)


class GRUPolicy(nn.Module):
    """Actor and critic on a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078).

    The unit is that of cuDNN and PyTorch, whose reset gate acts after the recurrent product, so
    that a step is one product with what is remembered:

        r, z = σ(x W_r + h U_r), σ(x W_z + h U_z)
        h'   = (1 - z) tanh(x W_n + r (h U_n + b)) + z h

    Observations (..., O) and carries (..., H) share their leading axes. With `over_time`
    observations are (T, ..., O), and the outputs are those of each step.
    """

    actions: int
    continuous: bool
    memory: int = 64
    hidden: Sequence[int] = ()
    activation: Callable[[Array], Array] = nn.tanh
    initial_std: float = 1.0
    action_scale: float = 1.0
    dtype: Any = None  # of the products' operands
    observation_axes: int = 1

    @property
    def initial_carry(self) -> Array:
        """Nothing remembered, (H,)."""
        return jnp.zeros(self.memory)

    @nn.nowrap
    def over_time(self, params: Any, observations: Array, carry: Array) -> tuple[Any, Array]:
        """See `recurrent.over_time`: only the unit itself runs step by step."""
        return self.apply(params, observations, carry, over_time=True)[:2]  # type: ignore[return-value]

    @nn.compact
    def __call__(
        self, observation: Array, carry: Array, over_time: bool = False
    ) -> tuple[Any, Array, Array]:
        inputs = observation.astype(jnp.result_type(float))
        leading = inputs.shape[: inputs.ndim - self.observation_axes]
        inputs = inputs.reshape(*leading, -1)
        for width in self.hidden:
            inputs = self.activation(Dense(width, _orthogonal, dtype=self.dtype)(inputs))
        size = self.memory
        into = Dense(3 * size, _orthogonal, dtype=self.dtype)(inputs)
        recurrent = Dense(3 * size, _orthogonal_blocks, use_bias=False, dtype=self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (size,))
        kernel, _ = recurrent.parameters(size)
        if over_time:
            hidden: Any = _run(into, carry, kernel, bias, self.dtype)
            carry = hidden[-1]
        else:
            carry = hidden = _unit(into, carry, matmul(carry, kernel, self.dtype), bias).after
        value = Dense(1, _orthogonal, dtype=self.dtype)(hidden)[..., 0]
        outputs = Dense(self.actions, _small, dtype=self.dtype)(hidden)
        if not self.continuous:
            return outputs, value, carry
        initial = nn.initializers.constant(math.log(self.initial_std))
        log_std = self.param("log_std", initial, (self.actions,)) + math.log(self.action_scale)
        mean = self.action_scale * outputs
        return (mean, jnp.broadcast_to(log_std, mean.shape)), value, carry


def gru_policy(
    action_space: Any,
    memory: int = 64,
    hidden: Sequence[int] = (),
    activation: Callable[[Array], Array] = nn.tanh,
    initial_std: float = 1.0,
    action_scale: float = 1.0,
    dtype: Any = None,
    observation_axes: int = 1,
) -> GRUPolicy:
    """The recurrent policy that fits an action space: categorical or Gaussian, with a critic.

    Args:
        action_space: `envs.Discrete`, or a `Box` of one axis.
        memory: H, units of the memory.
        hidden: widths of layers between the observation and the memory.
        activation: after each of those layers.
        initial_std: the Gaussian's standard deviation before training, in units of `action_scale`.
        action_scale: the Gaussian's unit of the action.
        dtype: of the operands of the network's products, as of `networks.mlp_policy`.
        observation_axes: number of axes of an observation, which is flattened.

    Raises:
        ValueError: a number out of range, or an activation that is not a function.
        TypeError: an action space that is neither `Discrete` nor a `Box` of one axis.
    """
    require_actions(action_space)
    widths = require_widths(hidden)
    require_integer("memory", memory, 1)
    require_integer("observation_axes", observation_axes, 0)
    require_number("initial_std", initial_std, above=True)
    require_number("action_scale", action_scale, above=True)
    if not callable(activation):
        raise ValueError(f"activation: expected a function, such as nn.tanh, got {activation!r}")
    discrete = hasattr(action_space, "n")
    (actions,) = (action_space.n,) if discrete else action_space.shape
    units = (initial_std, action_scale)
    return GRUPolicy(
        actions, not discrete, memory, widths, activation, *units, dtype, observation_axes
    )
