"""Do other libraries' trainers learn our mazes, unchanged?

    python benchmarks/trainers.py --json figures.json

rejax's PPO and DQN and a PPO modelled on PureJaxRL's train through `envs.adapters.gymnax`,
stable-baselines3's PPO through `envs.adapters.gymnasium`: on a set of small mazes, a random one at
every reset, with the whole maze and its exit observed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from rich.table import Table

import envs
from envs.adapters.gymnasium import to_gymnasium
from envs.adapters.gymnax import to_gymnax
from support import records, screen

ENV = envs.Maze(size=7, view=9, position=False, see_exit=True, horizon=40)
MAZES = 1024


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains each in turn."""

    trainers: tuple[str, ...] = ("rejax-ppo", "rejax-dqn", "one-file-ppo", "sb3-ppo")
    """Trainers to run."""
    seed: int = 0
    """Seed of the mazes and of the trainers."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


class Learned(NamedTuple):
    """A run: its number of steps, and the policy's mean return before and after."""

    steps: int
    before: float
    after: float


def rejax_ppo(tasks: Any, seed: int) -> Learned:
    """128 environments, 3 epochs; the rest is rejax's default."""
    from rejax import PPO

    return _rejax(
        PPO, tasks, seed, total_timesteps=500_000, num_envs=128, num_epochs=3, learning_rate=1e-3
    )


def rejax_dqn(tasks: Any, seed: int) -> Learned:
    """64 environments, two minibatches of 256 for every 64 steps."""
    from rejax import DQN

    return _rejax(
        DQN,
        tasks,
        seed,
        total_timesteps=800_000,
        num_envs=64,
        num_epochs=2,
        learning_rate=1e-3,
        gamma=0.95,
        buffer_size=100_000,
        target_update_freq=1024,
        polyak=0.0,
    )


def _rejax(
    algorithm: Any, tasks: Any, seed: int, *, total_timesteps: int, **fields: Any
) -> Learned:
    env = to_gymnax(ENV, tasks, returns=5)
    trainer = algorithm.create(
        env=env, total_timesteps=total_timesteps, eval_freq=total_timesteps, **fields
    )
    state, (_, returns) = jax.jit(trainer.train)(jax.random.key(seed))
    return Learned(int(state.global_step), float(returns[0].mean()), float(returns[-1].mean()))


def one_file(tasks: Any, seed: int) -> Learned:
    """The defaults of `one_file_ppo`."""
    from support import one_file_ppo

    settings = one_file_ppo.Settings(updates=60)
    env = to_gymnax(ENV, tasks, returns=5)
    train = one_file_ppo.make_train(settings, env, env.default_params)
    scores = jax.jit(train)(jax.random.key(seed))
    steps = settings.updates * settings.num_envs * settings.num_steps
    return Learned(steps, float(scores[0]), float(scores[-1]))


def sb3_ppo(tasks: Any, seed: int) -> Learned:
    """16 environments in one process; the rest is stable-baselines3's default for PPO."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)  # for matrices this small, threads cost more than they save
    env = make_vec_env(lambda: to_gymnasium(ENV, tasks), n_envs=16, seed=seed)
    model = PPO(
        "MlpPolicy", env, seed=seed, n_steps=128, batch_size=256, learning_rate=1e-3, device="cpu"
    )

    def judge() -> float:
        return float(evaluate_policy(model, env, 256, deterministic=False)[0])

    before = judge()
    model.learn(100_000)
    return Learned(model.num_timesteps, before, judge())


TRAINERS: dict[str, Callable[[Any, int], Learned]] = {
    "rejax-ppo": rejax_ppo,
    "rejax-dqn": rejax_dqn,
    "one-file-ppo": one_file,
    "sb3-ppo": sb3_ppo,
}


def bounds(tasks: Any) -> tuple[float, float]:
    """The mean return of random actions, and of shortest paths."""

    def play(key: jax.Array, task: Any) -> jax.Array:
        def step(carry: Any, key: jax.Array) -> Any:
            state, alive = carry
            key_action, key_step = jax.random.split(key)
            state, timestep = ENV.step(key_step, state, ENV.action_space.sample(key_action), task)
            return (state, alive & ~timestep.terminated), timestep.reward * alive

        key_reset, key_steps = jax.random.split(key)
        state, _ = ENV.reset(key_reset, task)
        keys = jax.random.split(key_steps, ENV.horizon)
        return jax.lax.scan(step, (state, jnp.array(True)), keys)[1].sum()

    random = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), MAZES), tasks)
    return float(random.mean()), float(jax.vmap(ENV.optimal_return)(tasks).mean())


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    records.check_names("trainers", options.trainers, TRAINERS)
    records.check_sizes(options)
    keys = jax.random.split(jax.random.key(options.seed), MAZES)
    tasks = jax.jit(jax.vmap(ENV.sample_task))(keys)
    random, best = bounds(tasks)
    figures = {}
    for name in options.trainers:
        began = time.perf_counter()
        learned = TRAINERS[name](tasks, options.seed)
        figures[name] = {**learned._asdict(), "seconds": time.perf_counter() - began}
    side = f"{ENV.size} x {ENV.size}"
    title = f"Return on mazes of {side}: random {random:.2f}, best {best:.2f}"
    table = Table("trainer", title=title)
    for name in ("steps", "seconds", "before", "after"):
        table.add_column(name, justify="right")
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row['steps']:,}",
            f"{row['seconds']:.0f}",
            f"{row['before']:.2f}",
            f"{row['after']:.2f}",
        )
    screen.show(table)
    if options.json:
        record = {
            "env": dataclasses.asdict(ENV),
            "mazes": MAZES,
            "return": {"random": random, "best": best},
            "figures": figures,
        }
        packages = ("gymnax", "gymnasium", "rejax", "stable-baselines3", "torch")
        records.write(options.json, record, *packages)


if __name__ == "__main__":
    main()
