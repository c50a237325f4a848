"""How many steps per second do our environments take, and all others that install?

    python benchmarks/environments.py --json figures.json --plot figures.png

Every environment runs in this one process: N of them under `vmap`, steps in one compiled loop,
with auto-reset, reading every element of every observation (for its maximum, and by the policy if
there is one). Compilation is reported separately; runs alternate, and the median and the worst are
reported.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.table import Table

import envs
from support import records
from support.generators import time_mazes
from support.timing import clock, race, timed
from support.worlds import CONTENDERS, Contender, load

Array = jax.Array

# Pairs of ours and a peer that draws no more than it. A reset draws nothing in JaxUED's level,
# MiniGrid's empty room and FourRooms, whose steps slip; it draws a goal in MetaMaze.
RATIOS = (
    ("maze 13x13, view 5, one of 65536 each episode", "gymnax MetaMaze"),
    ("maze 13x13, view 5", "jaxued Maze 13x13"),
    ("maze 13x13, view 5, a new one each episode", "Jumanji Maze-v0"),
    ("minigrid empty 8x8", "navix Empty-8x8"),
    ("minigrid empty 8x8", "XLand-MiniGrid Empty-8x8"),
    ("minigrid doorkey 8x8, a new one each episode", "navix DoorKey-Random-8x8"),
    ("minigrid doorkey 8x8, a new one each episode", "XLand-MiniGrid DoorKey-8x8"),
    ("gridworld 5x5, slipping", "gymnax FourRooms"),
)
HIDDEN = 64  # width of each of the policy's two layers


@dataclasses.dataclass(frozen=True)
class Options:
    """Times environments and generators of mazes."""

    only: tuple[str, ...] = ()
    """Contenders whose name contains one of these; all by default."""
    counts: tuple[int, ...] = (4096,)
    """Numbers of environments that run at once."""
    policy: bool = False
    """Also times loops with a policy of two layers of 64."""
    shared: bool = False
    """Also times our environments with one task for all of them."""
    repeats: int = 5
    """Timed runs of each contender."""
    seconds: float = 0.4
    """Intended length of a run."""
    mazes: bool = True
    """Also times maze generators and the solver."""
    compile: bool = True
    """Also times the first reset and step of every registered environment."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""
    plot: Path | None = None
    """Plots steps per second over the number of environments to this file."""


class Loop(NamedTuple):
    """A compiled loop of one contender."""

    run: Callable[[Any, int], Any]  # carry, steps -> carry, when it is ready
    carry: Any
    compile_s: float


def _policy(key: Array, inputs: int, actions: int) -> tuple[Array, ...]:
    widths = (inputs, HIDDEN, HIDDEN, actions)
    keys = jax.random.split(key, 3)
    return tuple(
        jax.random.normal(k, (i, o)) / jnp.sqrt(i)
        for k, i, o in zip(keys, widths[:-1], widths[1:], strict=True)
    )


def _flat(observation: Any) -> Array:
    """A whole observation as float32 [N, O]."""
    leaves = jax.tree.leaves(observation)
    return jnp.concatenate(
        [leaf.reshape(len(leaf), -1).astype(jnp.float32) for leaf in leaves], axis=1
    )


def build(contender: Contender, count: int, policy: bool, shared: bool) -> Loop:
    """N environments, and a loop whose number of steps is an argument."""
    keys = jax.random.split(jax.random.key(0), count)
    task_axis = None if shared else 0
    draw = contender.task if shared else jax.vmap(contender.task)
    tasks = jax.jit(draw)(keys[0] if shared else keys)
    reset = jax.vmap(contender.reset, in_axes=(0, task_axis))
    step = jax.vmap(contender.step, in_axes=(0, 0, 0, task_axis))
    states, observations = jax.jit(reset)(keys, tasks)
    network = _policy(jax.random.key(1), _flat(observations).shape[1], contender.actions)

    def act(key: Array, observations: Any) -> Array:
        if not policy:
            # Half as many random bits as `randint` draws, which were a third of our maze's loop.
            bits = jax.random.bits(key, (count,), jnp.uint16).astype(jnp.uint32)
            return (bits * jnp.uint32(contender.actions) >> jnp.uint32(16)).astype(jnp.int32)
        first, second, last = network
        hidden = jnp.tanh(jnp.tanh(_flat(observations) @ first) @ second)
        return jax.random.categorical(key, hidden @ last).astype(jnp.int32)

    def loop(carry: Any, tasks: Any, steps: Array) -> Any:
        def one(_: Array, carry: Any) -> Any:
            key, states, observations, total, seen = carry
            key, key_act, key_step = jax.random.split(key, 3)
            # Every element of every observation is read, so that no part is optimised away.
            seen = jax.tree.map(
                lambda most, leaf: jnp.maximum(most, jnp.max(leaf)), seen, observations
            )
            actions = act(key_act, observations)
            keys = jax.random.split(key_step, count)
            states, observations, rewards = step(keys, states, actions, tasks)
            return key, states, observations, total + jnp.sum(rewards), seen

        return jax.lax.fori_loop(0, steps, one, carry)

    most = jax.tree.map(jnp.max, observations)
    carry = (jax.random.key(2), states, observations, jnp.float32(0), most)
    start = time.perf_counter()
    compiled = jax.jit(loop).lower(carry, tasks, jnp.int32(1)).compile()
    compile_s = time.perf_counter() - start
    return Loop(
        lambda carry, steps: jax.block_until_ready(compiled(carry, tasks, jnp.int32(steps))),
        carry,
        compile_s,
    )


def _steps_for(loop: Loop, seconds: float) -> int:
    """How many steps take about `seconds`."""
    steps = 1
    while True:
        taken = clock(functools.partial(loop.run, loop.carry, steps))
        if taken > seconds / 4:
            return max(1, round(steps * seconds / taken))
        steps *= 4


def measure(options: Options, console: Console) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row per contender, number of environments and way of acting; and who was left out."""
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    names = [n for n in CONTENDERS if not options.only or any(o in n for o in options.only)]
    loaded = {}
    for name in names:
        found = load(name)
        if isinstance(found, str):
            left_out[name] = found
        else:
            loaded[name] = found
    for count in options.counts:
        for policy in (False, True) if options.policy else (False,):
            loops, steps = {}, {}
            for name, (contender, _) in loaded.items():
                ours = contender.package == "metajax"
                for shared in (False, True) if options.shared and ours else (False,):
                    with console.status(f"{name}: compiling for {count}"):
                        loop = build(contender, count, policy, shared)
                        loops[name, shared] = loop
                        steps[name, shared] = _steps_for(loop, options.seconds)
            runs = {
                which: functools.partial(loop.run, loop.carry, steps[which])
                for which, loop in loops.items()
            }
            for (name, shared), seconds in race(runs, options.repeats, 1, console).items():
                contender, version = loaded[name]
                of_it = [count * steps[name, shared] / taken for (taken,) in seconds]
                rows.append(
                    {
                        "name": name,
                        "package": f"{contender.package} {version}".strip(),
                        "environments": count,
                        "policy": policy,
                        "one_task_for_all": shared,
                        "compile_s": loops[name, shared].compile_s,
                        "steps_per_s": statistics.median(of_it),
                        "worst": min(of_it),
                        "runs": of_it,
                    }
                )
    return rows, left_out


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ratio of our speed to each peer's, run by run."""
    own = {
        (r["name"], r["environments"], r["policy"]): r for r in rows if not r["one_task_for_all"]
    }
    found = []
    for name, peer in RATIOS:
        for (who, count, policy), row in own.items():
            if who == name and (peer, count, policy) in own:
                theirs = own[peer, count, policy]["runs"]
                each = [a / b for a, b in zip(row["runs"], theirs, strict=True)]
                found.append(
                    {
                        "ours": name,
                        "peer": peer,
                        "environments": count,
                        "policy": policy,
                        "ratio": statistics.median(each),
                        "least": min(each),
                    }
                )
    return found


def kept_with_a_policy(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The share of an environment's speed that remains if a policy acts instead of chance."""
    rates = {
        (r["name"], r["environments"], r["policy"]): r["steps_per_s"]
        for r in rows
        if not r["one_task_for_all"]
    }
    return [
        {"name": name, "environments": count, "share": rate / rates[name, count, False]}
        for (name, count, policy), rate in rates.items()
        if policy
    ]


def time_compilation(console: Console, count: int = 64) -> list[dict[str, Any]]:
    """Seconds until `count` environments have been reset and stepped for the first time."""
    rows = []
    configurations: dict[str, Any] = {id: envs.make(id) for id in envs.registered()}
    configurations |= {f"minigrid {f}": envs.MiniGrid(f) for f in envs.minigrid.FAMILIES}
    for name, env in configurations.items():
        keys = jax.random.split(jax.random.key(0), count)
        tasks = jax.block_until_ready(jax.jit(jax.vmap(env.sample_task))(keys))
        actions = jax.block_until_ready(jax.vmap(env.action_space.sample)(keys))

        def both(keys: Array, actions: Array, tasks: Any, env: Any = env) -> Any:
            states, first = jax.vmap(env.reset)(keys, tasks)
            return first, jax.vmap(env.step)(keys, states, actions, tasks)

        with console.status(f"{name}: first reset and step"):
            _, first = timed(jax.jit(both), keys, actions, tasks)
            rows.append({"name": name, "first_s": first})
    return rows


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def show(console: Console, report: dict[str, Any]) -> None:
    """The figures as tables."""
    rows = [
        (
            row["name"] + (", one task" if row["one_task_for_all"] else ""),
            f"{row['environments']}",
            "policy" if row["policy"] else "random",
            f"{row['steps_per_s'] / 1e6:.3f}M",
            f"{row['worst'] / 1e6:.3f}M",
            f"{row['compile_s']:.1f} s",
        )
        for row in report["steps"]
    ]
    head = ("steps a second", "environments", "actions", "median", "worst", "compile")
    console.print(_table("", head, rows))
    rows = [
        (
            f"{row['ours']} / {row['peer']}",
            f"{row['environments']}" + (", policy" if row["policy"] else ""),
            f"{row['ratio']:.1f}",
            f"{row['least']:.1f}",
        )
        for row in report["ratios"]
    ]
    console.print(_table("", ("ratio", "environments", "median", "least"), rows))
    for row in report["kept_with_a_policy"]:
        console.print(
            f"{row['name']}, {row['environments']} at once: "
            f"{row['share']:.1%} of its speed is kept where a policy acts"
        )
    for name, reason in report["left_out"].items():
        console.print(f"left out: {name} ({reason})")
    if report["mazes"]:
        rows = [
            (row["name"], f"{row['squares']}", f"{row['per_s']:,.0f}", f"{row['first_s']:.1f} s")
            for row in report["mazes"]
        ]
        console.print(_table("", ("mazes a second", "side", "median", "first"), rows))
    if report["compilation"]:
        rows = [(row["name"], f"{row['first_s']:.2f} s") for row in report["compilation"]]
        console.print(_table("", ("first reset and step", "seconds"), rows))


def draw(report: dict[str, Any], file: Path) -> None:
    """Plots steps per second over the number of environments, on logarithmic axes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in report["steps"]:
        if not row["policy"] and not row["one_task_for_all"]:
            lines.setdefault(row["name"], []).append((row["environments"], row["steps_per_s"]))
    for name, points in lines.items():
        own = next(r for r in report["steps"] if r["name"] == name)["package"].startswith("metajax")
        axes.plot(
            *zip(*points, strict=True), "o-" if own else "s--", label=name, lw=2 if own else 1
        )
    axes.set(
        xscale="log", yscale="log", xlabel="environments at once", ylabel="environment steps / s"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=150)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.check_names("only", options.only, CONTENDERS, parts=True)
    records.check_sizes(options)
    console = Console()
    steps, left_out = measure(options, console)
    report = {
        "steps": steps,
        "ratios": ratios(steps),
        "kept_with_a_policy": kept_with_a_policy(steps),
        "left_out": left_out,
        "mazes": time_mazes(options.repeats, console) if options.mazes else [],
        "compilation": time_compilation(console) if options.compile else [],
    }
    show(console, report)
    if options.json:
        peers = ("gymnax", "xminigrid", "navix", "jumanji", "jaxued")
        records.write(options.json, report, *peers)
    if options.plot:
        draw(report, options.plot)


if __name__ == "__main__":
    main()
