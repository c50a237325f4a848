"""What every registered environment promises. A new one is held to it by being registered."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from key_uses import spent_twice
from whole_episodes import COUNT, SOLVED, first_task, run_episodes, sample_tasks, traces

import envs
from envs.core import provides

# The environments that draw in an episode, and the variance that a step adds to a return.
_VARIANCE = {envs.BernoulliBandit: 0.25, envs.TabularMDP: 2.0, envs.PointCorners: 0.01}


def _variance(env):
    if getattr(env, "slip", 0) > 0:  # a maze pays at most 1 an episode
        return 0.25 / env.max_horizon if isinstance(env, envs.Maze) else 1.0
    return _VARIANCE.get(type(env), 0.0)


def _is_random(env):
    return _variance(env) > 0


def _tolerance(env):
    """For the mean over COUNT episodes: four standard errors, or rounding."""
    return 4 * np.sqrt(env.max_horizon * _variance(env) / COUNT) + 1e-4


def _is_trial(env):
    """A trial is truncated after its last episode, which may be before its horizon."""
    return isinstance(env, envs.Trial)


def _all_in(space, values):
    """Whether all of [N, T, ...] are in the space."""
    return jax.jit(jax.vmap(jax.vmap(space.contains)))(values).all()


@pytest.mark.smoke
def test_it_is_a_hashable_environment(env):
    assert isinstance(env, envs.Environment)
    assert provides(env, envs.SolvedEnvironment) == (not isinstance(env, envs.PointCorners))
    assert hash(env) == hash(dataclasses.replace(env))
    assert env == dataclasses.replace(env)
    with pytest.raises(dataclasses.FrozenInstanceError):
        env.horizon = 3


def test_every_key_is_used_once(env):
    key = jax.random.key(0)
    task = jax.eval_shape(env.sample_task, key)
    state, _ = jax.eval_shape(env.reset, key, task)
    action = jax.eval_shape(env.action_space.sample, key)
    assert spent_twice(env.sample_task, key) == 0
    assert spent_twice(env.reset, key, task) == 0
    assert spent_twice(env.step, key, state, action, task) == 0


def test_a_key_that_is_used_twice_is_counted():
    uniform, split = jax.random.uniform, jax.random.split

    def first_twice(key):
        keys = split(key)
        return uniform(keys[0]), uniform(keys[0])

    def in_a_loop(key):
        return jax.lax.scan(lambda carry, _: (carry, uniform(key)), 0, length=3)

    def in_a_branch_and_after_it(key):
        return jax.lax.cond(True, uniform, lambda key: 0.0, key) + uniform(key)

    def folded_and_split(key):
        return jax.random.fold_in(key, 0), split(key)

    for function in (first_twice, in_a_loop, in_a_branch_and_after_it, folded_and_split):
        assert spent_twice(function, jax.random.key(0)) == 1, function


def test_keys_that_are_used_once_are_not_counted():
    uniform, split = jax.random.uniform, jax.random.split

    def each_once(key):
        key, other, *more = split(key, 4)
        carried = jax.lax.scan(lambda key, _: (split(key)[0], None), key, length=3)[0]
        scanned = jax.lax.scan(lambda _, key: (0.0, uniform(key)), 0.0, split(other, 3))[1]
        either = jax.lax.cond(True, uniform, jax.random.normal, more[0])
        return uniform(carried), scanned, either, jax.random.randint(more[1], (), 0, 3)

    assert spent_twice(each_once, jax.random.key(0)) == 0


def test_what_is_one_of_an_observation_is_told(env, random_episodes):
    if not getattr(env.observation_space, "one_hot", False):
        pytest.skip("observations that are not one-hot")
    observation = random_episodes.timesteps.observation
    told = jax.vmap(jax.vmap(env.observed_row, (0, None)))
    rows = told(random_episodes.states, random_episodes.tasks)
    np.testing.assert_array_equal(rows, np.asarray(observation).argmax(-1))


@pytest.mark.smoke
def test_every_value_of_an_episode_is_in_its_space(env, random_episodes):
    timesteps = random_episodes.timesteps
    shape = (COUNT, env.max_horizon + 1)
    space = env.observation_space
    assert timesteps.observation.shape == (*shape, *space.shape)
    assert timesteps.observation.dtype == space.dtype
    assert _all_in(space, timesteps.observation)
    assert random_episodes.actions.dtype == env.action_space.dtype
    assert _all_in(env.action_space, random_episodes.actions)
    for value, dtype in [
        (timesteps.reward, np.float32),
        (timesteps.terminated, bool),
        (timesteps.truncated, bool),
    ]:
        assert value.shape == shape
        assert value.dtype == dtype


@pytest.mark.smoke
def test_an_action_of_another_shape_or_kind_is_refused_while_tracing(env):
    task = first_task(env)
    state, _ = jax.eval_shape(env.reset, jax.random.key(0), task)
    space = env.action_space
    wrong_kind = jnp.float32 if np.issubdtype(space.dtype, np.integer) else jnp.int32
    for action in (jnp.zeros((*space.shape, 2), space.dtype), jnp.zeros(space.shape, wrong_kind)):
        with pytest.raises(ValueError, match=r"action: got .*, expected "):
            jax.eval_shape(env.step, jax.random.key(0), state, action, task)


def test_reset_pays_nothing_and_ends_nothing(random_episodes):
    timesteps = random_episodes.timesteps
    for value in (timesteps.reward, timesteps.terminated, timesteps.truncated):
        assert not value[:, 0].any()


def test_forms_do_not_depend_on_the_default_precision(env):
    with jax.enable_x64(True):
        key = jax.random.key(0)
        task = jax.eval_shape(env.sample_task, key)
        state, timestep = jax.eval_shape(env.reset, key, task)
        action = jax.ShapeDtypeStruct(env.action_space.shape, env.action_space.dtype)
        if provides(env, envs.SolvedEnvironment):
            best = jax.eval_shape(env.optimal_action, state, task)
            assert (best.shape, best.dtype) == (action.shape, action.dtype)
        assert timestep.observation.dtype == env.observation_space.dtype
        assert all(leaf.dtype.itemsize <= 4 for leaf in jax.tree.leaves((task, state, timestep)))
        # What a policy in the precision of its parameters would send.
        wide = jnp.float64 if action.dtype == jnp.float32 else jnp.int64
        for dtype in (action.dtype, wide):
            sent = jax.ShapeDtypeStruct(action.shape, dtype)
            chex.assert_trees_all_equal_shapes_and_dtypes(
                (state, timestep), jax.eval_shape(env.step, key, state, sent, task)
            )


@pytest.mark.smoke
def test_episodes_end_at_the_horizon_or_before_by_termination(env, random_episodes):
    ends = random_episodes.timesteps
    assert not (ends.terminated & ends.truncated)[random_episodes.lived].any()
    for index, length in enumerate(random_episodes.lengths):
        terminated, truncated = ends.terminated[index, length], ends.truncated[index, length]
        assert terminated or truncated
        assert truncated == (not terminated and (length == env.max_horizon or _is_trial(env)))


def test_the_horizon_of_a_task_is_the_one_that_counts(env):
    episodes = env.episodes if _is_trial(env) else 1
    horizons = 1 + np.arange(COUNT, dtype=np.int32) % (env.max_horizon // episodes)
    tasks = dataclasses.replace(sample_tasks(env), horizon=jnp.asarray(horizons))
    found = run_episodes(env, tasks, 1.0)
    at_the_end = np.arange(COUNT), found.lengths
    terminated = found.timesteps.terminated[at_the_end]
    if not _is_trial(env):
        np.testing.assert_array_equal(found.lengths[~terminated], horizons[~terminated])
    np.testing.assert_array_equal(found.timesteps.truncated[at_the_end], ~terminated)
    assert (found.lengths <= episodes * horizons).all()
    # The oracle reads it too.
    if provides(env, envs.SolvedEnvironment):
        best = run_episodes(env, tasks, 0.0)
        if not _is_random(env):
            np.testing.assert_allclose(best.returns, best.optimal, atol=1e-5)
        assert abs(np.mean(best.returns - best.optimal)) <= _tolerance(env)
    # One program serves every horizon, and any task of p(T).
    assert traces[env] == 1


def test_an_episode_is_a_function_of_task_actions_and_keys(env, random_episodes):
    again = run_episodes(env, sample_tasks(env), 1.0)
    chex.assert_trees_all_equal(again.timesteps, random_episodes.timesteps)
    other_keys = run_episodes(env, sample_tasks(env), 1.0, keys_seed=1)
    same = (other_keys.timesteps.reward == again.timesteps.reward).all()
    assert same == (not _is_random(env))


@pytest.mark.parametrize("how", [jax.jit, pytest.param(lambda f: f, marks=pytest.mark.slow)])
def test_alone_compiled_or_not_is_as_in_a_batch(env, random_episodes, how):
    index, task = 0, first_task(env)
    reset, step = how(env.reset), how(env.step)
    state, timestep = reset(random_episodes.keys[index, 0], task)
    found = [(state, timestep)]
    times = np.unique(np.linspace(0, random_episodes.lengths[index] - 1, 5).astype(int))
    before, keys, actions = (
        jax.tree.map(lambda leaf: [jnp.asarray(leaf[index, time]) for time in times], tree)
        for tree in (random_episodes.states, random_episodes.keys[:, 1:], random_episodes.actions)
    )
    for place in range(len(times)):
        state = jax.tree.map(
            lambda leaves: leaves[place],  # noqa: B023
            before,
            is_leaf=lambda node: isinstance(node, list),
        )
        found.append(step(keys[place], state, actions[place], task))
    reached = [0, *(times + 1)]
    expected = jax.tree.map(
        lambda leaf: leaf[index, reached], (random_episodes.states, random_episodes.timesteps)
    )
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    chex.assert_trees_all_close(stacked, expected, atol=1e-6)
    if provides(env, envs.SolvedEnvironment):
        best = how(env.optimal_return)(task)
        np.testing.assert_allclose(best, random_episodes.optimal[index], rtol=1e-6)


@pytest.mark.parametrize("id", envs.registered())
def test_a_task_drawn_alone_is_as_in_a_batch(id):
    env = envs.make(id)
    tasks = sample_tasks(env)
    alone = jax.jit(env.sample_task)(jax.random.split(jax.random.key(1), COUNT)[0])
    chex.assert_trees_all_close(alone, first_task(env), atol=1e-6)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(alone))
    assert alone.horizon == env.max_horizon
    assert any((leaf != leaf[:1]).any() for leaf in jax.tree.leaves(tasks))


@pytest.mark.smoke
@pytest.mark.parametrize("env", SOLVED, indirect=True)
def test_the_optimal_policy_attains_the_optimal_return(env, optimal_episodes):
    if not _is_random(env):
        np.testing.assert_allclose(optimal_episodes.returns, optimal_episodes.optimal, atol=1e-5)
    assert abs(np.mean(optimal_episodes.returns - optimal_episodes.optimal)) <= _tolerance(env)
    assert optimal_episodes.optimal.shape == (COUNT,)
    assert optimal_episodes.optimal.dtype == np.float32


@pytest.mark.parametrize("env", SOLVED, indirect=True)
def test_no_policy_exceeds_the_optimal_return(env, random_episodes, erring_episodes):
    for found in (random_episodes, erring_episodes):
        excess = found.returns - found.optimal
        if not _is_random(env):
            assert excess.max() <= 1e-4
        assert excess.mean() <= _tolerance(env)
    assert random_episodes.returns.mean() < random_episodes.optimal.mean() - _tolerance(env)
