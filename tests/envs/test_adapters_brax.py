"""brax's environments as ours: its physics, our horizon, tasks set on a copy."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("brax")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # jaxopt's own end
    import brax.envs
    from brax.envs.fast import Fast

from envs.adapters.brax import from_brax

N, HORIZON = 3, 6


@pytest.fixture(autouse=True)
def lenient():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _rewards(env, tasks, actions):
    """Of one episode a task, [N, T], and the flags of its last step."""

    def play(task, actions):
        def step(state, action):
            return env.step(jax.random.key(1), state, action, task)

        state, first = env.reset(jax.random.key(0), task)
        return first, jax.lax.scan(step, state, actions)[1]

    return jax.jit(jax.vmap(play))(tasks, actions)


def test_the_simplest_environment_plays_as_in_brax():
    inner = Fast()
    env = from_brax(inner, max_horizon=HORIZON)
    assert hash(env) == hash(env)
    assert env.sample_task(jax.random.key(0)) == ()
    actions = jax.random.uniform(jax.random.key(0), (N, HORIZON, 1), jnp.float32, -1.0, 1.0)
    first, played = _rewards(env, (), actions)
    assert first.observation.shape[1:] == env.observation_space.shape == (2,)
    assert env.action_space.shape == (1,)
    state = inner.reset(jax.random.key(0))
    for t in range(HORIZON):
        state = inner.step(state, actions[0, t])
        np.testing.assert_allclose(played.reward[0, t], state.reward, rtol=1e-5)
        np.testing.assert_allclose(played.observation[0, t], state.obs, rtol=1e-5)
    assert not played.terminated.any()
    np.testing.assert_array_equal(played.truncated[0], np.arange(HORIZON) == HORIZON - 1)


def test_a_task_is_set_on_a_copy():
    inner = Fast()

    def assign(env, dt):
        env._dt = dt

    def sample(key):
        return jax.random.uniform(key, (), jnp.float32, 0.01, 0.1)

    env = from_brax(inner, sample, assign, max_horizon=HORIZON)
    tasks = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), N))
    _, played = _rewards(env, tasks, jnp.ones((N, HORIZON, 1), jnp.float32))
    # One pace more a step: the speed is the time passed.
    expected = np.arange(1, HORIZON + 1) * np.asarray(tasks)[:, None]
    np.testing.assert_allclose(played.observation[..., 1], expected, rtol=1e-5)
    assert inner._dt == 0.02


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # brax's, about itself and MuJoCo
def test_masses_are_tasks():
    inner = brax.envs.get_environment("inverted_pendulum", backend="spring")

    def assign(env, scale):
        env.sys = env.sys.tree_replace({"link.inertia.mass": env.sys.link.inertia.mass * scale})

    def sample(key):
        return jax.random.uniform(key, (), jnp.float32, 0.5, 2.0)

    env = from_brax(inner, sample, assign, max_horizon=40)
    tasks = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), N))
    _, played = _rewards(env, tasks, jnp.ones((N, 40, 1), jnp.float32))
    assert played.terminated.any(axis=1).all()
    assert len(np.unique(played.observation[:, 3, 2])) == N


@pytest.mark.filterwarnings("ignore")  # brax's, about itself
def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"env: got .*AutoReset.*, expected an environment unwr"):
        from_brax(brax.envs.create("fast"))
    with pytest.raises(ValueError, match="assign: got None, expected a function together with"):
        from_brax(Fast(), lambda key: key)
    with pytest.raises(ValueError, match="max_horizon: got 0, expected an integer of at least 1"):
        from_brax(Fast(), max_horizon=0)
    with pytest.raises(ValueError, match=r"observation: got .*, expected one array"):
        from_brax(Fast(obs_mode="dict_state"))
