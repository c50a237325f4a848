"""When a multilayer perceptron is one GPU kernel per pass, whose hidden layers stay out of memory.

Layer by layer, a GPU spends the gradient of a narrow network on writing and reading hidden
activations: dozens of passes over memory, between products that its matrix units finish in a
fraction of the time. In one kernel (`kernels`) rows go through all layers and back, and only
inputs, outputs and parameters touch memory. There is a kernel for each pass that meta-learning
needs: the outputs, the gradient by the parameters, and the forward-mode derivative of both.
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
# KiB of shared memory that a program may take, by compute capability; 99 for any other.
_SHARED = {8.0: 163, 8.7: 163, 9.0: 227, 10.0: 227, 10.3: 227}
# What the largest pass takes of it, in sizes of the padded parameters: 4.2 to 4.4 were measured.
_COPIES = 4.6

# Values of `jax_default_matmul_precision` that allow float32 operands to be rounded to TF32.
_ROUNDED = (None, "default", "fastest", "bfloat16", "tensorfloat32")

# A context of jax's own kind: `jit` does not reuse outside what it traced inside.
_enabled = jax.make_user_context(False)


@contextlib.contextmanager
def once_differentiated() -> Iterator[None]:
    """Promises that what is traced inside takes outputs, gradients, or forward derivatives of them.

    There are kernels only for these, not for reverse mode through a gradient.
    """
    with _enabled(True):
        yield


def enabled() -> bool:
    """Whether a network that is traced here may be one kernel: on NVIDIA's GPUs since Ampere.

    Its products are those of matrix units, so it may not where jax is set to higher precision.
    """
    precision = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009
    rounds = precision in _ROUNDED and not getattr(jax.config, "jax_enable_x64")  # noqa: B009
    # A default device, if set, may be of another backend.
    anywhere = getattr(jax.config, "jax_default_device") is None  # noqa: B009
    if not (_enabled.value and rounds and anywhere and jax.default_backend() == "gpu"):
        return False
    return _capability() >= 8.0


@functools.cache
def _capability() -> float:
    """The devices' CUDA compute capability; 0 if they have none, or jax has no Triton."""
    try:
        from . import kernels
    except ImportError:
        return 0.0
    del kernels
    found = str(getattr(jax.devices()[0], "compute_capability", ""))
    return float(found) if found.replace(".", "").isdigit() else 0.0


def takes(widths: Sequence[int], inputs: Array, activation: Callable[[Array], Array]) -> bool:
    """Whether layers of these widths, the inputs' first, fit a kernel here.

    Features are padded, so the activation has to be one known to be elementwise.
    """
    if activation not in _ACTIVATIONS or inputs.dtype != jnp.float32 or not inputs.size:
        return False
    padded = [max(16, 1 << (width - 1).bit_length()) for width in widths]
    taken = _COPIES * 4 * sum(a * b for a, b in itertools.pairwise(padded))
    return max(widths) <= _WIDEST and taken <= 1024 * _SHARED.get(_capability(), 99)


def mlp(layers: Sequence[Any], inputs: Array, activation: Callable[[Array], Array]) -> Array:
    """Outputs (S, O) for inputs (S, I): dense layers of kernel and bias, the activation between.

    As `kernels.mlp`, except that parameters of another type than float32 take plain operations.
    """
    # Imported here, as most programs never use it.
    from . import kernels

    exact = any(leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(layers))
    return (kernels.plain if exact else kernels.mlp)(tuple(layers), inputs, activation)
