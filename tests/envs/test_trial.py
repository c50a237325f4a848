"""A trial is the episodes that it is made of, with their boundaries in sight."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_episodes import CONFIGURATIONS, run_episodes, sample_tasks

import envs
from envs import TaskSet, Trial
from envs.core import provides

TRIAL = CONFIGURATIONS["trial-of-mazes"]


@pytest.fixture(scope="module")
def trials():
    """Half of the actions optimal, so that episodes of all lengths end in both ways."""
    return run_episodes(TRIAL, sample_tasks(TRIAL), 0.5, seed=1)


@pytest.fixture(scope="module")
def base():
    return jax.jit(TRIAL.env.reset), jax.jit(TRIAL.env.step)


class _Unsolved:
    """A maze without its oracle."""

    def __init__(self):
        self._maze = TRIAL.env

    def __getattr__(self, name):
        if name.startswith("optimal"):
            raise AttributeError(name)
        return getattr(self._maze, name)


@pytest.mark.smoke  # whether a wrapper is an environment depends on the interpreter
def test_a_trial_of_an_environment_without_an_oracle_has_none_either():
    trial = Trial(_Unsolved(), episodes=2)
    task = jax.jit(trial.sample_task)(jax.random.key(0))
    state, _ = jax.jit(trial.reset)(jax.random.key(0), task)
    trial.step(jax.random.key(0), state, jnp.int32(0), task)
    assert not provides(trial, envs.SolvedEnvironment)
    with pytest.raises(AttributeError, match="_Unsolved has no oracle"):
        jax.jit(trial.optimal_return)(task)
    assert provides(Trial(TRIAL.env), envs.SolvedEnvironment)
    assert TRIAL.optimal_return == TRIAL.optimal_return  # programs are looked up by it
    assert not hasattr(Trial(envs.make("tabular-mdp")), "tell")


@pytest.mark.smoke
def test_a_trial_is_its_episodes_one_after_another(trials, base):
    reset, step = base
    key, size, ends = jax.random.key(0), TRIAL.env.observation_space.shape[0], set()
    for index in range(12):
        task = jax.tree.map(lambda leaf: leaf[index], trials.tasks)  # noqa: B023
        observed, rewards = trials.timesteps.observation[index], trials.timesteps.reward[index]
        time = 0
        for episode in range(TRIAL.episodes):
            state, timestep = reset(key, task)
            np.testing.assert_array_equal(observed[time, :size], timestep.observation)
            while not (timestep.terminated or timestep.truncated):
                assert trials.states.episode[index, time] == episode
                assert not trials.timesteps.truncated[index, time]
                action = trials.actions[index, time]
                state, timestep = step(key, state, action, task)
                time += 1
                assert rewards[time] == timestep.reward
                ended = bool(timestep.terminated | timestep.truncated)
                past = [*np.eye(4)[action], timestep.reward, ended]
                np.testing.assert_array_equal(observed[time, size:], np.float32(past))
                if not ended:
                    np.testing.assert_array_equal(observed[time, :size], timestep.observation)
            ends.add((episode, bool(timestep.terminated)))
        # What the last episode ended with is seen.
        np.testing.assert_array_equal(observed[time, :size], timestep.observation)
        assert trials.timesteps.truncated[index, time]
        assert time == trials.lengths[index]
    assert len(ends) == 2 * TRIAL.episodes


def test_nothing_is_past_at_the_start(trials):
    size = TRIAL.env.observation_space.shape[0]
    assert not trials.timesteps.observation[:, 0, size:].any()
    assert not trials.states.episode[:, 0].any()


@pytest.mark.smoke
def test_all_episodes_of_a_trial_are_on_one_task_and_draw_anew():
    trial = Trial(envs.make("bandit", arms=3, horizon=50), episodes=2)
    task = dataclasses.replace(
        jax.jit(trial.sample_task)(jax.random.key(0)), probability=jnp.array([0.0, 0.5, 1.0])
    )

    @jax.jit
    @jax.vmap
    def play(key, arm):
        state, _ = trial.reset(key, task)

        def pull(state, key):
            state, timestep = trial.step(key, state, arm, task)
            return state, timestep.reward

        return jax.lax.scan(pull, state, jax.random.split(key, trial.max_horizon))[1]

    never, half, always = play(jax.random.split(jax.random.key(1), 3), jnp.arange(3))
    assert not never.any()
    assert always.all()
    first, second = half.reshape(2, 50)
    assert (first != second).any()
    assert abs(half.mean() - 0.5) < 4 * 0.5 / np.sqrt(100)


def test_a_continuous_action_is_seen_as_it_came():
    trial = Trial(envs.make("point", horizon=3))
    task = jax.jit(trial.sample_task)(jax.random.key(0))
    state, timestep = jax.jit(trial.reset)(jax.random.key(1), task)
    assert timestep.observation.tolist() == [0.0] * 6
    action = jnp.array([0.05, -0.5], jnp.float32)
    _, timestep = jax.jit(trial.step)(jax.random.key(2), state, action, task)
    expected = [0.05, -0.1, 0.05, -0.5, float(timestep.reward), 0.0]
    np.testing.assert_allclose(timestep.observation, expected, rtol=1e-6)


def test_rewards_of_double_precision_are_observed_in_single():
    class Precise(envs.PointNavigation):
        def step(self, key, state, action, task):
            state, timestep = super().step(key, state, action, task)
            return state, dataclasses.replace(timestep, reward=timestep.reward.astype(float))

    with jax.enable_x64(True):
        trial = Trial(Precise(), 2)
        task = jax.jit(trial.sample_task)(jax.random.key(0))
        state, _ = jax.jit(trial.reset)(jax.random.key(1), task)
        action = jnp.zeros(2, jnp.float32)
        _, timestep = jax.jit(trial.step)(jax.random.key(2), state, action, task)
    assert (timestep.observation.dtype, timestep.reward.dtype) == (jnp.float32, jnp.float32)


def test_its_tasks_are_those_of_the_environment():
    trial = Trial(envs.make("gridworld"))
    tasks = TaskSet.make(trial, jax.random.key(0), 50)
    base = TaskSet.make(trial.env, jax.random.key(0), 50)
    chex.assert_trees_all_equal((tasks.tasks, tasks.hashes), (base.tasks, base.hashes))
    assert '"env": {"class": "Gridworld"' in tasks.environment


class Numbered(envs.Gridworld):
    observation_space = envs.Discrete(25)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(env=envs.make("bandit"), episodes=0), "episodes: got 0, expected an integer"),
        (dict(env="maze"), "env: got 'maze', expected an environment"),
        (dict(env=Numbered()), "env: got .*, expected one that observes an array"),
    ],
)
def test_what_makes_no_trial_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Trial(**fields)
