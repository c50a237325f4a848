"""gymnax both ways: what its trainers are handed, and its environments as ours."""

import copy
import dataclasses
import functools
import re
import subprocess
import sys
import typing

import chex
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment, spaces
from gymnax.wrappers.purerl import LogWrapper

import envs
import metajax as mj
from envs.adapters.episodes import begin
from envs.adapters.gymnax import GymnaxParams, from_gymnax, to_gymnax
from metajax.networks import mlp_policy

MAZE = envs.Maze(size=5, horizon=6)
N, T, M = 32, 24, 6  # environments, steps, tasks of the set


@pytest.fixture
def lenient():
    """Promotion as gymnax's own code needs it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@functools.cache
def _tasks(count=M):
    """Different tasks: the horizon numbers them."""
    keys = jax.random.split(jax.random.key(7), count)
    tasks = jax.jit(jax.vmap(MAZE.sample_task))(keys)
    return dataclasses.replace(tasks, horizon=jnp.arange(1, count + 1, dtype=jnp.int32))


@functools.cache
def _played(**options):
    """T random steps in N environments as numpy, [N, T]: before, action, what `step` gave."""
    outer = to_gymnax(MAZE, _tasks(), **options)

    def step(carry, keys):
        observation, state = carry
        action = jax.random.randint(keys[0], (), 0, outer.num_actions, jnp.int32)
        given = outer.step(keys[1], state, action, outer.default_params)
        return given[:2], (observation, state, action, given)

    def one(key, keys):
        return jax.lax.scan(step, outer.reset(key, outer.default_params), keys)[1]

    keys = jax.random.split(jax.random.key(0), (N, T + 1, 2))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys[:, 0, 0], keys[:, 1:]))


@functools.cache
def _expected():
    """What the environment itself says of the steps of `_played`: on the same task and the next."""
    _, before, action, (_, after, *_) = _played(returns=6)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
    def answer(key, before, action, after):
        episode = before.episode
        _, timestep = MAZE.step(key, episode.state, action, episode.task)
        return timestep, MAZE.reset(key, after.episode.task)[1].observation

    return jax.tree.map(np.asarray, answer(jax.random.key(0), before, action, after))


@pytest.mark.smoke
def test_step_gives_as_many_values_as_the_consumer_chose():
    expected, _ = _expected()
    ended = expected.terminated | expected.truncated
    *_, (_, _, reward, terminated, truncated, info) = _played(returns=6)
    chex.assert_trees_all_equal(
        (reward, terminated, truncated),
        (expected.reward, expected.terminated, expected.truncated),
    )
    assert 0 < terminated.sum() < ended.sum()
    assert (info["terminated"] == terminated).all()
    assert (info["truncated"] == truncated).all()
    *_, (_, _, reward, done, info) = _played(returns=5, same_task=True)
    np.testing.assert_array_equal(done, info["terminated"] | info["truncated"])
    np.testing.assert_array_equal(reward > 0, info["terminated"])
    native = typing.get_type_hints(environment.Environment.step)["return"]
    assert to_gymnax(MAZE).returns == len(typing.get_args(native))


@pytest.mark.smoke
def test_the_next_episode_begins_in_the_step_that_ends_one():
    expected, first_observation = _expected()
    _, before, _, (observation, after, _, terminated, truncated, info) = _played(returns=6)
    ended = terminated | truncated
    np.testing.assert_array_equal(info["final_observation"], expected.observation)
    np.testing.assert_array_equal(
        observation, np.where(ended[..., None], first_observation, expected.observation)
    )
    assert (info["discount"] == 1 - terminated).all()
    np.testing.assert_array_equal(after.time, np.where(ended, 0, before.time + 1))
    np.testing.assert_array_equal(after.time, after.episode.state.steps)
    assert not (after.terminated | after.truncated).any()


def test_each_environment_has_its_task_and_each_reset_draws_one():
    _, before, _, (_, after, _, terminated, truncated, _) = _played(returns=6)
    ended = terminated | truncated
    names = [before.episode.task.horizon, after.episode.task.horizon]
    assert (names[0] == names[1])[~ended].all()
    assert 0 < (names[0] == names[1])[ended].mean() < 0.5
    for name in range(1, M + 1):
        assert abs(np.mean(names[1][ended] == name) - 1 / M) < 4 / np.sqrt(6 * ended.sum())
    # Whole tasks are drawn, never parts of two.
    drawn = jax.tree.map(lambda leaf: np.asarray(leaf)[names[1] - 1], _tasks())
    chex.assert_trees_all_equal(after.episode.task, drawn)


def test_the_same_task_may_be_kept():
    _, before, _, (_, after, _, done, _) = _played(returns=5, same_task=True)
    chex.assert_trees_all_equal(before.episode.task, after.episode.task)
    assert len(np.unique(before.episode.task.horizon[:, 0])) > 1
    assert done.sum(axis=1).min() > 1


def test_without_a_set_every_reset_draws_a_new_task():
    outer = to_gymnax(envs.BernoulliBandit(horizon=2), returns=5)

    def play(key):
        _, first = outer.reset(key)
        _, second, _, running, _ = outer.step(key, first, 0)
        _, third, _, done, _ = outer.step(key, second, 0)
        return [state.episode.task.probability for state in (first, second, third)], running, done

    (first, second, third), running, done = jax.jit(jax.vmap(play))(
        jax.random.split(jax.random.key(0), N)
    )
    assert not running.any()
    assert done.all()
    np.testing.assert_array_equal(first, second)
    assert (third != second).all()
    assert len(np.unique(third)) == third.size


def test_params_may_shorten_episodes_and_bring_other_tasks():
    outer = to_gymnax(MAZE, returns=6)
    step, reset = jax.jit(outer.step), jax.jit(outer.reset)
    task = jax.tree.map(lambda leaf: leaf[-1:], _tasks())
    params = outer.default_params.replace(max_steps_in_episode=2, tasks=task)
    assert isinstance(params, GymnaxParams)
    _, state = reset(jax.random.key(0), params)
    chex.assert_trees_all_equal(state.episode.task, jax.tree.map(lambda leaf: leaf[0], task))
    for truncates in (False, True, False):
        # A typed key or an old one, an int or an array: whatever a trainer sends.
        *_, truncated, _ = _, state, *_ = step(jax.random.PRNGKey(0), state, 0, params)
        assert truncated == truncates


@pytest.mark.smoke
def test_it_looks_like_an_environment_of_gymnax(lenient):
    outer = to_gymnax(MAZE, _tasks())
    params = outer.default_params
    assert isinstance(outer, environment.Environment)
    assert isinstance(params, environment.EnvParams)
    assert params.max_steps_in_episode == MAZE.horizon
    assert (outer.name, outer.num_actions) == ("Maze", 4)
    assert isinstance(outer.action_space(params), spaces.Discrete)
    space = outer.observation_space(params)
    assert isinstance(space, spaces.Box)
    assert (space.shape, space.dtype) == (MAZE.observation_space.shape, np.uint8)
    assert to_gymnax(envs.PointNavigation()).action_space(params).shape == (2,)
    # gymnax's own wrapper runs on what the installed version calls a step.
    logged = LogWrapper(outer)
    _, state = logged.reset(jax.random.key(0), params)
    *_, info = logged.step(jax.random.key(0), state, jnp.int32(1), params)
    assert not info["returned_episode"]


@pytest.mark.parametrize("id", envs.registered())
def test_every_environment_may_be_handed_out(id):
    env = envs.make(id)
    outer = to_gymnax(env, returns=6)
    params, key = outer.default_params, jax.random.key(0)
    observation, state = jax.eval_shape(outer.reset, key, params)
    action = jax.eval_shape(env.action_space.sample, key)
    given = jax.eval_shape(outer.step, key, state, action, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(given[:2], (observation, state))
    space = outer.observation_space(params)
    for seen in (observation, given[-1]["final_observation"]):
        assert (seen.shape, seen.dtype) == (space.shape, space.dtype)


def test_no_package_is_imported_until_its_adapter_is():
    names = {"gymnax", "gymnasium", "xminigrid", "brax"}
    code = f"import envs, sys; sys.exit(bool({names} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_is_a_value():
    one = to_gymnax(MAZE, _tasks(), returns=5)
    assert one == to_gymnax(envs.Maze(size=5, horizon=6), _tasks(), returns=5)
    assert hash(one) == hash(to_gymnax(MAZE, _tasks(), returns=5))
    assert one not in (to_gymnax(MAZE, _tasks(), returns=6), to_gymnax(MAZE, returns=5), MAZE)
    assert copy.deepcopy(to_gymnax(MAZE)) == to_gymnax(MAZE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: {"returns": 4}, "returns: got 4, expected 5, 6 or None"),
        (
            lambda: {"tasks": _tasks().start},
            "tasks: got 'int32[2]', expected MazeTask(walls=uint32[5, 1], start=int32[2], ",
        ),
        (
            lambda: {"tasks": jax.tree.map(lambda leaf: leaf[:0], _tasks())},
            "tasks: got {0}, expected a leading axis of one length",
        ),
        (
            lambda: {"tasks": jax.tree.map(lambda leaf: leaf[0], _tasks())},
            "tasks: got {0, 2, 5}, expected a leading axis of one length",
        ),
    ],
    ids=["returns", "form", "empty", "one"],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        to_gymnax(MAZE, **arguments())


def _walk(env, task, keys, actions):
    def step(state, given):
        state, timestep = env.step(*given[:1], state, given[1], task)
        return state, timestep

    state, first = env.reset(keys[0], task)
    return first, jax.lax.scan(step, state, (keys[1:], actions))[1]


@pytest.mark.smoke
def test_out_and_in_again_is_the_same_environment():
    outers = [to_gymnax(MAZE, returns=returns) for returns in (5, 6)]
    copies = [from_gymnax(outer) for outer in outers]
    for env in copies:
        assert env.observation_space == MAZE.observation_space
        assert env.action_space == MAZE.action_space
        assert env.max_horizon == MAZE.max_horizon
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf[-1]] * M), _tasks())  # horizon 6
    keys = jax.random.split(jax.random.key(0), (M, MAZE.horizon + 1))
    actions = jax.random.randint(keys[0, 0], (M, MAZE.horizon), 0, 4, jnp.int32)

    @jax.jit
    @jax.vmap
    def played(task, keys, actions):
        params = outers[0].default_params.replace(tasks=jax.tree.map(lambda x: x[None], task))
        returned = [_walk(env, params, keys, actions) for env in copies]
        return _walk(MAZE, task, keys, actions), *returned

    ours, *returned = played(tasks, keys, actions)
    chex.assert_trees_all_equal(ours, *returned)
    assert ours[1].truncated.any()


def test_an_environment_of_gymnax_has_its_params_as_tasks(lenient):
    cartpole, params = gymnax.make("CartPole-v1")
    env = from_gymnax(
        cartpole,
        sample_params=lambda key: params.replace(
            force_mag=jax.random.uniform(key, (), jnp.float32, 1.0, 20.0),
            max_steps_in_episode=jax.random.randint(key, (), 5, 40, jnp.int32),
        ),
        max_horizon=30,
    )
    assert hash(env) == hash(env)
    assert env.action_space == envs.Discrete(2)
    assert (env.observation_space.shape, env.max_horizon) == ((4,), 30)
    keys = jax.random.split(jax.random.key(0), (64, 41))
    tasks = jax.jit(jax.vmap(env.sample_task))(keys[:, 0])
    actions = jax.random.randint(keys[0, 0], (64, 40), 0, 2, jnp.int32)
    first, later = jax.jit(jax.vmap(lambda *given: _walk(env, *given)))(tasks, keys, actions)
    assert first.observation.dtype == later.observation.dtype == env.observation_space.dtype
    assert later.reward.dtype == np.float32
    ends = np.asarray(later.terminated | later.truncated)
    assert ends.any(axis=1).all()
    length = 1 + ends.argmax(axis=1)
    limit = np.minimum(tasks.max_steps_in_episode, 30)
    at_end = np.arange(64), length - 1
    bounds = [2.4, np.inf, 12 * np.pi / 180, np.inf]
    fell = (np.abs(later.observation[at_end]) > bounds).any(axis=1)
    # Before gymnax 1.0 nothing tells that one fell in the step that was the last anyway.
    known = fell if hasattr(cartpole, "is_truncated") else fell & (length < limit)
    assert 0 < later.truncated[at_end].sum() < 64
    np.testing.assert_array_equal(later.truncated[at_end], (length == limit) & ~known)
    np.testing.assert_array_equal(later.terminated[at_end], ~np.asarray(later.truncated[at_end]))
    assert (length <= limit).all()


def test_a_learner_of_ours_collects_from_an_environment_of_gymnax(lenient):
    env = from_gymnax(gymnax.make("CartPole-v1")[0], max_horizon=10)
    problem = mj.policy_gradient(env, mlp_policy(env.action_space, (8,)), episodes=4)

    @jax.jit
    def collected(key):
        params = problem.init(key)
        batch = problem.collect(params, problem.sample_task(key), key)
        return problem.score(batch), problem.inner_loss(params, batch)[0]

    score, loss = collected(jax.random.key(0))
    assert 0 < score <= 10
    assert np.isfinite(loss)


def test_what_gymnax_hands_in_is_refused_where_it_cannot_be_one_of_ours():
    cartpole, params = gymnax.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"env: got .*LogWrapper.*, expected an environment unw"):
        from_gymnax(LogWrapper(cartpole))
    with pytest.raises(ValueError, match="env: expected an environment, got a tuple"):
        from_gymnax(gymnax.make("CartPole-v1"))
    with pytest.raises(ValueError, match="params: expected those of a task, got a function"):
        from_gymnax(gymnax.make("CartPole-v1")[0], lambda key: None)
    with pytest.raises(ValueError, match="max_horizon: got 0, expected an integer of at least 1"):
        from_gymnax(cartpole, params, max_horizon=0)


def test_a_task_and_its_episode_have_keys_of_their_own():
    class Keyed:
        sample_task = staticmethod(jax.random.key_data)
        reset = staticmethod(lambda key, task: (jax.random.key_data(key), None))

    episode, _ = begin(Keyed(), jax.random.key(0), None)
    assert (episode.task != episode.state).any()
