"""An informed environment is its environment, with the task in sight."""

import copy
import dataclasses
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.core import provides

GRID = envs.make("gridworld", horizon=4)


def tell(task):
    return jax.nn.one_hot(task.goal, GRID.size, dtype=jnp.uint8)


def test_an_informed_environment_is_the_same_but_for_what_it_tells():
    env = envs.Informed(GRID, tell)
    assert provides(env, envs.SolvedEnvironment)
    assert hash(env) == hash(envs.Informed(GRID, tell))
    actions = jnp.array([1, 2, 3], jnp.int32)

    def play(env, key):
        task = env.sample_task(key)
        state, first = env.reset(key, task)

        def step(state, action):
            state, timestep = env.step(key, state, action, task)
            return state, (timestep, env.optimal_action(state, task))

        _, (timesteps, best) = jax.lax.scan(step, state, actions)
        return task, env.optimal_return(task), first, timesteps, best

    both = jax.jit(lambda key: (play(env, key), play(GRID, key)))(jax.random.key(0))
    (task, optimum, first, timesteps, best), (_, *expected) = both
    told = np.eye(GRID.size, dtype=np.uint8)[np.asarray(task.goal)].ravel()
    for observation in (first.observation, *timesteps.observation):
        np.testing.assert_array_equal(observation[-len(told) :], told)
        assert env.observation_space.contains(observation)
    first, timesteps = (
        dataclasses.replace(kind, observation=kind.observation[..., : -len(told)])
        for kind in (first, timesteps)
    )
    chex.assert_trees_all_equal([optimum, first, timesteps, best], expected)


@pytest.mark.parametrize("id", ["maze", "gridworld", "point", "point-corners", "bandit"])
def test_an_environment_tells_its_task_unless_another_way_is_given(id):
    env = envs.make(id)
    informed = envs.Informed(env)

    @jax.jit
    def told(key):
        task = env.sample_task(key)
        seen = informed.reset(key, task)[1].observation
        return seen, env.tell(task), informed.observation_space.contains(seen)

    seen, expected, fits = told(jax.random.key(0))
    np.testing.assert_array_equal(seen[-expected.size :], expected.ravel())
    assert expected.size > 0
    assert fits


def test_a_grid_tells_walls_goal_and_controls_as_bits():
    env = envs.make("gridworld", shuffle_controls=True)
    task = env.from_text(
        """
        S#...
        .#.X.
        ...#.
        .....
        .....
        """
    )
    told = np.asarray(env.tell(dataclasses.replace(task, controls=jnp.array([0, 2, 1, 4, 3]))))
    walls, goal, controls = np.split(told, [25, 50])
    assert [*walls.nonzero()[0]] == [1, 6, 13]
    assert [*goal.nonzero()[0]] == [8]
    np.testing.assert_array_equal(controls.reshape(5, 5), np.eye(5)[[0, 2, 1, 4, 3]])


@pytest.mark.smoke  # whether a wrapper has a member depends on the interpreter
def test_an_oracle_is_there_where_the_environment_has_one():
    assert not provides(envs.Informed(envs.PointCorners()), envs.SolvedEnvironment)
    solved = envs.Informed(envs.PointNavigation())
    for env in (solved, copy.deepcopy(solved), pickle.loads(pickle.dumps(solved))):
        assert provides(env, envs.SolvedEnvironment)
        assert env == solved


def test_a_trial_tells_its_task_as_its_environment_does():
    point, grid = (envs.Informed(envs.Trial(env)) for env in (envs.PointNavigation(), GRID))
    for env in (point, grid):
        task = jax.jit(env.sample_task)(jax.random.key(0))
        _, timestep = jax.jit(env.reset)(jax.random.key(1), task)
        told = env.env.tell(task).ravel()
        # The bits of a grid are told in the dtype of what the trial observes.
        np.testing.assert_array_equal(timestep.observation[-told.size :], told.astype(jnp.float32))
        assert env.observation_space.contains(timestep.observation)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (3, "env: got 3, expected an environment"),
        (envs.Informed(GRID), "env: got .*, expected one that can tell its task"),
        (envs.Trial(envs.make("tabular-mdp")), "env: got .*, expected one that can tell its task"),
        (envs.make("tabular-mdp"), r"env: got .*, expected one that can tell its task"),
        (envs.make("maze", slip=0.1), "slip: got 0.1, expected 0 where a policy is told the task"),
        (envs.make("gridworld", rewards=1.0), "rewards: got 1.0, expected 0 where"),
    ],
)
def test_a_task_that_cannot_be_told_is_refused(env, message):
    with pytest.raises(ValueError, match=message):
        envs.Informed(env)


def test_what_is_told_in_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"tell: got .*int32.*, expected the observation's dtype"):
        envs.Informed(GRID, lambda task: task.goal)
