"""How much faster is metajax than PyTorch on one MAML update of point navigation?

Both sides do the whole update: fresh goals, rollouts, baseline, advantages, K inner steps, rollouts
again, second-order meta-gradient, Adam. First the sides must agree, from the same parameters and
the same batches; then all are timed in one run, in turn, in pairs that see the same machine.

    python benchmarks/maml_vs_torch.py --pairs 9 --json figures.json

On a CPU, metajax has every core as a JAX device and PyTorch has as many threads. Where JAX and
PyTorch both see a GPU, both run there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
import torch_maml
import tyro
from rich.console import Console
from rich.table import Table
from torch_parity import (
    Contest,
    collection_errors,
    contest,
    freeze,
    meta_gradient_errors,
    relative_error,
    torch_params,
    update_keys,
)

import metajax as mj

TOLERANCE = 1e-4  # of a meta-gradient, ‖difference‖ / ‖reference‖ of each parameter


@dataclasses.dataclass(frozen=True)
class Options:
    """Times one MAML update on point navigation, metajax against PyTorch, after they agreed."""

    tasks: int = 40  # N, tasks of one update
    episodes: int = 20  # B, episodes per task and collection
    horizon: int = 100  # T, most steps of an episode
    inner_steps: int = 1  # K
    pairs: int = 5  # runs of every side, in turn
    updates: int = 5  # updates of one run, each timed and waited for
    devices: int | None = None  # JAX devices; every core, or every GPU, that divides the tasks
    threads: int | None = None  # PyTorch threads; every core
    chunk: int | None = None  # tasks per compiled PyTorch gradient; 10 on a CPU, all on a GPU
    seed: int = 0
    json: Path | None = None  # writes the figures there as well
    profile: Path | None = None  # writes a trace of each side into that folder

    def check(self) -> None:
        """Raises ValueError for a size that cannot be."""
        for field in dataclasses.fields(self):
            value, low = getattr(self, field.name), 0 if field.name == "seed" else 1
            if isinstance(value, int) and value < low:
                raise ValueError(f"{field.name}: expected at least {low}, got {value}")
        if self.tasks % (self.devices or 1):
            raise ValueError(f"devices: expected a divisor of {self.tasks}, got {self.devices}")

    @property
    def setting(self) -> torch_maml.Setting:
        """The same sizes for the PyTorch side."""
        return torch_maml.Setting(self.tasks, self.episodes, self.horizon, self.inner_steps)


def agreement(
    side: Contest,
    state: mj.MetaState,
    program: Any,
    options: Options,
    device: str,
    **torch_side: Any,
) -> dict[str, float]:
    """Every relative error between the sides, and between metajax's timed program and its parts.

    Raises:
        SystemExit: they do not do the same thing; no time would mean anything.
    """
    frozen = freeze(side, state.params, update_keys(state, options.tasks))
    gradients = meta_gradient_errors(side, state.params, frozen, device, **torch_side)
    errors = {f"meta-gradient, {name}": error for name, error in gradients.items()}
    collected = collection_errors(side, frozen, device)
    errors |= {f"collection, {name}": error for name, error in collected.items()}
    norm = program(jax.tree.map(jnp.copy, state))[1]["gradient_norm"]
    errors["timed program, gradient norm"] = relative_error(
        [norm], [optax.global_norm(frozen.gradient)]
    )
    # Advantages go through a float32 least-squares fit of each side, the rest is plain arithmetic.
    bad = [f"{k} {v:.1e}" for k, v in errors.items() if v > (1e-3 if "advan" in k else TOLERANCE)]
    if bad:
        raise SystemExit(f"the two sides disagree, nothing was timed: {', '.join(bad)}")
    return errors


def other_load() -> tuple[float, float] | None:
    """CPU seconds of every process but this one, and the clock; None where Linux cannot tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    idle = int(fields[3]) + int(fields[4])
    busy = sum(map(int, fields[:8])) - idle
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time(), time.perf_counter()


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def clock(step: Callable[[], Any]) -> float:
    """Seconds of one update, which waits for its own result."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def race(
    sides: dict[str, Callable[[], Any]], options: Options, console: Console
) -> dict[str, list[list[float]]]:
    """Seconds of every update: `pairs` runs of `updates` per side, the order turned each time."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in sides}
    names = list(sides)
    for pair in range(options.pairs):
        with console.status(f"pair {pair + 1} of {options.pairs}"):
            for name in names if pair % 2 == 0 else reversed(names):
                seconds[name].append([clock(sides[name]) for _ in range(options.updates)])
    return seconds


def figures(
    seconds: dict[str, list[list[float]]], first: dict[str, float], env_steps: int
) -> dict[str, dict[str, Any]]:
    """What is printed of each side. A run's time is the median of its updates."""
    runs = {name: [statistics.median(run) for run in of_side] for name, of_side in seconds.items()}
    out: dict[str, dict[str, Any]] = {}
    for name, of_side in runs.items():
        median = statistics.median(of_side)
        ratios = [time / ours for time, ours in zip(of_side, runs["metajax"], strict=True)]
        out[name] = {
            "first_update_s": first[name],
            "median_ms": 1e3 * median,
            "best_ms": 1e3 * min(map(min, seconds[name])),
            "worst_ms": 1e3 * max(map(max, seconds[name])),
            "updates_per_s": 1 / median,
            "env_steps_per_s": env_steps / median,
            "metajax_is_faster_by": statistics.median(ratios),
            "pairs": ratios,
        }
    return out


def show(console: Console, report: dict[str, Any]) -> None:
    table = Table(title="One MAML update on point navigation", caption=report["hardware"])
    table.add_column("side")
    for column in ("first s", "median ms", "best", "worst", "updates/s", "env steps/s", "ratio"):
        table.add_column(column, justify="right")
    for name, row in report["sides"].items():
        low, high = min(row["pairs"]), max(row["pairs"])
        spread = "" if name == "metajax" else f" ({low:.2f} to {high:.2f})"
        table.add_row(
            name,
            f"{row['first_update_s']:.1f}",
            *(f"{row[key]:.0f}" for key in ("median_ms", "best_ms", "worst_ms")),
            f"{row['updates_per_s']:.2f}",
            f"{row['env_steps_per_s']:,.0f}",
            f"{row['metajax_is_faster_by']:.2f}{spread}",
        )
    console.print(table)
    console.print(
        "ratio: how many times faster metajax is, the median (and range) of the pairs' ratios; "
        "first: the first update, compilation included"
    )
    console.print(f"versions: {report['versions']}; sizes: {report['sizes']}")
    worst = max(report["agreement"].items(), key=lambda item: item[1])
    console.print(f"the sides agree; largest relative error: {worst[1]:.1e} ({worst[0]})")
    if report["other_processes_cores"] is not None:
        busy = report["other_processes_cores"]
        console.print(f"other processes used {busy:.2f} cores meanwhile: under 0.1 is quiet")


def profile(folder: Path, sides: dict[str, Callable[[], Any]]) -> None:
    """One update of each side under its own profiler, a trace per side into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, step in sides.items():
        if name == "metajax":
            with jax.profiler.trace(str(folder / "metajax")):
                step()
            continue
        with torch.profiler.profile() as trace:
            step()
        trace.export_chrome_trace(str(folder / f"{name.replace(', ', '-').replace(' ', '-')}.json"))


def compare(options: Options, console: Console) -> None:
    """The whole benchmark; its progress goes to `console`, its figures to the screen and files."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    divisors = [n for n in range(1, cores + 1) if options.tasks % n == 0]
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with PyTorch
    jax.config.update("jax_num_cpu_devices", options.devices or max(divisors))
    gpu = jax.default_backend() == "gpu"
    if gpu and not torch.cuda.is_available():
        raise ValueError("JAX sees a GPU and PyTorch none: set JAX_PLATFORMS=cpu for CPU figures")
    device = "cuda" if gpu else "cpu"
    torch.set_num_threads(options.threads or cores)
    torch.manual_seed(options.seed)
    available = options.devices or max(n for n in divisors if n <= len(jax.devices()))
    side = contest(options.setting, mj.task_mesh(available))
    setting, chunk = (
        side.setting,
        options.chunk or (options.tasks if gpu else min(10, options.tasks)),
    )

    first: dict[str, float] = {}
    state = jax.jit(side.learner.init)(jax.random.key(options.seed))
    with console.status("compiling metajax"):
        start = time.perf_counter()
        program = jax.jit(side.learner.update, donate_argnums=0).lower(state).compile()
        jax.block_until_ready(program(jax.tree.map(jnp.copy, state)))
        first["metajax"] = time.perf_counter() - start

    compiled = torch_maml.compiled_kernels()
    with console.status("comparing the sides"), jax.default_matmul_precision("highest"):
        errors = agreement(side, state, program, options, device, chunk=chunk, compiled=compiled)
    if gpu:
        torch.set_float32_matmul_precision("high")  # TF32 from here on, as JAX does by default

    carried = [state]

    def metajax() -> None:
        carried[0], _ = jax.block_until_ready(program(carried[0]))

    def pytorch(**how: Any) -> Callable[[], None]:
        update = torch_maml.make_update(torch_params(state.params, device), setting, **how)

        def step() -> None:
            update()
            if gpu:
                torch.cuda.synchronize()

        return step

    sides = {
        "metajax": metajax,
        "torch, batched and compiled": pytorch(chunk=chunk, kernels=compiled),
        "torch, batched": pytorch(),
        "torch, loop over tasks": pytorch(loop=True),
    }
    for name, step in sides.items():
        seconds = clock(step)
        first.setdefault(name, seconds)
    before = other_load()
    seconds = race(sides, options, console)
    after = other_load()
    others = (after[0] - before[0]) / (after[1] - before[1]) if before and after else None
    where = jax.devices()[0].device_kind if gpu else f"{cpu_name()}, {cores} cores"
    report = {
        "benchmark": "maml_vs_torch",
        "hardware": f"{where}; {available} JAX devices, {torch.get_num_threads()} PyTorch threads",
        "versions": f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"torch {torch.__version__}, metajax {mj.__version__}",
        "sizes": dataclasses.asdict(setting) | {"compiled_chunk": chunk},
        "pairs": options.pairs,
        "updates_per_run": options.updates,
        "agreement": errors,
        "other_processes_cores": others,
        "sides": figures(seconds, first, setting.env_steps),
    }
    show(Console(), report)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.profile:
        profile(options.profile, sides)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    console = Console(stderr=True)
    try:
        options.check()
        compare(options, console)
    except ValueError as error:
        console.print(f"maml_vs_torch: {error}", style="red", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
