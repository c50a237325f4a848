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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import torch
import torch_learn2learn
import torch_maml
import tyro
from records import hardware
from rich import box
from rich.console import Console
from rich.table import Table
from torch_parity import (
    Contest,
    Frozen,
    collection_errors,
    contest,
    freeze,
    meta_gradient_errors,
    policy_module,
    relative_error,
    torch_params,
    update_keys,
)

import metajax as mj

QUIET = 0.1  # cores that other processes may use while ratios are to be believed
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
    side: Contest, params: Any, frozen: Frozen, device: str, **torch_side: Any
) -> dict[str, float]:
    """Every relative error between the sides: of meta-gradients, rollouts and advantages."""
    gradients = meta_gradient_errors(side, params, frozen, device, **torch_side)
    collected = collection_errors(side, frozen, device)
    return {f"meta-gradient, {name}": error for name, error in gradients.items()} | {
        f"collection, {name}": error for name, error in collected.items()
    }


def refuse_disagreement(errors: dict[str, float], machine: Machine) -> None:
    """Raises SystemExit where the sides do not do the same thing: no time would mean anything."""

    def bound(name: str) -> float:
        if name.startswith("timed program") and machine.gpu:
            return 1e-2  # it multiplies in TF32, what it is compared with in float32
        # Each side fits its own baseline by float32 least squares.
        return 1e-3 if name == "collection, advantage" else TOLERANCE

    bad = [f"{name} {error:.1e}" for name, error in errors.items() if not error < bound(name)]
    if bad:
        raise SystemExit(f"the two sides disagree, nothing was timed: {', '.join(bad)}")


def other_load() -> tuple[float, float] | None:
    """CPU seconds of every process but this one, and the clock; None where Linux cannot tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    idle = int(fields[3]) + int(fields[4])
    busy = sum(map(int, fields[:8])) - idle
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time(), time.perf_counter()


def cores_between(
    before: tuple[float, float] | None, after: tuple[float, float] | None
) -> float | None:
    """Cores that other processes used between two calls of `other_load`."""
    if before is None or after is None:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])


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
            "ratio": statistics.median(ratios),
            "pairs": ratios,
        }
    return out


def show(console: Console, report: dict[str, Any]) -> None:
    table = Table(
        title="One MAML update on point navigation",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("side", no_wrap=True)
    for column in ("first s", "ms", "best", "worst", "upd/s", "steps/s", "ratio (range)"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in report["sides"].items():
        low, high = min(row["pairs"]), max(row["pairs"])
        table.add_row(
            name,
            f"{row['first_update_s']:.1f}",
            *(f"{row[key]:.0f}" for key in ("median_ms", "best_ms", "worst_ms")),
            f"{row['updates_per_s']:.2f}",
            f"{row['env_steps_per_s'] / 1e6:.2f}M",
            "1" if name == "metajax" else f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})",
        )
    console.print(table)
    sizes = report["sizes"]
    for line in (
        "ms: a run's median update, the median over runs; best and worst are of single updates.",
        "ratio: how many times faster metajax is, the median (and range) over pairs of runs.",
        "first: an update with its compilation, or what Inductor's disk cache left of that.",
        "steps: of the environments, simulated; none is left out after an episode's end.",
        f"{sizes['tasks']} tasks, {sizes['episodes']} episodes, {sizes['horizon']} steps, "
        f"{sizes['inner_steps']} inner steps; compiled PyTorch in chunks of "
        f"{sizes['compiled_chunk']}; {report['pairs']} pairs of runs of "
        f"{report['updates_per_run']} updates",
        report["hardware"],
        report["versions"],
    ):
        console.print(line, markup=False, highlight=False)
    worst = max(report["agreement"].items(), key=lambda item: item[1])
    console.print(f"The sides agree; largest relative error {worst[1]:.1e} ({worst[0]}).")
    others = report["other_processes_cores"]
    if others is not None:
        console.print(f"Other processes used {others:.2f} cores meanwhile.")
        if others > QUIET:
            console.print(
                "That is not quiet: a thread of PyTorch that loses its core holds up all the "
                "others, far more than XLA's, so these ratios flatter metajax. Run it again.",
                style="yellow",
            )


def profile(folder: Path, sides: dict[str, Callable[[], Any]]) -> None:
    """One update of each side under its own profiler, a trace per side into `folder`.

    All but PyTorch's loop: its 100 000 calls make a trace of 100 MB, of what `batched` shows once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, step in sides.items():
        if name.startswith("torch loop"):
            continue
        if name == "metajax":
            with jax.profiler.trace(str(folder / "metajax")):
                step()
            continue
        with torch.profiler.profile() as trace:
            step()
        trace.export_chrome_trace(str(folder / f"{name.replace(' ', '-')}.json"))


class Machine(NamedTuple):
    """What the sides run on."""

    gpu: bool
    cores: int
    devices: int  # JAX devices used
    threads: int  # PyTorch threads
    chunk: int  # tasks of one compiled PyTorch gradient

    @property
    def description(self) -> str:
        return f"{hardware()}; {self.devices} JAX devices, {self.threads} PyTorch threads"


def set_up(options: Options) -> Machine:
    """Gives both sides all of the machine that they can use.

    Raises:
        ValueError: JAX has a GPU and PyTorch none.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    divisors = [n for n in range(1, max(cores, 64) + 1) if options.tasks % n == 0]
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with PyTorch
    on_cpu = options.devices or max(n for n in divisors if n <= cores)
    jax.config.update("jax_num_cpu_devices", on_cpu)
    gpu = jax.default_backend() == "gpu"
    if gpu and not torch.cuda.is_available():
        raise ValueError("JAX sees a GPU and PyTorch none: set JAX_PLATFORMS=cpu for CPU figures")
    devices = options.devices or max(n for n in divisors if n <= len(jax.devices()))
    threads = options.threads or cores
    torch.set_num_threads(threads)
    torch.manual_seed(options.seed)
    chunk = options.chunk or (options.tasks if gpu else min(10, options.tasks))
    return Machine(gpu, cores, devices, threads, chunk)


def compare(options: Options, machine: Machine, console: Console) -> None:
    """The whole benchmark; its progress goes to `console`, its figures to the screen and files."""
    side = contest(options.setting, mj.task_mesh(machine.devices))
    device = "cuda" if machine.gpu else "cpu"
    state = jax.jit(side.learner.init)(jax.random.key(options.seed))
    params = jax.tree.map(jnp.copy, state.params)
    with console.status("compiling metajax"):
        start = time.perf_counter()
        program = jax.jit(side.learner.update, donate_argnums=0).lower(state).compile()
        norm = float(program(jax.tree.map(jnp.copy, state))[1]["gradient_norm"])
        first = {"metajax": time.perf_counter() - start}

    kernels, carried = torch_maml.compiled_kernels(), [state]
    keys = update_keys(state, options.tasks)

    def metajax() -> None:
        carried[0], _ = jax.block_until_ready(program(carried[0]))

    def pytorch(**how: Any) -> Callable[[], None]:
        update = torch_maml.make_update(torch_params(params, device), side.setting, **how)

        def step() -> None:
            update()
            if machine.gpu:
                torch.cuda.synchronize()

        return step

    sides = {
        "metajax": metajax,
        "torch compiled": pytorch(chunk=machine.chunk, kernels=kernels),
        "torch batched": pytorch(),
        "torch loop": pytorch(loop=True),
    }
    if not machine.gpu:  # it is written for the processor
        update = torch_learn2learn.make_update(policy_module(params), side.setting)

        def as_learn2learn() -> None:
            update()

        sides["torch loop, learn2learn's way"] = as_learn2learn
    with console.status("compiling PyTorch"):
        first |= {name: clock(step) for name, step in sides.items() if name not in first}
    with console.status("comparing the sides"), jax.default_matmul_precision("highest"):
        frozen = freeze(side, params, keys)
        errors = agreement(side, params, frozen, device, chunk=machine.chunk, compiled=kernels)
        timed = relative_error([norm], [optax.global_norm(frozen.gradient)])
        errors["timed program, gradient norm"] = timed
    refuse_disagreement(errors, machine)
    if machine.gpu:
        torch.set_float32_matmul_precision("high")  # TF32 from here on, as JAX does by default

    before = other_load()
    seconds = race(sides, options, console)
    after = other_load()
    report = {
        "benchmark": "maml_vs_torch",
        "hardware": machine.description,
        "versions": f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"torch {torch.__version__}, metajax {mj.__version__}",
        "sizes": dataclasses.asdict(side.setting) | {"compiled_chunk": machine.chunk},
        "pairs": options.pairs,
        "updates_per_run": options.updates,
        "agreement": errors,
        "other_processes_cores": cores_between(before, after),
        "sides": figures(seconds, first, side.setting.env_steps),
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
        machine = set_up(options)
    except ValueError as error:
        console.print(f"maml_vs_torch: {error}", style="red", markup=False)
        sys.exit(2)
    compare(options, machine, console)


if __name__ == "__main__":
    main()
