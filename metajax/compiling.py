"""How programs are compiled."""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["compiler_options"]


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
    return _OPTIONS.get(jax.default_backend())
