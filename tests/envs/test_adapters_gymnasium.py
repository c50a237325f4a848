"""gymnasium: its own checker, and a batch that is its members."""

import functools
import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import envs
from envs.adapters.gymnasium import to_gymnasium, to_gymnasium_vector

MAZE = envs.Maze(size=5, horizon=6)
N = 5


@functools.cache
def _tasks():
    return jax.jit(jax.vmap(MAZE.sample_task))(jax.random.split(jax.random.key(3), N))


def _one(index):
    return jax.tree.map(lambda leaf: leaf[index], _tasks())


@pytest.fixture(scope="module")
def registered():
    """An id of gymnasium's own registry, which lets its checker make environments itself."""
    id = "metajax/Maze-v0"
    gymnasium.register(id, entry_point=to_gymnasium, kwargs={"env": MAZE, "tasks": _tasks()})
    yield id
    del gymnasium.registry[id]


@pytest.mark.smoke
def test_it_passes_the_checker_of_gymnasium(registered):
    check_env(gymnasium.make(registered, render_mode="rgb_array").unwrapped)


@pytest.mark.smoke
def test_a_batch_steps_as_its_members_do():
    batch = to_gymnasium_vector(MAZE, N)
    members = [to_gymnasium(MAZE) for _ in range(N)]
    observations, _ = batch.reset(seed=1, options={"task": _tasks()})
    alone = [env.reset(options={"task": _one(i)})[0] for i, env in enumerate(members)]
    np.testing.assert_array_equal(observations, alone)
    batch.action_space.seed(0)
    ends = np.zeros((2, N), bool)
    for _ in range(80):
        actions = batch.action_space.sample()
        observations, rewards, *flags, infos = batch.step(actions)
        alone = [env.step(action) for env, action in zip(members, actions, strict=True)]
        final, expected_rewards, *expected_flags, _ = map(np.array, zip(*alone, strict=True))
        np.testing.assert_array_equal(rewards, expected_rewards.astype(np.float32))
        np.testing.assert_array_equal(flags, expected_flags)
        ended = np.any(flags, axis=0)
        ends |= flags
        np.testing.assert_array_equal(observations[~ended], final[~ended])
        assert ("final_obs" in infos) == ended.any()
        if ended.any():
            assert infos["final_info"] == {}
            np.testing.assert_array_equal(infos["_final_info"], ended)
        for i in np.flatnonzero(ended):
            assert infos["_final_obs"][i]
            np.testing.assert_array_equal(infos["final_obs"][i], final[i])
            # The member follows onto the task that the batch drew.
            task = jax.tree.map(lambda leaf: leaf[i], batch.task)  # noqa: B023
            np.testing.assert_array_equal(
                observations[i], members[i].reset(options={"task": task})[0]
            )
    assert ends.any(axis=1).all()
    for values in (observations, rewards, *flags):
        assert values.flags.writeable


def test_a_batch_keeps_to_gymnasium_s_rules():
    batch = to_gymnasium_vector(MAZE, N, _tasks())
    assert batch.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert batch.single_observation_space.shape == MAZE.observation_space.shape
    logged = RecordEpisodeStatistics(batch)
    histories = []
    for _ in range(2):
        first, _ = logged.reset(seed=3)
        steps = [logged.step(np.full(N, 1 + t % 2)) for t in range(MAZE.horizon)]
        assert first in batch.observation_space
        histories.append([first, *(observation for observation, *_ in steps)])
        assert steps[-1][4]["episode"]["l"].max() == MAZE.horizon
    np.testing.assert_array_equal(*histories)


def test_a_reset_draws_from_the_set_and_may_take_a_task_again():
    env = to_gymnasium(MAZE, _tasks())
    drawn = []
    for seed in range(40):
        env.reset(seed=seed)
        drawn.append(np.array(env.task.walls))
    for index in range(N):
        assert any(np.array_equal(walls, _one(index).walls) for walls in drawn)
    before = env.task
    env.reset(options={"task": before})
    assert jax.tree.all(jax.tree.map(jnp.array_equal, env.task, before))


def test_actions_and_rewards_are_those_of_the_environment():
    env = to_gymnasium(envs.PointNavigation(horizon=2))
    assert env.observation_space.shape == env.action_space.shape == (2,)
    env.reset(seed=0)
    observation, reward, terminated, truncated, _ = env.step(np.array([0.05, 0.2], np.float64))
    np.testing.assert_allclose(observation, [0.05, 0.1], atol=1e-6)
    distance = np.linalg.norm(np.asarray(env.task.goal) - observation)
    np.testing.assert_allclose(reward, -distance, rtol=1e-5)
    assert (terminated, truncated) == (False, False)
    assert env.step(np.zeros(2))[2:4] == (False, True)


def test_pictures_are_of_the_episode_under_way():
    env = to_gymnasium(MAZE, render_mode="rgb_array")
    env.reset(options={"task": _one(0)})
    picture = env.render()
    expected = envs.render.frame(MAZE, _one(0), _one(0).start)
    np.testing.assert_array_equal(picture, expected)
    assert to_gymnasium(MAZE).render() is None


def test_a_wrapped_environment_is_pictured_as_what_it_wraps():
    for wrapped in (envs.Trial(MAZE), envs.Informed(MAZE), envs.Trial(envs.Informed(MAZE))):
        env = to_gymnasium(wrapped, render_mode="rgb_array")
        env.reset(options={"task": _one(0)})
        expected = envs.render.frame(MAZE, _one(0), _one(0).start)
        np.testing.assert_array_equal(env.render(), expected)


def test_a_picture_of_minigrid_is_that_of_its_whole_state():
    minigrid = envs.MiniGrid("empty", size=5)
    env = to_gymnasium(minigrid, render_mode="rgb_array")
    env.reset(seed=0)
    draw = jax.jit(envs.render.rgb, static_argnums=(0, 3))
    expected = draw(minigrid, env._episode.state, env.task, 64)
    assert expected.shape == (320, 320, 3)
    np.testing.assert_array_equal(env.render(), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda env: env.step(4), "action: got array(4), expected integers from 0 to 3"),
        (lambda env: env.step(-1), "action: got array(-1), expected integers from 0 to 3"),
        (lambda env: env.step(1.0), "action: got array(1.), expected integers from 0 to 3"),
        (lambda env: env.step([1, 2]), "action: got (2,), expected an array of shape ()"),
        (
            lambda env: env.reset(options={"task": _tasks()}),
            "task: got 'MazeTask(walls=uint32[5, 5, 1], start=int32[5, 2], ",
        ),
        (
            lambda _: to_gymnasium(MAZE, render_mode="human"),
            "render_mode: got 'human', expected 'rgb_array' or None",
        ),
        (
            lambda _: to_gymnasium(envs.Trial(envs.BernoulliBandit()), render_mode="rgb_array"),
            "render_mode: got 'rgb_array', expected None for Trial, which is not drawn",
        ),
        (
            lambda _: to_gymnasium_vector(MAZE, 0),
            "num_envs: got 0, expected an integer of at least 1",
        ),
        (
            lambda _: to_gymnasium_vector(MAZE, 3).reset(options={"task": _tasks()}),
            "task: got 5, expected 3 tasks",
        ),
        (
            lambda _: to_gymnasium_vector(MAZE, 3).reset(
                options={"reset_mask": np.array([True, False, False])}
            ),
            "options: got 'reset_mask', expected none, as all episodes are started",
        ),
        (
            lambda _: to_gymnasium(envs.PointNavigation()).step([np.nan, 0.0]),
            "action: got nan, expected numbers",
        ),
    ],
    ids=range(11),
)
def test_bad_input_is_refused_in_one_line(call, message):
    env = to_gymnasium(MAZE, _tasks())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=re.escape(message)):
        call(env)


@pytest.mark.parametrize("make", [to_gymnasium, functools.partial(to_gymnasium_vector, num_envs=2)])
def test_a_step_before_the_first_reset_says_so(make):
    env = make(MAZE)
    env.action_space.seed(0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())
