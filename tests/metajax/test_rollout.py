import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import envs
import metajax as mj
from envs.core import Box, Discrete, TimeStep, first_timestep
from metajax.rollout import retrace, rollout


@partial(jax.jit, static_argnames=("env", "episodes", "horizon"))
def play(env, task, key, episodes=5, horizon=12):
    network = mj.networks.mlp_policy(env.action_space, (4,))
    space = env.observation_space
    params = network.init(jax.random.key(1), jnp.zeros(space.shape, space.dtype), ())
    distribution = mj.distributions.for_action_space(env.action_space)
    return rollout(
        env, network.apply, distribution, params, task, key, episodes=episodes, horizon=horizon
    )


def test_episodes_replay_step_by_step_and_nothing_after_an_end_counts():
    env = envs.make("maze", size=5, horizon=12, far_exit=False)
    task = jax.jit(env.sample_task)(jax.random.key(0))
    played = jax.tree.map(np.asarray, play(env, task, jax.random.key(2)))
    key, reset, step = jax.random.key(0), jax.jit(env.reset), jax.jit(env.step)
    for b in range(5):
        state, timestep = reset(key, task)
        running = True
        for t in range(12):
            assert played.mask[t, b] == float(running)
            if running:
                np.testing.assert_array_equal(played.observation[t, b], timestep.observation)
                state, timestep = step(key, state, played.action[t, b], task)
                np.testing.assert_allclose(played.reward[t, b], timestep.reward, rtol=1e-6)
                running = not (timestep.terminated or timestep.truncated)
            else:
                assert played.reward[t, b] == 0.0
    assert 0 < played.mask.mean() < 1


def test_the_states_of_episodes_are_found_again_where_chance_has_a_part():
    grid = envs.make("gridworld", slip=0.5, horizon=12)
    # Its starts are random; a trial's step also begins episodes.
    corners = envs.Trial(envs.make("point-corners", horizon=6), 2)
    for env, observed in (
        (grid, lambda state: state.position[..., 0] * 5 + state.position[..., 1]),
        (corners, lambda state: state.inner.position),
    ):
        task = env.sample_task(jax.random.key(0))
        if env is grid:  # a task that is drawn may hardly slip
            task = dataclasses.replace(task, slip=jnp.float32(0.5))
        played = play(env, task, jax.random.key(2))
        states = jax.jit(partial(retrace, env))(task, jax.random.key(2), played.action)
        assert jax.tree.leaves(states)[0].shape[:2] == (13, 5)
        seen = jnp.concatenate([played.observation, played.last_observation[None]])
        seen = jnp.argmax(seen, axis=-1) if env is grid else seen[..., :2]
        before = jnp.concatenate([played.mask, jnp.zeros((1, 5))]) > 0
        expected = np.asarray(seen)[before]
        assert len(np.unique(expected, axis=0)) > 5
        np.testing.assert_allclose(np.asarray(observed(states))[before], expected, atol=1e-6)


def test_tasks_of_different_horizons_share_a_batch():
    env = envs.make("gridworld", horizon=12)
    task = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), 3))
    task = dataclasses.replace(task, horizon=jnp.array([2, 7, 12], jnp.int32))
    keys = jax.random.split(jax.random.key(1), 3)
    mask = jax.vmap(lambda task, key: play(env, task, key).mask)(task, keys)
    np.testing.assert_array_equal(mask.sum(1), [[2] * 5, [7] * 5, [12] * 5])


def test_episodes_differ_and_their_key_decides_them():
    env = envs.make("gridworld")
    task = env.sample_task(jax.random.key(0))
    one, same, other = (play(env, task, jax.random.key(k)).action for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one[:, 0] != one[:, 1]).any()


class Late:
    """Cut off after two steps; from the third on it says that the task has ended."""

    observation_space, action_space = Box(0, 9, (1,)), Discrete(2)
    max_horizon = 5

    def reset(self, key, task):
        return jnp.int32(0), first_timestep(jnp.zeros(1))

    def step(self, key, state, action, task):
        state = state + 1
        seen = state[None].astype(jnp.float32)
        return state, TimeStep(seen, jnp.float32(1.0), state >= 3, state == 2)


def test_an_end_after_the_end_is_none():
    env = Late()
    network = mj.networks.mlp_policy(env.action_space, (4,))
    params = network.init(jax.random.key(1), jnp.zeros(1), ())
    played = rollout(
        env,
        network.apply,
        mj.distributions.for_action_space(env.action_space),
        params,
        jnp.zeros(()),
        jax.random.key(0),
        episodes=3,
        horizon=5,
    )
    np.testing.assert_array_equal(played.mask.sum(0), 2)
    assert not played.terminated.any()
