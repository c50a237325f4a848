"""Whether a multilayer perceptron is one GPU kernel a pass: hidden layers never reach memory.

What a GPU does to the gradient of a narrow network, layer by layer, is to write and read hidden
activations: dozens of passes over memory, between products that its matrix units finish in a
fraction of the time. In one kernel (`kernels`) rows go through all layers and back, and memory sees
inputs, outputs and parameters alone. There is a kernel for each pass that meta-learning takes: the
outputs, the gradient by the parameters, and the forward-mode derivative of both.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["enabled", "mlp", "once_differentiated", "takes"]

Array = jax.Array

_ACTIVATIONS = (jnp.tanh, jax.nn.tanh, nn.tanh, jax.nn.relu, nn.relu)
_WIDEST = 128  # features that a multiprocessor's registers have room for
# KiB of shared memory that a program may take, by compute capability; 99 where it is not here.
_SHARED = {8.0: 163, 8.7: 163, 9.0: 227, 10.0: 227, 10.3: 227}
# What the hungriest pass takes of it, in sizes of the padded parameters: 4.2 to 4.4 were seen.
_COPIES = 4.6

# What `jax_default_matmul_precision` is where float32 operands may be rounded as TF32 is.
_ROUNDED = (None, "default", "fastest", "bfloat16", "tensorfloat32")

# One of jax's own: what `jit` traced inside, it does not take outside.
_enabled = jax.make_user_context(False)


@contextlib.contextmanager
def once_differentiated() -> Iterator[None]:
    """What is traced inside takes outputs, gradients, or the forward derivative of either.

    These are what there are kernels for. Reverse mode through a gradient is not among them.
    """
    with _enabled(True):
        yield


def enabled() -> bool:
    """Whether a network that is traced here may be one kernel: on NVIDIA's GPUs since Ampere.

    Its products are those of matrix units: where more precision is asked for, it is none.
    """
    precision = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009
    rounds = precision in _ROUNDED and not getattr(jax.config, "jax_enable_x64")  # noqa: B009
    # A device that is set may be another than the backend's.
    anywhere = getattr(jax.config, "jax_default_device") is None  # noqa: B009
    if not (_enabled.value and rounds and anywhere and jax.default_backend() == "gpu"):
        return False
    return _capability() >= 8.0


@functools.cache
def _capability() -> float:
    """CUDA's compute capability of the devices; 0 where it is not CUDA's, or jax lost Triton."""
    try:
        from . import kernels
    except ImportError:
        return 0.0
    del kernels
    found = str(getattr(jax.devices()[0], "compute_capability", ""))
    return float(found) if found.replace(".", "").isdigit() else 0.0


def takes(widths: Sequence[int], inputs: Array, activation: Callable[[Array], Array]) -> bool:
    """Whether layers of these widths, the inputs' first, fit a kernel here.

    It pads features, which an activation has to see one by one.
    """
    if activation not in _ACTIVATIONS or inputs.dtype != jnp.float32 or not inputs.size:
        return False
    padded = [max(16, 1 << (width - 1).bit_length()) for width in widths]
    taken = _COPIES * 4 * sum(a * b for a, b in itertools.pairwise(padded))
    return max(widths) <= _WIDEST and taken <= 1024 * _SHARED.get(_capability(), 99)


def mlp(layers: Sequence[Any], inputs: Array, activation: Callable[[Array], Array]) -> Array:
    """Outputs (S, O) for inputs (S, I): dense layers of kernel and bias, the activation between.

    As `kernels.mlp`, but for parameters of another type than float32, which are for plain
    operations.
    """
    # What most programs never use need not be imported with the rest.
    from . import kernels

    exact = any(leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(layers))
    return (kernels.plain if exact else kernels.mlp)(tuple(layers), inputs, activation)
