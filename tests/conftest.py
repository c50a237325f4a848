"""Every test runs on two CPU devices, with strict dtypes and ranks; a warning is an error.

Compilation is most of the time, so XLA optimises little; `JAX_DISABLE_MOST_OPTIMIZATIONS=0` runs
the programs as users do.
"""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Processes of one test run share what they compiled; nothing is left of an earlier run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="metajax-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name

import hypothesis
import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples every time, and no deadline: the first example pays for a compilation.
hypothesis.settings.register_profile("metajax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("metajax")
