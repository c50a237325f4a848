"""Every test runs on two CPU devices, with strict dtypes and ranks; a warning is an error.

Compilation is most of the time, so XLA optimises little; `JAX_DISABLE_MOST_OPTIMIZATIONS=0` runs
the programs as users do.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples every time, and no deadline: the first example pays for a compilation.
hypothesis.settings.register_profile("metajax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("metajax")
