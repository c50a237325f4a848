"""Flax Linen networks. Learners take any object with the same `init` and `apply`.

A policy is `apply(params, observation, carry) -> (distribution parameters, value, carry)`; without
memory the carry is `()`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from . import fused
from .checks import require_actions, require_integer, require_number, require_widths

__all__ = [
    "MLP",
    "CategoricalPolicy",
    "Conditioned",
    "GaussianPolicy",
    "Network",
    "initial_params",
    "mlp_policy",
    "parameters_alone",
]

Array = jax.Array


class Network(Protocol):
    """What a learner requires of a network; any flax Linen module has it.

    `apply` takes inputs with any leading axes, and returns outputs with the same. A policy may also
    have `initial_carry`, see `recurrent`, and say with `has_critic = False` that its value is none.
    """

    def init(self, key: Array, /, *inputs: Any) -> Any: ...

    def apply(self, params: Any, /, *inputs: Any) -> Any: ...


def initial_params(network: Network, key: Array, space: Any, carry: Any) -> Any:
    """The parameters that a policy begins with, for observations of a space.

    Raises:
        ValueError: the network takes something else, or has a state besides parameters.
    """
    try:
        made = network.init(key, jnp.zeros(space.shape, space.dtype), carry)
    except (TypeError, ValueError, IndexError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        hint = "" if len(space.shape) == 1 else "; `mlp_policy` asks for `observation_axes`"
        raise ValueError(
            f"network: init(key, observation, carry) of an observation of shape "
            f"{tuple(space.shape)}, {space.dtype} failed: {reason}{hint}"
        ) from error
    return parameters_alone(made)


def parameters_alone(made: Any) -> Any:
    """What a network's `init` made.

    Raises:
        ValueError: running statistics are among it, which would be learned as if parameters.
    """
    if isinstance(made, Mapping) and "batch_stats" in made:
        raise ValueError(
            "network: expected parameters alone, got batch_stats too; "
            "batch normalisation is not supported"
        )
    return made


# A sum of so few products costs a CPU less in the loop that reads it than as a matrix product,
# whose result goes through memory. XLA does the same for one.
_FEW = 4


def matmul(a: Array, b: Array, dtype: Any) -> Array:
    """`a @ b` with operands rounded to `dtype`, if given, and sums in the type of `a`."""
    if dtype is None and jax.default_backend() == "cpu" and a.ndim == 2 and 1 < len(b) <= _FEW:
        return functools.reduce(operator.add, (a[:, i, None] * b[None, i] for i in range(len(b))))
    if dtype is None:
        return a @ b
    return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=a.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(inputs: Array, kernel: Array, dtype: Any) -> Array:
    """`inputs @ kernel`, (S, in) by (in, out), with a gradient whose products round alike.

    Differentiating through the rounding would also round the sums of the weight gradient, and leave
    one operand of each product unrounded.
    """
    return matmul(inputs, kernel, dtype)


def _product_forward(inputs: Array, kernel: Array, dtype: Any) -> tuple[Array, Any]:
    return matmul(inputs, kernel, dtype), (inputs, kernel)


def _product_backward(dtype: Any, kept: tuple[Array, Array], cotangent: Array) -> Any:
    inputs, kernel = kept
    return matmul(cotangent, kernel.T, dtype), weight_gradient(inputs, cotangent, dtype)


def weight_gradient(inputs: Array, cotangent: Array, dtype: Any) -> Array:
    """`inputs`ᵀ `cotangent`, of (S, in) and (S, out).

    XLA on CPU computes it as written up to ten times slower than with one operand transposed in
    memory. It would undo a plain transpose, but not one behind a barrier.
    """
    on_cpu = jax.default_backend() == "cpu"
    barrier = jax.lax.optimization_barrier if on_cpu else lambda transposed: transposed
    if inputs.shape[1] <= cotangent.shape[1]:
        return matmul(barrier(inputs.T), cotangent, dtype)
    return barrier(matmul(barrier(cotangent.T), inputs, dtype)).T


_product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
    """`flax.linen.Dense`, except for how a CPU computes the weight gradient of many inputs.

    `dtype`, if given, is that of the operands of its products, forward and backward; the
    parameters, the sums, the outputs and the gradients keep the type of the parameters.

    Its gradient can be differentiated, forward and backward, but it itself in reverse mode alone: a
    loss with `jax.jvp` in it takes flax's own layers.
    """

    features: int
    kernel_init: Callable[..., Array]
    use_bias: bool = True
    dtype: Any = None

    @nn.compact
    def parameters(self, width: int) -> tuple[Array, Array | None]:
        """Kernel and bias for inputs of that width."""
        # flax traces the initialiser even of an existing parameter, for its shape: zeros is quick.
        exists = self.has_variable("params", "kernel")
        initial = nn.initializers.zeros if exists else self.kernel_init
        kernel = self.param("kernel", initial, (width, self.features))
        shape = (self.features,)
        return kernel, self.param("bias", nn.initializers.zeros, shape) if self.use_bias else None

    def __call__(self, inputs: Array) -> Array:
        width = inputs.shape[-1]
        kernel, bias = self.parameters(width)
        # For a single input the gradient is no matrix product, and `vmap` would not make it one.
        if inputs.ndim > 1 and (self.dtype is not None or jax.default_backend() == "cpu"):
            flat: Any = _product(inputs.reshape(-1, width), kernel, self.dtype)
            outputs = flat.reshape(*inputs.shape[:-1], self.features)
        else:
            outputs = matmul(inputs, kernel, self.dtype)
        return outputs if bias is None else outputs + jnp.broadcast_to(bias, outputs.shape)


_lecun = nn.initializers.lecun_normal()


class MLP(nn.Module):
    """Dense layers with an activation between them, none after the last.

    They are of our `Dense`, which `jax.jvp` cannot go through but in a gradient.
    """

    features: Sequence[int]
    activation: Callable[[Array], Array] = nn.relu
    kernel_init: Callable[..., Array] = _lecun
    last_kernel_init: Callable[..., Array] | None = None
    dtype: Any = None  # of the products' operands

    def is_head(self, path: str) -> bool:
        """Whether the parameter at `path` is of the last layer."""
        return f"Dense_{len(self.features) - 1}" in path.split("/")

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        hidden = inputs
        *widths, last = self.features
        layers = [Dense(width, self.kernel_init, dtype=self.dtype) for width in widths]
        layers.append(Dense(last, self.last_kernel_init or self.kernel_init, dtype=self.dtype))
        through = (inputs.shape[-1], *widths, last)
        kernel = fused.enabled() and self.dtype is None
        if kernel and fused.takes(through, inputs, self.activation):
            into = zip(layers, through[:-1], strict=True)
            parameters = [layer.parameters(width) for layer, width in into]
            flat = inputs.reshape(-1, through[0])
            outputs = fused.mlp(parameters, flat, self.activation)
            return outputs.reshape(*inputs.shape[:-1], last)
        for layer in layers[:-1]:
            hidden = self.activation(layer(hidden))
        return layers[-1](hidden)


# Nearly uniform first policies explore; the gain, 0.01, is that of PPO's reference implementations.
_nearly_zero = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")


class _Perceptron(nn.Module):
    """What the policies of `mlp_policy` share; `actions` is the number of choices, or of axes."""

    actions: int
    hidden: Sequence[int] = (64, 64)
    activation: Callable[[Array], Array] = nn.tanh
    skip: float = 0.0
    _: dataclasses.KW_ONLY
    dtype: Any = None  # of the products' operands
    observation_axes: int = 1
    kernel_init: Callable[..., Array] | None = None
    has_critic: ClassVar[bool] = False

    def is_head(self, path: str) -> bool:
        """Whether the parameter at `path` is none of a hidden layer: of the last, or beside it."""
        _, of_mlp, layer = path.partition("MLP_0/")
        return not of_mlp or layer.startswith(f"Dense_{len(self.hidden)}/")

    def _output(self, observation: Array) -> Array:
        """An MLP from an observation of any dtype, flattened, and a linear path beside it.

        The linear path adapts fast: the effect of a gradient step on its weights grows with the
        square of `skip`, and for one-hot observations it is a table with a row for each.
        """
        inputs = observation.astype(jnp.result_type(float))
        if self.observation_axes != 1:
            leading = inputs.shape[: inputs.ndim - self.observation_axes]
            inputs = inputs.reshape(*leading, -1)
        initial = self.kernel_init
        first, last = (_lecun, _nearly_zero) if initial is None else (initial, initial)
        out = MLP((*self.hidden, self.actions), self.activation, first, last, self.dtype)(inputs)
        if self.skip:
            table = Dense(self.actions, nn.initializers.zeros, use_bias=False, dtype=self.dtype)
            out += self.skip * table(inputs)
        return out


class CategoricalPolicy(_Perceptron):
    """Logits over `actions` choices; its value is 0."""

    @nn.compact
    def __call__(self, observation: Array, carry: Any = ()) -> tuple[Array, Array, Any]:
        logits = self._output(observation)
        return logits, jnp.zeros(logits.shape[:-1]), carry


class GaussianPolicy(_Perceptron):
    """Mean and state-independent log standard deviation of `actions` normals; its value is 0.

    Network and parameters are in units of `action_scale`: at the same inner rates, scale 0.1 learns
    as scale 1 would where actions are ten times as large.
    """

    initial_std: float = 1.0
    action_scale: float = 1.0

    @staticmethod
    def is_std(path: str) -> bool:
        """Whether the parameter at `path` is the log standard deviation."""
        return path.rpartition("/")[2] == "log_std"

    @nn.compact
    def __call__(
        self, observation: Array, carry: Any = ()
    ) -> tuple[tuple[Array, Array], Array, Any]:
        mean = self.action_scale * self._output(observation)
        initial = nn.initializers.constant(math.log(self.initial_std))
        log_std = self.param("log_std", initial, (self.actions,)) + math.log(self.action_scale)
        return (mean, jnp.broadcast_to(log_std, mean.shape)), jnp.zeros(mean.shape[:-1]), carry


class Conditioned:
    """A network whose inputs are each joined by a context vector, 0 at first (CAVIA).

    The parameters are {"network": those of `network`, "context": (size,)}.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, network: Network, size: int) -> None:
        require_integer("context", size, 1)
        self.network = network
        self.size = size
        self.has_critic = getattr(network, "has_critic", True)
        self.initial_carry = getattr(network, "initial_carry", ())

    @staticmethod
    def is_context(path: str) -> bool:
        """Whether the parameter at `path` is the context, the fast one."""
        return path.rpartition("/")[2] == "context"

    def init(self, key: Array, inputs: Array, *rest: Any) -> Any:
        context = jnp.zeros(self.size, jnp.result_type(float))
        return {
            "network": self.network.init(key, _beside(inputs, context), *rest),
            "context": context,
        }

    def apply(self, params: Any, inputs: Array, *rest: Any) -> Any:
        return self.network.apply(params["network"], _beside(inputs, params["context"]), *rest)


def _beside(inputs: Array, context: Array) -> Array:
    context = jnp.broadcast_to(context, (*inputs.shape[:-1], *context.shape))
    return jnp.concatenate([inputs.astype(context.dtype), context], axis=-1)


def mlp_policy(
    action_space: Any,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[Array], Array] = nn.tanh,
    skip: float = 0.0,
    initial_std: float = 1.0,
    action_scale: float = 1.0,
    dtype: Any = None,
    observation_axes: int = 1,
    kernel_init: Callable[..., Array] | None = None,
) -> CategoricalPolicy | GaussianPolicy:
    """The multilayer policy that fits an action space: categorical or Gaussian.

    Gaussian actions are not clipped: the environment decides what happens out of bounds.

    Args:
        action_space: `envs.Discrete`, or a `Box` of one axis.
        hidden: widths of the hidden layers.
        activation: between layers.
        skip: scale of a linear path from the observation to the logits or means; 0 for none.
        initial_std: the Gaussian's standard deviation before training, in units of `action_scale`.
        action_scale: the Gaussian's unit of the action.
        dtype: of the operands of the network's products, such as bfloat16; all else has the type
            of the parameters.
        observation_axes: number of axes of an observation, which is flattened: 3 for an image.
        kernel_init: of the weights of all layers, such as `nn.initializers.glorot_uniform()`; None
            for LeCun's, and a last layer of nearly 0. Those of `skip` begin at 0. The effect of an
            inner step on a policy grows with the squares of its features, so how large they are is
            part of an inner rate.

    Raises:
        ValueError: a number out of range, or an activation or initialiser that is not a function.
        TypeError: an action space that is neither `Discrete` nor a `Box` of one axis.
    """
    require_actions(action_space)
    widths = require_widths(hidden)
    require_integer("observation_axes", observation_axes, 0)
    require_number("skip", skip)
    require_number("initial_std", initial_std, above=True)
    require_number("action_scale", action_scale, above=True)
    if not callable(activation):
        raise ValueError(f"activation: expected a function, such as nn.tanh, got {activation!r}")
    if not (kernel_init is None or callable(kernel_init)):
        raise ValueError(f"kernel_init: expected an initialiser or None, got {kernel_init!r}")
    shared: dict[str, Any] = dict(
        hidden=widths,
        activation=activation,
        skip=skip,
        dtype=dtype,
        observation_axes=observation_axes,
        kernel_init=kernel_init,
    )
    if hasattr(action_space, "n"):
        return CategoricalPolicy(action_space.n, **shared)
    (actions,) = action_space.shape
    return GaussianPolicy(actions, **shared, initial_std=initial_std, action_scale=action_scale)
