"""How much faster is metajax than PyTorch on one MAML update of a preset?

    python benchmarks/maml_vs_torch.py                        # point
    python benchmarks/maml_vs_torch.py maze --pairs 9 --json figures.json
    python benchmarks/maml_vs_torch.py gridworld --profile traces

Both sides do the whole update: fresh tasks, rollouts, baseline, advantages, K inner steps, rollouts
again, second-order meta-gradient, Adam. Grids are the exception: PyTorch picks its grids from a
pool drawn beforehand, metajax draws them in the update. First the sides must agree, given the same
parameters and the same batches; then all are timed in one run, in turn, in pairs that see the same
machine. The difference between the timed program and the plain one (one device, all tasks at once)
after ten updates is reported beside the times, and refused where it is more than rounding makes.

On a CPU, metajax uses every core as a JAX device and PyTorch as many threads. If JAX and PyTorch
both see a GPU, both run there, and both round the operands of float32 products (TF32), as JAX does
by default. Agreement is checked in full precision, with metajax's networks as plain ones, except
for what Inductor compiled; of the timed program, the gradient's norm and the parameters after ten
updates are checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from metajax.algorithms.core import task_keys
from metajax.presets import preset
from peers import split
from peers.bridge import BRIDGES
from peers.contenders import Contender, contender_names, contenders
from peers.contest import Contest, contest, torch_params
from peers.parity import (
    collection_errors,
    freeze,
    meta_gradient_error,
    outer_step_error,
    relative_error,
)
from support import records, screen
from support.layouts import apart, one_update
from support.timing import cores_between, figures, other_load, race

QUIET = 0.1  # cores that other processes may use without making ratios unreliable
TOLERANCE = 1e-4  # greatest ‖difference‖ / ‖reference‖ of an array
DRIFT = 5e-2, 2e-1  # the same after ten updates, which magnify it: on a CPU, on a GPU
_ROUNDED = ("torch compiled", "all at once")  # ends of the names of what rounds likewise on a GPU
UPDATES = 10  # updates after which the timed program and the plain one are compared
_GRIDS = (
    "by square: the network sees each square once, not each step, as in metajax.",
    "PyTorch's grids were drawn before it was timed; metajax draws its own in the update.",
)
_STATES = "by square: the network sees each state once, not each step, as in metajax."
_PULLS = "by square: the network sees its one observation once, metajax's sees it at each pull."
_FUNC = "torch.func: by square too, as one-hot vectors of all steps would take gigabytes."
_NOTES = dict.fromkeys(("maze", "gridworld"), _GRIDS)
_NOTES |= dict.fromkeys(("maze-q", "gridworld-q"), (*_GRIDS, _FUNC))
_NOTES |= {"tabular-mdp": (_STATES,), "bandit-10x5": (_PULLS,)}
"""By preset, notes below the table."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Times one MAML update of a preset, metajax against PyTorch, after they agreed."""

    preset: tyro.conf.Positional[
        Annotated[str, tyro.conf.arg(help=f"{', '.join(BRIDGES)}; sizes not given here are its.")]
    ] = "point"
    tasks: int | None = None
    """N, tasks per update."""
    episodes: int | None = None
    """B, episodes per task and batch, or shots."""
    horizon: int | None = None
    """T, the most steps of an episode."""
    inner_steps: int | None = None
    """K, inner steps."""
    pairs: int = 5
    """Runs of every side, in turn."""
    updates: int = 5
    """Updates per run, each timed until it is done."""
    devices: int | None = None
    """JAX devices; by default as many cores, or GPUs, as divide the tasks."""
    threads: int | None = None
    """PyTorch threads; one per core by default."""
    chunk: int | None = None
    """Tasks per chunk of a chunked PyTorch gradient; by default up to 10 on a CPU, all on a GPU."""
    only: tuple[str, ...] = ()
    """PyTorch variants, as named in the table; all by default. A loop over thousands of tasks takes
    minutes per update."""
    seed: int = 0
    json: Path | None = None
    """Also writes the figures to this JSON file."""
    profile: Path | None = None
    """Writes a trace of each side into this folder, and reports where the time goes."""

    def contest(self, **layout: Any) -> Contest:
        """The preset at the sizes asked for, laid out on hardware as `layout` says."""
        names = ("tasks", "episodes", "horizon", "inner_steps")
        given = {name: getattr(self, name) for name in names}
        sizes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
        if self.preset.startswith("sinusoid"):
            if "horizon" in sizes:
                raise ValueError("horizon: is for episodes, which sine waves do not have")
            if "episodes" in sizes:
                sizes["shots"] = sizes.pop("episodes")
        return contest(self.preset, seed=self.seed, **sizes, **layout)


@contextlib.contextmanager
def _full_precision(wanted: bool) -> Iterator[None]:
    """Turns rounding in PyTorch's float32 matrix products off or on; a change recompiles."""
    before = torch.get_float32_matmul_precision()
    if wanted:
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def agreement(
    side: Contest, params: Any, keys: jax.Array, ways: dict[str, Contender], device: str
) -> tuple[dict[str, float], Any]:
    """Every relative error between the sides: in meta-gradients, rollouts and advantages.

    Also returns metajax's meta-gradient.
    """
    frozen = freeze(side, params, keys)
    errors: dict[str, float] = {}
    collected = []
    for name, way in ways.items():
        compiled = way.collects is not None and way.collects[1].block is not None
        with _full_precision(device == "cuda" and not compiled):
            error = meta_gradient_error(side, params, frozen, way, device)
            errors[f"meta-gradient, {name}"] = error
            if way.collects is None or way.collects in collected:
                continue
            collected.append(way.collects)
            dtype = torch.float32 if compiled else torch.float64
            found = collection_errors(side, frozen, way, device, dtype)
        errors |= {f"{kind}, {name}": error for kind, error in found.items()}
    return errors, frozen.gradient


def refuse_disagreement(errors: dict[str, float], machine: Machine) -> None:
    """Raises SystemExit if the sides do not compute the same: times would be meaningless."""

    def bound(name: str) -> float:
        if name == "after ten updates":
            return DRIFT[machine.gpu]
        rounds = name.startswith("timed program") or name.endswith(_ROUNDED)
        if rounds and machine.gpu:
            return 1e-2  # it multiplies in TF32, its reference in float32
        return TOLERANCE

    bad = [f"{name} {error:.1e}" for name, error in errors.items() if not error < bound(name)]
    if bad:
        raise SystemExit(f"the two sides disagree, nothing was timed: {', '.join(bad)}")


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def show(console: Console, report: dict[str, Any]) -> None:
    table = Table(
        title=f"One MAML update of {report['preset']}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("side", no_wrap=True)
    for column in ("first s", "ms", "best", "worst", "samples/s", "ratio (range)"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in report["sides"].items():
        low, high = min(row["pairs"]), max(row["pairs"])
        table.add_row(
            name,
            f"{row['first_update_s']:.1f}",
            *(_ms(row[key]) for key in ("median_ms", "best_ms", "worst_ms")),
            f"{row['samples_per_s'] / 1e6:.2f}M",
            "1" if name == "metajax" else f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})",
        )
    for name in report["unavailable"]:
        table.add_row(name, *["n/a"] * 6)
    console.print(table)
    for name, reason in report["unavailable"].items():
        console.print(f"{name}: n/a: {reason}", markup=False, highlight=False)
    sizes = report["sizes"]
    of_examples = report["preset"].startswith("sinusoid")
    each = "shots" if of_examples else f"episodes, {sizes['horizon']} steps"
    for line in (
        "ms: a run's median update, the median over runs; best and worst are of single updates.",
        "ratio: how many times faster metajax is, the median (and range) over pairs of runs.",
        "first: an update with its compilation, or what Inductor's disk cache left of that.",
        "samples: steps simulated, none left out after an episode's end; or examples.",
        *_NOTES.get(report["preset"], ()),
        f"{sizes['tasks']} tasks, {sizes['episodes']} {each}, "
        f"{sizes['inner_steps']} inner steps; PyTorch compiled or in chunks: "
        f"{sizes['chunk']} tasks at once; {report['pairs']} pairs of runs of "
        f"{report['updates_per_run']} updates",
        report["machine"],
        ", ".join(f"{name} {version}" for name, version in records.versions("torch").items()),
    ):
        console.print(line, markup=False, highlight=False)
    worst = max(report["agreement"].items(), key=lambda item: item[1])
    console.print(f"The sides agree; largest relative error {worst[1]:.1e} ({worst[0]}).")
    console.print(
        f"After {UPDATES} updates it is where one device with all tasks at once is, within "
        f"{report['after_ten_updates']:.1e} of the way."
    )
    others = report["other_processes_cores"]
    if others is not None:
        console.print(f"Other processes used {others:.2f} cores meanwhile.")
        if others > QUIET:
            console.print(
                "That is not quiet: a thread of PyTorch that loses its core holds up all the "
                "others, far more than XLA's, so these ratios flatter metajax. Run it again.",
                style="yellow",
            )


class Machine(NamedTuple):
    """What the sides run on."""

    gpu: bool
    devices: int  # JAX devices used
    threads: int  # PyTorch threads
    chunk: int  # tasks per chunk of a chunked PyTorch gradient

    @property
    def description(self) -> str:
        return f"{records.hardware()}; {self.devices} JAX devices, {self.threads} PyTorch threads"


def set_up(options: Options) -> Machine:
    """Makes the whole machine available to both sides.

    Raises:
        ValueError: JAX has a GPU and PyTorch has none, or the devices do not divide the tasks.
    """
    cores = records.cores()
    tasks = options.tasks or preset(options.preset, "maml").tasks
    divisors = [n for n in range(1, tasks + 1) if tasks % n == 0]
    if options.devices not in (None, *divisors):
        raise ValueError(f"devices: expected a divisor of {tasks}, got {options.devices}")
    records.share_gpu()  # with PyTorch
    on_cpu = options.devices or max(n for n in divisors if n <= cores)
    jax.config.update("jax_num_cpu_devices", on_cpu)
    gpu = jax.default_backend() == "gpu"
    if gpu and not torch.cuda.is_available():
        raise ValueError("JAX sees a GPU and PyTorch none: set JAX_PLATFORMS=cpu for CPU figures")
    devices = options.devices or max(n for n in divisors if n <= len(jax.devices()))
    threads = options.threads or cores
    torch.set_num_threads(threads)
    torch.manual_seed(options.seed)
    chunk = options.chunk or (tasks if gpu else max(n for n in divisors if n <= 10))
    return Machine(gpu, devices, threads, chunk)


def compare(options: Options, machine: Machine, console: Console) -> None:
    """The whole benchmark; its progress goes to `console`, its figures to the screen and files."""
    side = options.contest(devices=machine.devices)
    device = "cuda" if machine.gpu else "cpu"
    state = jax.jit(side.learner.init)(jax.random.key(options.seed))
    start = jax.tree.map(jnp.copy, state)
    with console.status("compiling metajax"):
        began = time.perf_counter()
        program = one_update(side.learner).lower(state).compile()
        after, metrics = program(jax.tree.map(jnp.copy, state))
        norm = float(metrics["gradient_norm"])
        first = {"metajax": time.perf_counter() - began}
    if machine.gpu:
        torch.set_float32_matmul_precision("high")
    tasks = side.setting.tasks
    plain = options.contest(devices=1, chunk=tasks, tile=tasks).learner
    ways = contenders(side, torch_params(start.params, device), device, machine.chunk, options.only)
    carried = [state]

    def metajax() -> None:
        carried[0], _ = jax.block_until_ready(program(carried[0]))

    def pytorch(way: Contender) -> Callable[[], None]:
        update = way.update(torch_params(start.params, device))

        def step() -> None:
            update()
            if machine.gpu:
                torch.cuda.synchronize()

        return step

    sides: dict[str, Callable[[], None]] = {"metajax": metajax}
    unavailable: dict[str, str] = {}
    with console.status("compiling PyTorch"):
        for name, way in ways.items():
            began = time.perf_counter()
            try:
                step = pytorch(way)
                step()
            except Exception as error:  # a compiler is missing, or rejects the program
                unavailable[name] = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            else:
                first[name] = time.perf_counter() - began
                sides[name] = step
    with console.status("comparing the sides"), jax.default_matmul_precision("highest"):
        able = {name: way for name, way in ways.items() if name in sides}
        keys = task_keys(start, tasks)
        errors, gradient = agreement(side, start.params, keys, able, device)
        if machine.gpu:  # the timed program rounds; its step is compared without
            after, _ = one_update(plain)(jax.tree.map(jnp.copy, start))
        errors["outer step"] = outer_step_error(side, start.params, gradient, after)
        timed = relative_error([norm], [optax.global_norm(gradient)])
        errors["timed program, gradient norm"] = timed
    refuse_disagreement(errors, machine)
    with console.status(f"comparing {UPDATES} updates with one device's, all tasks at once"):
        drift = apart(side.learner, plain, start, UPDATES, "highest" if machine.gpu else None)
    refuse_disagreement({"after ten updates": drift}, machine)

    before = other_load()
    seconds = race(sides, options.pairs, options.updates, console)
    others = cores_between(before, other_load())
    report = {
        "benchmark": "maml_vs_torch",
        "preset": options.preset,
        "machine": machine.description,
        "sizes": dataclasses.asdict(side.setting) | {"chunk": machine.chunk},
        "pairs": options.pairs,
        "updates_per_run": options.updates,
        "agreement": errors,
        "after_ten_updates": drift,
        "other_processes_cores": others,
        "unavailable": unavailable,
        "sides": figures(seconds, first, side.setting.samples),
    }
    out = Console()
    show(out if out.is_terminal else Console(width=100), report)  # a file has room for wide tables
    if options.json:
        records.write(options.json, report, "torch")
    if options.profile and machine.gpu:
        console.print("maml_vs_torch: profile: is for CPUs, left out", style="yellow")
    elif options.profile:
        folder = options.profile / options.preset
        report["shares"] = split.profile(folder, program, carried[0], sides)
        screen.show(split.show(report["shares"]))
        if options.json:
            records.write(options.json, report, "torch")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.check_names("preset", [options.preset], BRIDGES)
    records.check_sizes(options)
    try:
        machine = set_up(options)
        side = options.contest(devices=machine.devices)  # raises here if a size does not fit
        known = contender_names(side.preset, machine.gpu, machine.chunk < side.setting.tasks)
        records.check_names("only", options.only, known)
    except ValueError as error:
        records.refuse(str(error))
    compare(options, machine, Console(stderr=True))


if __name__ == "__main__":
    main()
