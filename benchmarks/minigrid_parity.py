"""Do our levels, converted from the `minigrid` package, behave the same step for step?

    python benchmarks/minigrid_parity.py --steps 10000 --json figures.json

Plays levels of every family in `minigrid`, replays each level and its actions in `envs.minigrid`,
and compares every image, heading, reward, termination and truncation (an episode of ours never ends
in both ways, so there the termination alone). Actions are random, but half of those in front of a
shut door or a portable object make use of it. The balls of Dynamic-Obstacles are placed where
`minigrid` drew them. Exits with status 3 if anything differs.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from minigrid import envs as reference
from minigrid.wrappers import FullyObsWrapper
from rich.table import Table

from envs.minigrid import NOWHERE, MiniGrid, MiniGridTask, convert
from envs.minigrid.view import full_grid
from support import records, screen

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Empty-6x6": ("EmptyEnv", {"size": 6}),
    "Empty-Random-5x5": ("EmptyEnv", {"size": 5, "agent_start_pos": None}),
    "FourRooms": ("FourRoomsEnv", {}),
    "DoorKey-5x5": ("DoorKeyEnv", {"size": 5}),
    "DoorKey-8x8": ("DoorKeyEnv", {"size": 8}),
    "Unlock": ("UnlockEnv", {}),
    "UnlockPickup": ("UnlockPickupEnv", {}),
    "BlockedUnlockPickup": ("BlockedUnlockPickupEnv", {}),
    "KeyCorridorS3R3": ("KeyCorridorEnv", {"room_size": 3, "num_rows": 3}),
    "KeyCorridorS4R3": ("KeyCorridorEnv", {"room_size": 4, "num_rows": 3}),
    "LavaGapS5": ("LavaGapEnv", {"size": 5}),
    "LavaCrossingS9N2": ("CrossingEnv", {"size": 9, "num_crossings": 2}),
    "SimpleCrossingS9N3": (
        "CrossingEnv",
        {"size": 9, "num_crossings": 3, "obstacle_type": "wall"},
    ),
    "MultiRoom-N4-S5": (
        "MultiRoomEnv",
        {"minNumRooms": 4, "maxNumRooms": 4, "maxRoomSize": 5},
    ),
    "MemoryS7": ("MemoryEnv", {"size": 7}),
    "MemoryS13Random": ("MemoryEnv", {"size": 13, "random_length": True}),
    "DistShift1": ("DistShiftEnv", {"strip2_row": 2}),
    "DistShift2": ("DistShiftEnv", {"strip2_row": 5}),
    "Dynamic-Obstacles-6x6": ("DynamicObstaclesEnv", {"size": 6, "n_obstacles": 3}),
}


def make(name: str) -> Any:
    """The environment of a case."""
    family, fields = CASES[name]
    return getattr(reference, family)(**fields)


@dataclasses.dataclass(frozen=True)
class Played:
    """An episode as played by `minigrid`, padded to T steps, of which `length` are valid."""

    task: MiniGridTask
    length: int
    actions: np.ndarray  # [T] int32
    balls: np.ndarray  # [T, K, 2] int32, the squares of the objects before each move
    heading: np.ndarray  # [T + 1] int32
    view: np.ndarray  # [T + 1, 7, 7, 3] uint8
    full: np.ndarray  # [T + 1, W, H, 3] uint8
    reward: np.ndarray  # [T + 1]
    terminated: np.ndarray  # [T + 1] bool
    truncated: np.ndarray  # [T + 1] bool


def play(env: Any, horizon: int, seed: int, through: bool) -> Played:
    """An episode of at most `horizon` steps on the level that `seed` draws."""
    random = np.random.default_rng(seed)
    env.max_steps, env.see_through_walls = horizon, through
    whole = FullyObsWrapper(env)
    seen, _ = env.reset(seed=seed)
    task = convert.from_minigrid(env)
    obstacles = getattr(env, "obstacles", [])
    place_of = [tuple(square) for square in np.asarray(task.squares).tolist()]
    numbers = [place_of.index(tuple(map(int, ball.cur_pos[::-1]))) for ball in obstacles]

    squares = np.asarray(task.squares)
    rows = [(env.agent_dir, seen["image"], whole.observation(seen)["image"], 0.0, False, False)]
    actions, balls = [], []
    while len(actions) < horizon and not (rows[-1][-1] or rows[-1][-2]):
        actions.append(_action(env, random))
        seen, reward, terminated, truncated, _ = env.step(actions[-1])
        squares = squares.copy()
        for number, ball in zip(numbers, obstacles, strict=True):
            squares[number] = ball.cur_pos[::-1]
        balls.append(squares)
        full = whole.observation(seen)["image"]
        rows.append((env.agent_dir, seen["image"], full, float(reward), terminated, truncated))
    length, more = len(actions), horizon - len(actions)
    columns = [np.stack([*column, *[column[-1]] * more]) for column in zip(*rows, strict=True)]
    balls = np.stack([*balls, *[squares] * more])
    return Played(task, length, np.array([*actions, *[6] * more], np.int32), balls, *columns)


def _action(env: Any, random: np.random.Generator) -> int:
    """Opens, picks up or drops, half of the time that suits; else random, mostly forward."""
    cell = env.grid.get(*env.front_pos)
    if cell is not None and random.random() < 0.5:
        if cell.type == "door" and not cell.is_open:
            return 5
        if cell.can_pickup():
            return 3 if env.carrying is None else 4
    if env.carrying is not None and random.random() < 0.1:
        return 4
    return int(random.choice(7, p=[0.2, 0.2, 0.4, 0.06, 0.04, 0.07, 0.03]))


@functools.cache
def _replay(through: bool, obstacles: bool) -> Callable[..., Any]:
    family = "dynamic-obstacles" if obstacles else "empty"
    env = MiniGrid(family=family, see_through_walls=through)

    def one(task: MiniGridTask, actions: jax.Array, balls: jax.Array) -> Any:
        def step(state: Any, given: Any) -> Any:
            # In place of the key that would draw them: the squares that the balls have moved to.
            squares, action = given
            state, timestep = env.step(squares, state, action, task)
            return state, (state, timestep)

        first = env.reset(jax.random.key(0), task)
        _, rest = jax.lax.scan(step, first[0], (balls, actions))
        states, timesteps = jax.tree.map(
            lambda start, later: jnp.concatenate([start[None], later]), first, rest
        )
        wide = 32 * task.walls.shape[1]
        full = jax.vmap(lambda state: full_grid(state, task, wide))(states)
        return states.heading, full, timesteps

    return jax.jit(jax.vmap(one))


MOST_OBJECTS = 16  # the most objects in a level of any case
HIGHEST = 25


def mismatches(played: list[Played], through: bool, obstacles: bool = False) -> list[str]:
    """The differences in `envs.minigrid`: the episode, step and quantity of each.

    All episodes have the same number of steps; they may be of different cases, as all levels are
    padded to the same size.
    """
    high, count = HIGHEST, MOST_OBJECTS
    tasks = [convert.padded(p.task, high, 1, count) for p in played]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    actions = np.stack([p.actions for p in played])
    balls = np.stack(
        [
            np.pad(
                p.balls, ((0, 0), (0, count - p.balls.shape[1]), (0, 0)), constant_values=NOWHERE
            )
            for p in played
        ]
    )
    with mock.patch("envs.minigrid.environment.walk", lambda squares, state, task: squares):
        found = jax.device_get(_replay(through, obstacles)(batch, actions, balls))
    heading, full, timesteps = found
    differences = []
    for number, p in enumerate(played):
        wide, tall = p.full.shape[1:3]
        pairs = {
            "heading": (p.heading, heading[number]),
            "view": (p.view, timesteps.observation[number]),
            "full view": (p.full, full[number, :, :wide, :tall]),
            "reward": (p.reward, timesteps.reward[number]),
            "termination": (p.terminated, timesteps.terminated[number]),
            # MiniGrid also truncates a last step that terminates.
            "truncation": (p.truncated & ~p.terminated, timesteps.truncated[number]),
        }
        for name, (theirs, ours) in pairs.items():
            axes = tuple(range(1, theirs.ndim))
            off = ~np.isclose(theirs, ours, rtol=0, atol=1e-6).all(axis=axes)
            steps = np.flatnonzero(off[: p.length + 1])
            differences += [f"episode {number}, step {step}: {name}" for step in steps]
    return differences


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares every family with `minigrid`."""

    steps: int = 10_000
    """At least this many steps of each case."""
    horizon: int = 200
    """At most this many steps of an episode."""
    json: Path | None = None
    """Also writes the figures to this JSON file."""


def main() -> None:
    """Prints the table."""
    options = tyro.cli(Options)
    records.check_sizes(options)  # of no steps, none would differ
    table = Table("case", "episodes", "steps", "successes", "mismatches")
    record, batch = {}, 64
    for name in CASES:
        env, obstacles = make(name), "Obstacles" in name
        count = steps = successes = 0
        found: list[str] = []
        through = [env.see_through_walls, not env.see_through_walls]
        while steps < options.steps:
            seeds = range(count, count + batch)
            # Every other batch inverts whether walls can be seen through.
            view = through[count // batch % 2]
            played = [play(env, options.horizon, seed, view) for seed in seeds]
            found += mismatches(played, view, obstacles)
            count += batch
            steps += sum(p.length for p in played)
            successes += sum(p.reward[p.length] > 0 for p in played)
        table.add_row(name, *map(str, (count, steps, successes, len(found))))
        record[name] = {
            "episodes": count,
            "steps": steps,
            "successes": int(successes),
            "mismatches": len(found),
        }
        for line in found[:3]:
            print(f"{name}: {line}", file=sys.stderr)
    screen.show(table)
    if options.json:
        records.write(options.json, {"cases": record}, "minigrid", "gymnasium")
    sys.exit(records.MISSED if any(row["mismatches"] for row in record.values()) else 0)


if __name__ == "__main__":
    main()
