"""How programs are compiled, and where the command line keeps them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

__all__ = ["compiler_options", "keep_programs", "plain", "standalone"]

F = TypeVar("F", bound=Callable[..., Any])

_CACHE_BYTES = 256 << 20  # of compiled programs; the least recently used go first
_OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {"xla_backend_optimization_level": 1},
    "gpu": {"xla_gpu_enable_while_loop_double_buffering": True},
}


def compiler_options(*, once: bool = False) -> dict[str, Any] | None:
    """The `compiler_options` of `jax.jit` and `lower(...).compile` for an update.

    ```python
    update = jax.jit(learner.update, compiler_options=mj.compiler_options())
    ```

    On a CPU, LLVM's optimisation level 1 instead of XLA's default, 3: with less unrolling and
    vectorisation, loops compile in three quarters of the time and run as fast or faster (updates on
    mazes by a quarter). On a GPU, double-buffered loops, of two steps per iteration, which saves
    copies and launches: on mazes a third of an update. None elsewhere, and where jax was told to
    optimise even less.

    Args:
        once: for a program that runs only once, so that optimising it does not pay off.
    """
    if jax.config.read("jax_disable_most_optimizations"):
        return None
    if once and jax.default_backend() == "cpu":
        return {"xla_backend_optimization_level": 0}
    options = _OPTIONS.get(jax.default_backend())
    return None if options is None else dict(options)


def standalone(function: F) -> F:
    """`function`, compiled where it is called by itself, and plain within a larger program.

    Operation by operation, as jax runs what is not compiled, adapting to one task takes hundreds of
    small programs, and several times as long to begin with.
    """

    @functools.cache
    def compiled() -> Callable[..., Any]:  # not before a backend is needed
        return jax.jit(function, compiler_options=compiler_options())

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves = [*jax.tree.leaves((args, kwargs)), jnp.zeros(())]  # the last: traced in any trace
        is_traced = any(isinstance(leaf, Tracer) for leaf in leaves)
        return (function if is_traced else compiled())(*args, **kwargs)

    _plain[call] = function
    return call  # type: ignore[return-value]


# No attribute, which whoever decorates the function with `functools.wraps` would copy.
_plain: weakref.WeakKeyDictionary[Any, Callable[..., Any]] = weakref.WeakKeyDictionary()


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `standalone` made `function` of, or `function` itself: equal where that is."""
    return _plain.get(function, function) if isinstance(function, FunctionType) else function


def keep_programs() -> None:
    """Compiled programs stay in the user's cache folder, so that a second start is a quick one.

    All that jax compiles from here on, as the command line does. jax's own settings decide where
    they are set: `JAX_COMPILATION_CACHE_DIR` moves the folder, `JAX_ENABLE_COMPILATION_CACHE=0`
    keeps nothing.
    """
    import platformdirs

    if getattr(jax.config, "jax_compilation_cache_dir") is None:  # noqa: B009
        folder = platformdirs.user_cache_path("metajax") / "programs"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
