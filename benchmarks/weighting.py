"""Do adaptive task weights help to learn the hard tenth of tasks that uniform ones neglect?

    python benchmarks/weighting.py --json figures.json

Joint training on gridworlds whose goal is observed. In a tenth of the tasks the controls are
reversed, and a bit of the observation says so: there, what the other tasks teach is wrong. Each
rule trains on the same number of tasks and episodes, drawn from the same keys; it knows which of
the two groups a task belongs to, but not which group is hard. `9 to 1` does: it has fixed weights,
for comparison.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table

import envs
import metajax as mj
from metajax.groups import UNIFORM, Weighting
from metajax.scores import bootstrap_ci95
from support import records

HARD_SHARE = 0.1
TURNED = (0, 3, 4, 1, 2)  # stay; up and down, and right and left, are swapped


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains with each weighting rule, and evaluates easy and hard tasks separately."""

    seeds: int = 5
    """Runs of each rule."""
    updates: int = 300
    """Updates per run."""
    tasks: int = 64
    """Tasks per update."""
    judged: int = 512
    """Evaluation tasks of each group."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


def group_of(task: Any) -> jax.Array:
    """1 if the controls are reversed, else 0."""
    return (task.controls[1] != 1).astype(jnp.int32)


def tell(task: Any) -> jax.Array:
    """The goal's square, one-hot, and the group."""
    at = task.goal[0] * GRID.size + task.goal[1]
    goal = jnp.arange(GRID.size**2) == at
    return jnp.concatenate([goal, group_of(task)[None] == 1]).astype(jnp.uint8)


GRID = envs.Gridworld(shuffle_controls=True)
ENV = envs.Informed(GRID, tell)


def sample_task(key: jax.Array, share: float = HARD_SHARE) -> Any:
    """A task that is hard with probability `share`."""
    hard = jax.random.bernoulli(jax.random.fold_in(key, 1), share)
    controls = jnp.where(hard, jnp.array(TURNED), jnp.arange(len(TURNED)))
    return dataclasses.replace(GRID.sample_task(key), controls=controls.astype(jnp.int32))


RULES: dict[str, Weighting] = {
    "uniform": UNIFORM,
    "uncertainty": mj.uncertainty_weighting(2, group_of, best=GRID.optimal_return),
    "gradient norm": mj.gradnorm(2, group_of, best=GRID.optimal_return),
    "9 to 1": UNIFORM._replace(
        groups=2, group_of=group_of, weights=lambda state: jnp.array([1.0, 9.0], jnp.float32)
    ),
}


def problem_of(share: float) -> mj.Problem:
    policy = mj.networks.mlp_policy(ENV.action_space)
    return mj.policy_gradient(
        ENV,
        policy,
        episodes=8,
        baseline="mean",
        entropy=0.1,
        sample_task=lambda key: sample_task(key, share),
    )


def judges(options: Options) -> dict[str, Any]:
    """By group, a function from parameters to the share of the optimum its tasks reach."""

    def judge(share: float) -> Any:
        problem = problem_of(share)

        def of_task(params: Any, key: jax.Array) -> jax.Array:
            key_task, key_play = jax.random.split(key)
            task = problem.sample_task(key_task)
            score = problem.score(problem.collect(params, task, key_play))
            return score / GRID.optimal_return(task)

        keys = jax.random.split(jax.random.key(2**20), options.judged)
        return jax.jit(lambda params: jnp.mean(jax.vmap(of_task, (None, 0))(params, keys)))

    return {"easy": judge(0.0), "hard": judge(1.0)}


def run(learner: mj.MetaLearner, updates: int, key: jax.Array) -> mj.MetaState:
    def update(_: int, state: mj.MetaState) -> mj.MetaState:
        return learner.update(state)[0]

    return jax.lax.fori_loop(0, updates, update, learner.init(key))


def measure(options: Options) -> dict[str, dict[str, Any]]:
    """By rule, what its runs reached."""
    judge = judges(options)
    outer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    figures = {}
    for name, rule in RULES.items():
        began = time.perf_counter()
        learner = mj.multitask(
            problem_of(HARD_SHARE), mj.sgd(1.0), outer, options.tasks, weighting=rule
        )

        train = jax.jit(partial(run, learner, options.updates))
        states = [train(jax.random.key(seed)) for seed in range(options.seeds)]
        figures[name] = {
            group: {
                "seeds": values.tolist(),
                "mean": values.mean(),
                "ci95": bootstrap_ci95(values).tolist(),
            }
            for group in judge
            for values in [np.array([judge[group](state.params) for state in states], float)]
        }
        figures[name]["seconds"] = time.perf_counter() - began
    return figures


def main() -> int:
    """Prints the table; exits with status 3 if no adaptive rule is ahead on the hard tenth."""
    options = tyro.cli(Options)
    records.check_sizes(options)
    figures = measure(options)
    table = Table("weights", "easy tasks", "hard tenth", "seconds", title="Share of the optimum")
    for name, figure in figures.items():
        cells = [
            f"{stats['mean']:.3f} [{stats['ci95'][0]:.3f}, {stats['ci95'][1]:.3f}]"
            for stats in (figure["easy"], figure["hard"])
        ]
        table.add_row(name, *cells, f"{figure['seconds']:.0f}")
    table.caption = f"mean of {options.seeds} seeds and its bootstrap 95% interval"
    Console().print(table)
    if options.json:
        content = {"options": {**dataclasses.asdict(options), "json": None}, "figures": figures}
        records.write(options.json, content)
    least = max(figures[name]["hard"]["ci95"][0] for name in ("uncertainty", "gradient norm"))
    return 0 if least > figures["uniform"]["hard"]["ci95"][1] else records.MISSED


if __name__ == "__main__":
    raise SystemExit(main())
