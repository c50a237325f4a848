"""Several mazes in a row, as their agent sees them."""

import jax
import jax.numpy as jnp
import numpy as np

import envs
from envs.maze_series import MazeSeriesTask


def test_what_is_seen_is_the_current_maze_and_which_one_it_is():
    env = envs.MazeSeries(count=2, horizon=20, maze=envs.Maze(size=5))
    drawn = "#####\n#S.X#\n#.#.#\n#...#\n#####", "#####\n#X#S#\n#.#.#\n#...#\n#####"
    each = [env.maze.from_text(text) for text in drawn]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    task = MazeSeriesTask(both, jnp.int32(20))
    state, timestep = jax.jit(env.reset)(jax.random.key(0), task)
    step = jax.jit(env.step)
    for index in (0, 0, 1):
        expected = [*env.maze.observe(state.maze, each[index]), *np.eye(2)[index]]
        np.testing.assert_array_equal(timestep.observation, expected)
        state, timestep = step(jax.random.key(0), state, jnp.int32(1), task)
