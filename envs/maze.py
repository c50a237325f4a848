"""Find the unseen exit of a maze."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from . import levels, mazes, solve
from .core import (
    Box,
    Discrete,
    OneHot,
    TimeStep,
    first_timestep,
    pytree_dataclass,
    require,
    require_action,
    require_integer,
    require_number,
)
from .dynamics import (
    action_for,
    require_variation,
    sample_variation,
    slipped,
    steered,
    success_reward,
    told,
)
from .grids import is_wall, mark, moved, pack, unpack
from .views import place_in_view, walls_in_view

__all__ = ["Maze", "MazeState", "MazeTask"]

Array = jax.Array

_LARGEST = 63
_WIDEST_VIEW = 31
_LEFT, _RIGHT, _FORWARD = range(3)  # the actions of an agent with a heading


@pytree_dataclass
class MazeTask:
    """One maze, as `Maze.reset` and `Maze.step` take it; a field that is None is not varied."""

    walls: Array  # [size, words] uint32, packed rows, see `grids`; a smaller maze is padded
    start: Array  # (2,) int32, row and column of the square an episode starts on
    exit: Array  # (2,) int32, row and column of the square it ends on
    horizon: Array  # () int32, steps before an episode is truncated
    heading: Array | None = None  # () int32, the direction the agent faces at the start
    controls: Array | None = None  # [A] int32, a permutation: action a acts as action controls[a]
    slip: Array | None = None  # () float32, probability that a step takes a random action instead
    rewards: Array | None = None  # [size, size] float32, added for the square the agent is on


@pytree_dataclass
class MazeState:
    """Where the agent is in one episode."""

    position: Array  # (2,) int32, row and column
    steps: Array  # () int32, steps taken
    heading: Array | None = None  # () int32, the direction the agent faces


@dataclasses.dataclass(frozen=True)
class Maze:
    """A maze with an unseen exit: an agent learns the walls and where the exit is.

    Observation: uint8 [O] of 0 and 1, the parts that are switched on, in this order:
      - `view`: the walls in the `view` by `view` squares around the agent, row by row, north up;
        1 is a wall, and so is everything outside the grid;
      - `see_exit`: the exit in the same squares;
      - `position`: the agent's square among the (size - 2)^2 inside the outer wall, row by row,
        one-hot;
      - `full`: the whole grid, row by row: the walls, then the exit, then the agent;
      - `heading`, with `position` or `full`: the direction the agent faces, one-hot.
      With `heading` the window lies ahead of the agent, rotated so that ahead is up, with the agent
      in the middle of its last row. With `occlusion`, squares behind a wall look like walls, and
      the exit does not show there.
    Action: int32 () in 0..3: up, right, down, left. With `heading`, in 0..2: turn left, turn right,
      forward. An agent that moves into a wall stays where it is.
    Reward: float32 (), 1 - 0.9 * t / horizon if step t = 1, 2, ... reaches the exit (as in
      MiniGrid, `minigrid/minigrid_env.py`), else 0; plus, where the task has rewards, that of the
      square the agent is on after the step.
    Termination: on the exit. Truncation: after `task.horizon` steps that did not reach it.
    Task: `MazeTask`. State: `MazeState`.

    p(T): a maze of ((size - 1) / 2)^2 cells from `generator`, with the start in its top left cell
    and the exit uniform over the other cells. With `far_exit` the exit's shortest path from the
    start is at least half the longest one; between scattered walls it is uniform over all squares
    that far away. Further fields widen p(T).
    Mazes and exits are drawn in `sample_task` only; a step is random only if the task slips.

    Raises:
      ValueError: a field out of range, nothing to observe, or a task or an action that does not
        fit (while tracing).
    """

    size: int = 9  # squares along a side, the outer wall included: odd, 5 to 63
    horizon: int = 40  # steps before truncation, in the tasks that `sample_task` draws
    view: int = 3  # side of the observed window in squares: odd, or 0 for none
    position: bool = True  # whether the agent observes where it is
    see_exit: bool = False  # whether the window shows the exit
    far_exit: bool = True  # whether the exit is drawn far from the start
    heading: bool = False  # whether the agent has a heading: it turns, and sees what is ahead
    occlusion: bool = False  # whether walls hide what is behind them
    full: bool = False  # whether the agent observes the whole grid
    generator: str = "backtracker"  # what draws the walls: one of `mazes.GENERATORS`, or scatter
    density: float = 0.3  # with scatter, the probability that an inner square is a wall
    braid: float = 0.0  # probability that a dead end is opened
    rooms: int = 0  # number of rooms, 1 to 3 cells a side, carved into the maze
    smallest: int = 0  # sides are uniform over odd numbers from this to `size`; 0: all are `size`
    random_start: bool = False  # whether a task's start is a random cell
    shuffle_controls: bool = False  # whether each task permutes the actions
    slip: float = 0.0  # greatest slip probability; a task's is uniform in [0, slip)
    rewards: float = 0.0  # standard deviation of the reward of each square
    shortest_horizon: int = 0  # horizons are uniform from this to `horizon`; 0: all are `horizon`

    def __post_init__(self) -> None:
        require_integer("size", self.size, 5, _LARGEST)
        require("size", self.size, self.size % 2 == 1, "an odd number")
        require_integer("horizon", self.horizon, 1)
        require_integer("view", self.view, 0, _WIDEST_VIEW)
        require("view", self.view, self.view % 2 == 1 or self.view == 0, "an odd number, or 0")
        observed = self.view > 0 or self.position or self.full
        require("view", self.view, observed, "a window where position and full are off")
        for name in ("see_exit", "occlusion"):
            value = getattr(self, name)
            require(name, value, self.view > 0 or not value, "a view to see it in")
        known = [*mazes.GENERATORS, "scatter"]
        require("generator", self.generator, self.generator in known, " or ".join(known))
        require_number("density", self.density, 0, 1)
        require_number("braid", self.braid, 0, 1)
        require_integer("rooms", self.rooms, 0)
        for name in ("braid", "rooms"):
            value = getattr(self, name)
            require(name, value, self.generator != "scatter" or value == 0, "0 for scattered walls")
        if self.smallest != 0:
            require_integer("smallest", self.smallest, 5, self.size)
            require("smallest", self.smallest, self.smallest % 2 == 1, "an odd number")
        require_variation(self)

    @property
    def observation_space(self) -> Box:
        length = self.view**2 * (2 if self.see_exit else 1)
        length += (self.size - 2) ** 2 if self.position else 0
        length += 3 * self.size**2 if self.full else 0
        length += 4 if self.heading and (self.position or self.full) else 0
        if self.position and not (self.view or self.full or self.heading):
            return OneHot(length)
        return Box(0, 1, (length,), np.dtype(np.uint8))

    @property
    def action_space(self) -> Discrete:
        return Discrete(3 if self.heading else 4)

    @property
    def max_horizon(self) -> int:
        return self.horizon

    def sample_task(self, key: Array, start: Array | None = None) -> MazeTask:
        """A task from p(T); if `start` (2,), a cell, is given, one that starts there."""
        *keys_level, key_heading, key_varied, key_far = jax.random.split(key, 9)
        walls, start, exit = self._sample_level((*keys_level, key_far), start)
        heading = None
        if self.heading:
            heading = jax.random.randint(key_heading, (), 0, 4, jnp.int32)
        varied = sample_variation(key_varied, self, (self.size, self.size))
        return MazeTask(walls, start, exit, heading=heading, **varied)

    def reset(self, key: Array, task: MazeTask) -> tuple[MazeState, TimeStep]:
        del key
        self._require_fit(task)
        state = MazeState(task.start, jnp.array(0, jnp.int32), task.heading)
        return state, first_timestep(self.observe(state, task))

    def step(
        self, key: Array, state: MazeState, action: Array, task: MazeTask
    ) -> tuple[MazeState, TimeStep]:
        self._require_fit(task)
        require_action(self.action_space, action)
        move = slipped(key, steered(action, task.controls), task.slip, self.action_space.n)
        heading, target = state.heading, moved(state.position, move)
        if heading is not None:
            target = moved(state.position, jnp.where(move == _FORWARD, heading, -1))
            turn = (move == _RIGHT).astype(jnp.int32) - (move == _LEFT).astype(jnp.int32)
            heading = (heading + turn) & 3
        position = jnp.where(is_wall(task.walls, target), state.position, target)
        steps = state.steps + 1
        terminated = jnp.all(position == task.exit)
        truncated = (steps >= task.horizon) & ~terminated
        reward = jnp.where(terminated, success_reward(steps, task.horizon), jnp.float32(0))
        if task.rewards is not None:
            reward += task.rewards[position[0], position[1]]
        state = MazeState(position, steps, heading)
        return state, TimeStep(self.observe(state, task), reward, terminated, truncated)

    def tell(self, task: MazeTask) -> Array:
        """The task as `Informed` shows it to a policy; see `dynamics.told`.

        Raises:
          ValueError: an environment that varies slip, rewards or the horizon.
        """
        return told(self, task, task.exit, self.size)

    def optimal_return(self, task: MazeTask) -> Array:
        """The greatest expected return of an episode, () float32.

        It is that of the shortest path if the task neither slips nor has rewards; otherwise it is
        found by backward induction over steps and squares (and headings).
        """
        if task.slip is not None or task.rewards is not None:
            state, _ = self.reset(jax.random.key(0), task)
            return self._plan(state, task)[0]
        if task.heading is not None:
            steps = solve.heading_distance(task.walls, task.start, task.heading, task.exit)
        else:
            steps = solve.distance(task.walls, task.start, task.exit)
        return jnp.where(steps <= task.horizon, success_reward(steps, task.horizon), jnp.float32(0))

    def optimal_action(self, state: MazeState, task: MazeTask) -> Array:
        """The best action, () int32, found as in `optimal_return`. Each call solves the maze."""
        if task.slip is not None or task.rewards is not None:
            move = self._plan(state, task)[1]
        elif state.heading is not None:
            move = solve.heading_action(task.walls, state.position, state.heading, task.exit)
        else:
            move = solve.direction_to(task.walls, state.position, task.exit)
        return action_for(move, task.controls)

    def from_text(self, text: str, horizon: int | None = None) -> MazeTask:
        """The task that a drawing shows; see `levels.parse`.

        A drawing smaller than `size` is padded with walls; `horizon` is the environment's if None.

        Raises:
          ValueError: a drawing that is not a level or is too large, an exit that no path leads to,
            or a horizon out of range.
        """
        level = levels.parse(text, self.size, self.heading)
        steps = self.horizon if horizon is None else horizon
        require_integer("horizon", steps, 1, self.horizon)
        task = MazeTask(level.walls, level.start, level.goal, jnp.array(steps, jnp.int32))
        return dataclasses.replace(task, heading=level.heading)

    def to_text(self, task: MazeTask) -> str:
        """The drawing of a task's level, which `from_text` reads back.

        It shows neither the horizon nor controls, slip and rewards.
        """
        return levels.draw(task.walls, self.size, task.start, task.exit, task.heading)

    def mutate(self, key: Array, task: MazeTask) -> MazeTask:
        """The task with a random wall toggled or its exit moved; still solvable. Pure JAX."""
        walls, exit = levels.mutate(key, task.walls, self.size, task.start, task.exit)
        return dataclasses.replace(task, walls=walls, exit=exit)

    def check(self, task: MazeTask) -> None:
        """Checks that a task, or each of a batch of tasks, is one of this environment's.

        Raises:
          ValueError: a task that does not fit; the message says which part of which one, and why.
        """
        levels.check(task, self.size, self.horizon, self.action_space.n, goal="exit")
        self._require_fit(task)

    def _plan(self, state: MazeState, task: MazeTask) -> tuple[Array, Array]:
        """The greatest expected return from `state` on, () float32, and the best move, () int32."""
        row, column = task.exit
        ends = jnp.zeros((self.size, self.size), bool).at[row, column].set(True)

        def arrival(t: Array) -> Array:
            pay = jnp.where(ends, success_reward(t, task.horizon), jnp.float32(0))
            return pay if task.rewards is None else pay + task.rewards

        slip = jnp.float32(0) if task.slip is None else task.slip
        induce = solve.plan if state.heading is None else solve.heading_plan
        values, moves = induce(task.walls, arrival, ends, slip, task.horizon, state.steps)
        here = (state.position[0], state.position[1])
        if state.heading is not None:
            here = (state.heading, *here)
        return values[here], moves[here]

    def _require_fit(self, task: MazeTask) -> None:
        levels.require_fit(task.walls, self.size)
        if (task.heading is not None) != self.heading:
            came = "None" if self.heading else "one"
            expected = "one if the agent turns, else None"
            raise ValueError(f"task.heading: got {came}, expected {expected}")

    def _sample_level(
        self, keys: Sequence[Array], start: Array | None
    ) -> tuple[Array, Array, Array]:
        """Packed walls, start (2,) and exit (2,)."""
        key_walls, key_exit, key_side, key_rooms, key_braid, key_start, key_far = keys
        most = (self.size - 1) // 2
        cells = jnp.int32(most)
        if self.smallest:
            cells = jax.random.randint(key_side, (), (self.smallest - 1) // 2, most + 1, jnp.int32)
        scattered = self.generator == "scatter"
        if scattered:
            square = jnp.arange(self.size, dtype=jnp.int32)
            inner = (square > 0) & (square < 2 * cells)
            walls = pack(~(inner[:, None] & inner[None]))
        elif self.smallest:
            walls = mazes.GENERATORS[self.generator](key_walls, most, most, cells, cells)
        else:
            walls = mazes.GENERATORS[self.generator](key_walls, most, most)
        if self.rooms:
            walls = mazes.rooms(key_rooms, walls, self.rooms, 1, 3, cells, cells)
        if self.braid:
            walls = mazes.braid(key_braid, walls, jnp.float32(self.braid))
        within = jnp.arange(most, dtype=jnp.int32) < cells
        inside = within[:, None] & within[None]
        if start is None:
            corner = jnp.array([1, 1], jnp.int32)
            start = _draw_cell(key_start, inside) if self.random_start else corner
        elsewhere = inside & ~jnp.zeros_like(inside).at[start[0] // 2, start[1] // 2].set(True)
        if self.far_exit and not scattered:
            elsewhere &= unpack(solve.far_half(walls, start), self.size)[1::2, 1::2]
        exit = _draw_cell(key_exit, elsewhere)
        if scattered:
            side = 2 * cells + 1
            walls = mazes.scatter(
                key_walls, self.size, self.size, self.density, start, exit, side, side
            )
            if self.far_exit:  # distances are known only once the walls are drawn
                exit = _draw_square(key_far, unpack(solve.far_half(walls, start), self.size))
        return walls, start, exit

    def observe(self, state: MazeState, task: MazeTask) -> Array:
        """The observation in a state, uint8 [O]."""
        length = self.observation_space.shape[0]
        seen = jnp.zeros((length,), bool)
        offset = 0
        if self.view:
            seen = walls_in_view(
                task.walls, state.position, state.heading, self.view, self.occlusion, length
            )
            offset = self.view**2
        if self.see_exit:
            place, shown = place_in_view(task.exit, state.position, state.heading, self.view)
            if self.occlusion:
                # The exit's square is open: it looks like a wall only where it is hidden.
                shown &= ~seen[jnp.clip(place, 0, self.view**2 - 1)]
            seen |= mark(jnp.where(shown, offset + place, -1), length)
            offset += self.view**2
        if self.position:
            seen |= mark(offset + self.observed_row(state, task), length)
            offset += (self.size - 2) ** 2
        if self.full:
            grid = unpack(task.walls, self.size).reshape(-1)
            seen |= jnp.pad(grid, (offset, length - offset - self.size**2))
            for square in (task.exit, state.position):
                offset += self.size**2
                seen |= mark(offset + square[0] * self.size + square[1], length)
            offset += self.size**2
        if state.heading is not None and (self.position or self.full):
            seen |= mark(offset + state.heading, length)
        return seen.astype(jnp.uint8)

    def observed_row(self, state: MazeState, task: MazeTask) -> Array:
        """The index of the agent's square among those inside the outer wall, () int32.

        If the agent observes its position only, this is the index of the 1 in the observation.
        """
        del task
        row, column = state.position
        return (row - 1) * (self.size - 2) + column - 1


def _draw_cell(key: Array, allowed: Array) -> Array:
    """The square (2,) int32 of a cell drawn uniformly from `allowed`, bool [cells, cells]."""
    return 2 * _draw_square(key, allowed) + 1


def _draw_square(key: Array, allowed: Array) -> Array:
    """The (row, column) (2,) int32 of a place drawn uniformly from `allowed`, bool [n, n]."""
    ticket = jnp.where(allowed, jax.random.uniform(key, allowed.shape, jnp.float32), -1.0)
    at = jnp.argmax(ticket).astype(jnp.int32)
    return jnp.stack([at // allowed.shape[0], at % allowed.shape[0]])
