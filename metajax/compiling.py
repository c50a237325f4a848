"""How programs are compiled."""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["compiler_options"]


def compiler_options() -> dict[str, Any] | None:
    """What `jax.jit` and `lower(...).compile` take as `compiler_options` for an update.

    ```python
    update = jax.jit(learner.update, compiler_options=mj.compiler_options())
    ```

    On a CPU it is LLVM's first level of optimisation in the place of XLA's choice, the third: loops
    that are unrolled and vectorised less compile in three quarters of the time, and run as fast or
    faster (updates on mazes by a quarter). None elsewhere, where LLVM has little to do, and where
    jax was told to optimise less still.
    """
    least = jax.config.read("jax_disable_most_optimizations")
    if least or jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 1}
