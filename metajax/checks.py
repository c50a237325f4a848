"""Checks of arguments before anything is compiled: a ValueError, in one line."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = [
    "require_actions",
    "require_environment",
    "require_integer",
    "require_jit",
    "require_key",
    "require_metrics",
    "require_network",
    "require_number",
    "require_returned",
    "require_widths",
]

_INT32 = 2**31 - 1


def require_actions(space: Any) -> None:
    """Raises TypeError for an action space that is neither `Discrete` nor a `Box` of one axis."""
    is_box = hasattr(space, "low") and len(space.shape) == 1
    if not hasattr(space, "n") and not is_box:
        raise TypeError(f"action space: expected Discrete or a Box of one axis, got {space!r}")


def require_environment(env: Any, horizon: int | None = None) -> None:
    """Checks what of an environment can be seen before it is stepped, see `envs.core`.

    Args:
        env: the environment.
        horizon: the most steps of an episode, where the environment does not have to say.

    Raises:
        ValueError: it is none, or its observation is not one array.
        TypeError: see `require_actions`.
    """
    if isinstance(env, type):
        raise ValueError(f"env: expected an environment, got the class {env.__name__}")
    names = ["sample_task", "reset", "step", "observation_space", "action_space"]
    names += ["max_horizon"] * (horizon is None)
    if missing := [name for name in names if not hasattr(env, name)]:
        raise ValueError(
            f"env: expected an environment as `envs.core` has it, got {type(env).__name__} without "
            f"{', '.join(missing)}"
        )
    space = env.observation_space
    names = ["shape", "dtype"]
    names += ["low", "high"] * (getattr(space, "dtype", np.dtype(int)).kind in "bui")
    if not all(hasattr(space, name) for name in names):
        raise ValueError(f"observation space: expected a Box, of one array, got {space!r}")
    require_actions(env.action_space)


def require_jit(function: str) -> None:
    """Raises ValueError if `jax_disable_jit` is set: a whole program is compiled before it runs."""
    if getattr(jax.config, "jax_disable_jit"):  # noqa: B009
        raise ValueError(
            f"jax_disable_jit: {function} compiles whole programs; to debug, call a learner's "
            "update or adapt by itself"
        )


def require_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises ValueError for anything but an integer in `low`..`high`, or up to what int32 holds."""
    try:
        whole = None if isinstance(value, (bool, np.bool)) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None:
        raise ValueError(f"{name}: expected an integer, got {value!r}")
    if whole < low or whole > (_INT32 if high is None else high):
        is_small = high is None and whole < low
        span = f"at least {low}" if is_small else f"{low} to {_INT32 if high is None else high}"
        raise ValueError(f"{name}: expected {span}, got {value}")


def require_key(key: Any) -> None:
    """Raises ValueError for anything but one typed key, as `jax.random.key` makes."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed or key.shape:
        got = f"{dtype} of shape {key.shape}" if dtype is not None else type(key).__name__
        raise ValueError(f"key: expected one typed key, as `jax.random.key(0)` makes, got {got}")


# What every learner reports, and a loss may not.
_REPORTED = ("score_before", "score_after", "env_steps", "outer_loss", "gradient_norm")


def require_metrics(aux: Any) -> None:
    """Raises ValueError unless `aux`, of an outer loss, is a dict of scalars to report."""
    if not isinstance(aux, dict):
        raise ValueError(f"outer_loss: aux: expected a dict, got {type(aux).__name__}")
    for name, value in aux.items():
        if name in _REPORTED:
            raise ValueError(f"outer_loss: aux: {name!r} is a metric of every learner's")
        if np.shape(value):
            raise ValueError(f"outer_loss: aux: {name!r}: expected a scalar, got {np.shape(value)}")


def require_network(network: Any) -> None:
    """Raises ValueError for anything but an object that has `init` and `apply`, as flax's have."""
    is_class = isinstance(network, type)
    if is_class or not all(callable(getattr(network, name, None)) for name in ("init", "apply")):
        found = f"the class {network.__name__}" if is_class else type(network).__name__
        raise ValueError(
            f"network: expected an object with `init` and `apply`, as flax.linen makes, got {found}"
        )


def require_number(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Checks that a value is a finite number in a range. A traced value is not checked.

    Args:
        name: of the argument.
        value: a number of Python, numpy or jax, ().
        low: the least that it may be; where `above`, it has to be greater.
        high: the greatest; where `below`, it has to be less.
        above: whether `low` itself is refused.
        below: whether `high` itself is refused.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, Tracer) and not value.shape:
        return
    try:
        scalar = not isinstance(value, (str, bool, np.bool, Tracer)) and np.ndim(value) == 0
        number = float(value) if scalar else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # Written so that a NaN is in no range.
    inside = (low < number if above else low <= number) and math.isfinite(number)
    if inside and (number < high if below else number <= high):
        return
    least = f"above {low:g}" if above else f"at least {low:g}"
    if math.isinf(low) and math.isinf(high):
        span = "a finite number"
    elif math.isinf(high):
        span = least
    elif above or below:
        span = f"{least} and {'below' if below else 'up to'} {high:g}"
    else:
        span = f"{low:g} to {high:g}"
    raise ValueError(f"{name}: expected {span}, got {value!r}")


def require_returned(name: str, found: Any, *parts: str) -> None:
    """Raises ValueError unless the function `name` has returned a tuple of `parts`."""
    if not (isinstance(found, tuple) and len(found) == len(parts)):
        shape = getattr(found, "shape", None)
        got = type(found).__name__ if shape is None else f"an array of shape {shape}"
        got = f"{len(found)} values" if isinstance(found, tuple) else got
        raise ValueError(f"{name}: expected to return ({', '.join(parts)}), got {got}")


def require_widths(hidden: Any) -> tuple[int, ...]:
    """The widths of hidden layers; a number is that of one.

    Raises:
        ValueError: one of them is no integer of at least 1.
    """
    widths = tuple(hidden) if isinstance(hidden, Iterable) else (hidden,)
    for width in widths:
        require_integer("hidden", width, 1)
    return widths
