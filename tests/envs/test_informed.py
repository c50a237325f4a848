"""An informed environment is its environment, with the task in sight."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs

GRID = envs.make("gridworld", horizon=4)


def tell(task):
    return jax.nn.one_hot(task.goal, GRID.size, dtype=jnp.uint8)


def test_an_informed_environment_is_the_same_but_for_what_it_tells():
    env = envs.Informed(GRID, tell)
    assert isinstance(env, envs.SolvedEnvironment)
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


def test_what_is_told_in_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"tell: got .*int32.*, expected the observation's dtype"):
        envs.Informed(GRID, lambda task: task.goal)
