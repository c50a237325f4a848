"""How much faster is an update of RL² on the gridworld than in PyTorch, with `torch.nn.GRU`?

    python benchmarks/rl2_vs_torch.py
    python benchmarks/rl2_vs_torch.py --tasks 1024 --pairs 9 --json figures.json

An update plays a trial of four episodes for each task and takes sixteen steps of PPO on them. The
sides must first agree: on what is observed and paid after the same actions, on the policy and the
advantages, on the gradient of the same minibatch, and on where the timed program's update ends, for
the same trials.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

import metajax as mj
from metajax import experiments
from metajax.algorithms.core import task_keys
from metajax.presets import preset
from peers.bridge import grids_of
from peers.contest import to_torch
from peers.parity import relative_error
from peers.rl2 import (
    Agent,
    Loss,
    Settings,
    Trials,
    compiled,
    credit,
    improve,
    loss_of,
    observe,
    standardised,
    update,
)
from support import records, screen
from support.layouts import one_update
from support.timing import clock, cores_between, figures, other_load, race

TOLERANCE = 1e-4  # relative error between the sides
OF_UPDATE = 1e-3  # where sixteen steps end: Adam makes of small differences as large ones
POOL = 4096  # tasks drawn beforehand for PyTorch


@dataclasses.dataclass(frozen=True)
class Options:
    """Times updates of RL² on both sides, in turn."""

    tasks: int | None = None
    """Tasks of an update; the preset's by default."""
    pairs: int = 7
    """Runs of each side."""
    updates: int = 10
    """Updates of a run."""
    seed: int = 0
    """Of parameters and tasks."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


def settings_of(config: Any) -> Settings:
    """The preset's sizes and rates."""
    return Settings(
        tasks=config.tasks,
        episodes=config.episodes,
        length=config.env.horizon,
        epochs=config.epochs,
        minibatches=config.minibatches,
        clip=config.clip,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
        entropy=config.entropy,
        value_weight=config.value_weight,
        learning_rate=config.outer_learning_rate,
        gradient_clip=config.gradient_clip,
    )


def agent_of(params: Any) -> Agent:
    """PyTorch's copy of the policy."""
    tree = jax.tree.map(to_torch, params["params"])
    inputs, memory = tree["Dense_0"]["kernel"].shape[0], len(tree["bias"])
    agent = Agent(inputs, memory, len(tree["Dense_3"]["bias"]))
    agent.load(tree)
    return agent


def _played(problem: mj.Problem, params: Any, tasks: Any, keys: jax.Array) -> Any:
    """The first trial of each task, as metajax plays it: (N, T, B, ...) -> (T, N, ...)."""
    batch = jax.jit(jax.vmap(problem.collect, in_axes=(None, 0, 0)))(params, tasks, keys)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf[:, :, 0], 0, 1), batch)


def _trials(played: Any, advantage: torch.Tensor, target: torch.Tensor) -> Trials:
    """What PyTorch learns from such trials, whose advantages are not on one scale yet."""
    behaviour = jax.nn.log_softmax(played.behaviour)
    chosen = jnp.take_along_axis(behaviour, played.action[..., None], -1)[..., 0]
    action, log_prob = to_torch(played.action).long(), to_torch(chosen)
    scaled = standardised(advantage)
    return Trials(to_torch(played.observation), action, log_prob, scaled, target)


def agreement(problem: mj.Problem, params: Any, settings: Settings, seed: int) -> dict[str, float]:
    """Relative errors between the sides, on the trials that metajax plays."""
    keys = jax.random.split(jax.random.key(seed), 2 * settings.tasks)
    tasks = jax.vmap(problem.sample_task)(keys[: settings.tasks])
    played = _played(problem, params, tasks, keys[settings.tasks :])
    with torch.no_grad():
        logits, value = agent_of(params)(to_torch(played.observation))
    raw = credit(to_torch(played.reward), value, settings)
    trials = _trials(played, raw, raw + value)
    errors = {"world": _world_error(grids_of(tasks, "cpu"), trials, played.reward, settings)}
    errors["logits"] = relative_error([logits], [played.behaviour])
    errors["values"] = relative_error([value], [played.value])
    errors["targets"] = relative_error([trials.target], [played.target])

    # Away from the policy that played, where some ratios are clipped.
    moved = jax.tree.map(lambda leaf: 1.2 * leaf, params)
    columns = dataclasses.replace(played, advantage=jnp.asarray(trials.advantage.numpy()))
    loss = problem.ratio_loss
    assert loss is not None
    gradient = jax.grad(lambda params: loss(params, columns, settings.clip)[0])(moved)
    away = agent_of(moved)
    loss_of(away, trials, settings).backward()
    errors["gradient"] = relative_error(
        jax.tree.leaves(jax.tree.map(lambda leaf: leaf.numpy(), away.gradients())),
        jax.tree.leaves(gradient["params"]),
    )
    return errors


def end_of_update(
    problem: mj.Problem, state: mj.MetaState, after: Any, settings: Settings, loss: Loss
) -> float:
    """Relative error of PyTorch's move in an update, on the trials of metajax's, from `state`."""
    keys = jax.vmap(jax.random.split)(task_keys(state, settings.tasks))
    tasks = jax.vmap(problem.sample_task)(keys[:, 0])
    played = _played(problem, state.params, tasks, keys[:, 1])
    raw = to_torch(played.target - played.value)
    trials = _trials(played, raw, to_torch(played.target))
    agent, ours = agent_of(state.params), agent_of(after)
    before = [parameter.detach().clone() for parameter in agent.parameters()]
    optimizer = torch.optim.Adam(agent.parameters(), settings.learning_rate)
    improve(agent, optimizer, trials, settings, loss)

    def moved(agent: Agent) -> list[np.ndarray]:
        pairs = zip(agent.parameters(), before, strict=True)
        return [(now.detach() - then).numpy() for now, then in pairs]

    return relative_error(moved(agent), moved(ours))


def _world_error(tasks: Any, trials: Trials, reward: Any, settings: Settings) -> float:
    """How far PyTorch's world is from what was observed and paid, for the same actions."""
    observation, action = trials.observation, trials.action
    _, actions, squares = tasks.following.shape
    place, led = tasks.start, tasks.following.flatten(1)
    seen, paid = [observation[0]], []
    for time_, taken in enumerate(action.unbind()):
        place = led.gather(1, (taken * squares + place).unsqueeze(1)).squeeze(1)
        paid.append(torch.where(place == tasks.goal, 1.0, -0.1))
        ended = (time_ + 1) % settings.length == 0
        place = tasks.start if ended else place
        seen.append(observe(squares, actions, place, taken, paid[-1], ended))
    return relative_error(
        [torch.stack(seen[:-1]), torch.stack(paid)], [observation, np.asarray(reward)]
    )


def show(report: dict[str, Any]) -> None:
    sizes = report["sizes"]
    table = Table(title=f"One update of RL² on gridworld: {sizes['tasks']} trials of "
                  f"{sizes['episodes']} episodes of {sizes['length']} steps")  # fmt: skip
    for column in ("side", "first s", "ms", "best", "worst", "steps/s", "ratio (range)"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name, row in report["sides"].items():
        low, high = min(row["pairs"]), max(row["pairs"])
        times = (f"{row[key]:.1f}" for key in ("median_ms", "best_ms", "worst_ms"))
        ratio = "1" if name == "metajax" else f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})"
        first, pace = f"{row['first_update_s']:.1f}", f"{row['samples_per_s'] / 1e3:.0f}k"
        table.add_row(name, first, *times, pace, ratio)
    screen.show(table)
    errors = dict(report["agreement"])
    end = max(errors.pop(name) for name in list(errors) if name.startswith("update"))
    name, error = max(errors.items(), key=lambda item: item[1])
    print(f"The sides agree; largest relative error {error:.1e} ({name}).")
    print(f"On the same trials, an update ends at the same place, within {end:.1e} of the way.")
    if report["other_processes_cores"] is not None:
        print(f"Other processes used {report['other_processes_cores']:.2f} cores meanwhile.")


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.check_sizes(options)
    config = preset("gridworld", "rl2")
    if options.tasks is not None:
        config = dataclasses.replace(config, tasks=options.tasks)
    cores = records.cores()
    jax.config.update("jax_num_cpu_devices", cores)
    if jax.default_backend() != "cpu":
        records.refuse("rl2_vs_torch: both sides run on the CPU: set JAX_PLATFORMS=cpu")
    torch.set_num_threads(cores)
    torch.manual_seed(options.seed)
    console = Console(stderr=True)
    try:
        experiment = experiments.build(config)
    except ValueError as error:
        records.refuse(f"rl2_vs_torch: {error}")
    learner, problem, settings = experiment.learner, experiment.problem, settings_of(config)
    state = jax.jit(learner.init)(jax.random.key(options.seed))
    start = jax.device_get(state.params)
    errors = agreement(problem, start, settings, options.seed)
    with console.status("compiling"):
        began = time.perf_counter()
        program = one_update(learner).lower(state).compile()
        held = jax.device_get(state)  # the program reuses a state's memory
        carried = [jax.block_until_ready(program(state)[0])]
        first = {"metajax": time.perf_counter() - began}
    after = jax.device_get(carried[0].params)
    losses = {"torch": loss_of, "torch compiled": compiled()}
    ends = {
        f"update, {name}": end_of_update(experiment.training, held, after, settings, loss)
        for name, loss in losses.items()
    }
    bound = dict.fromkeys(errors, TOLERANCE) | dict.fromkeys(ends, OF_UPDATE)
    errors |= ends
    bad = [f"{name} {error:.1e}" for name, error in errors.items() if not error < bound[name]]
    if bad:
        raise SystemExit(f"the sides disagree, nothing was timed: {', '.join(bad)}")

    def metajax() -> None:
        carried[0], _ = jax.block_until_ready(program(carried[0]))

    keys = jax.random.split(jax.random.key(options.seed), POOL)
    pool = grids_of(jax.vmap(problem.sample_task)(keys), "cpu")
    sides: dict[str, Callable[[], Any]] = {"metajax": metajax}
    for name, loss in losses.items():
        agent = agent_of(start)
        optimizer = torch.optim.Adam(agent.parameters(), settings.learning_rate, fused=True)
        sides[name] = functools.partial(update, agent, optimizer, pool, settings, loss)
        first[name] = clock(sides[name])
    before = other_load()
    seconds = race(sides, options.pairs, options.updates, console)
    report = {
        "benchmark": "rl2_vs_torch",
        "sizes": settings._asdict(),
        "pairs": options.pairs,
        "updates_per_run": options.updates,
        "agreement": errors,
        "other_processes_cores": cores_between(before, other_load()),
        "sides": figures(seconds, first, settings.tasks * settings.episodes * settings.length),
    }
    show(report)
    if options.json:
        records.write(options.json, report, "torch")


if __name__ == "__main__":
    main()
