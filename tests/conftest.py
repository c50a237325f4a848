"""Every test runs on two CPU devices, with strict dtypes and ranks; a warning is an error.

Compilation is most of the default selection's time, so XLA optimises little in it, and on a CPU
takes its older code generator, which is faster and makes slower code, and leaves a program in one
part, for the processes of a run have the cores already. Nor do its operations say where in the
source they come from, and garbage is looked for less often. Other selections (`-m smoke`,
`-m slow`), or `JAX_DISABLE_MOST_OPTIMIZATIONS=0`, run the programs as users do.
"""

import gc
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# Processes of one test run share what they compiled; nothing is left of an earlier run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="metajax-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
    # What takes less is compiled as quickly as it is found.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples every time, and no deadline: the first example pays for a compilation.
hypothesis.settings.register_profile("metajax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("metajax")


# What makes compiling cheap, as a process finds it in its environment.
CHEAP = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS": "0",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
    "XLA_FLAGS": " ".join(
        [
            *os.environ.get("XLA_FLAGS", "").split(),
            "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
            "--xla_cpu_parallel_codegen_split_count=1",
        ]
    ),
}


def pytest_configure(config):
    if config.option.markexpr == "not slow" and "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        os.environ.update(CHEAP)  # for the processes that tests start
        jax.config.update("jax_disable_most_optimizations", True)
        jax.config.update("jax_include_full_tracebacks_in_locations", False)
        jax.config.update("jax_traceback_in_locations_limit", 0)


@pytest.fixture
def cheap():
    return CHEAP


def pytest_collection_finish():
    gc.freeze()  # what was imported stays: no collection looks through all of it again
    gc.set_threshold(50_000, 20, 20)
