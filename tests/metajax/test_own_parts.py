"""Environments and networks of a caller's own: what works, and what is told where it cannot."""

import dataclasses
import re
from types import MappingProxyType, SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import envs
import metajax as mj
from envs.core import Box, Discrete, TimeStep

OUTER = optax.adam(1e-3)
GRID = envs.make("gridworld", size=4, horizon=3)


@dataclasses.dataclass(frozen=True)
class Falling:
    """Falls from 1 in steps of .3 and ends below .2; from there on nothing of it is a number."""

    mistake: str = ""

    observation_space = Box(-np.inf, np.inf, (2,), np.dtype(np.float32))
    action_space = Discrete(3)
    max_horizon = 8

    def sample_task(self, key):
        return jax.random.uniform(key, ())

    def reset(self, key, task):
        del key, task
        height = jnp.float32(1.0)
        observation = jnp.stack([height, height])
        no = jnp.array(False)
        return height, TimeStep(observation, jnp.float32(0.0), no, no)

    def step(self, key, height, action, task):
        del key, action, task
        height -= 0.3
        reward, ended = jnp.sqrt(height), height < 0.2
        observation = jnp.log(jnp.stack([height, height]))
        if self.mistake == "reward":
            reward = reward[None]
        if self.mistake == "terminated":
            ended = ended.astype(jnp.float32)
        if self.mistake == "observation":
            observation = observation[:1]
        if self.mistake == "pytree":
            observation = {"height": observation}
        if self.mistake == "state":
            height = height.astype(jnp.bfloat16)
        if self.mistake == "tuple":
            return height, observation, reward, ended, {}
        return height, TimeStep(observation, reward, ended, jnp.array(False))


def learn(env, network=None, **options):
    network = network or mj.networks.mlp_policy(env.action_space, (4,))
    problem = mj.policy_gradient(env, network, episodes=2, **options)
    learner = mj.maml(problem, mj.sgd(0.1), OUTER, 2)
    return jax.jit(learner.update)(learner.init(jax.random.key(0)))


@pytest.mark.parametrize(
    "baseline",
    [
        "linear",
        pytest.param("mean", marks=pytest.mark.slow),
        pytest.param("none", marks=pytest.mark.slow),
    ],
)
def test_what_follows_an_end_reaches_nothing_even_where_it_is_no_number(baseline):
    state, metrics = learn(Falling(), baseline=baseline)
    assert metrics["score_after"] == pytest.approx(sum(np.sqrt([0.7, 0.4, 0.1])), rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))


def test_rewards_of_half_precision_are_added_in_single():
    @dataclasses.dataclass(frozen=True)
    class Halves(Falling):
        max_horizon = 600

        def step(self, key, height, action, task):
            _, timestep = super().step(key, jnp.float32(1.0), action, task)
            one = jnp.bfloat16(1.0)
            return height, dataclasses.replace(timestep, reward=one, truncated=jnp.array(False))

    env = Halves()
    problem = mj.policy_gradient(env, mj.networks.mlp_policy(env.action_space, (4,)), episodes=2)
    task = env.sample_task(jax.random.key(0))
    batch = jax.jit(problem.collect)(problem.init(jax.random.key(1)), task, jax.random.key(2))
    assert batch.reward.dtype == jnp.float32
    assert problem.score(batch) == 600


def test_a_state_may_begin_as_a_number_of_python():
    @dataclasses.dataclass(frozen=True)
    class Counting(Falling):
        def reset(self, key, task):
            return 0, super().reset(key, task)[1]

        def step(self, key, count, action, task):
            _, timestep = super().step(key, jnp.float32(1.0), action, task)
            return count + 1.0, timestep

    with jax.numpy_dtype_promotion("standard"):
        assert np.isfinite(learn(Counting())[1]["score_after"])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("reward", r"env.step: reward: expected shape \(\), float, got shape \(1,\), float32"),
        ("terminated", r"env.step: terminated: expected .* bool, got shape \(\), float32"),
        ("observation", r"env.step: observation: expected shape \(2,\), .* got shape \(1,\)"),
        ("pytree", "env.step: observation: expected an array, got dict"),
        ("state", r"env.step: state: expected shape \(\), float32 as from env.reset, .* bfloat16"),
        ("tuple", r"env.step: expected \(state, timestep\), got a tuple of 5"),
    ],
)
def test_an_environment_that_breaks_the_protocol_is_told_where(mistake, message):
    with pytest.raises(ValueError, match=message):
        learn(Falling(mistake))


@dataclasses.dataclass(frozen=True)
class Pictures(Falling):
    observation_space = MappingProxyType({"height": Box(-1.0, 1.0, (1,))})


@dataclasses.dataclass(frozen=True)
class Image(Falling):
    """What it sees is an image."""

    observation_space = Box(-np.inf, np.inf, (2, 3, 4), np.dtype(np.float32))

    def reset(self, key, task):
        return self._pictured(*super().reset(key, task))

    def step(self, key, height, action, task):
        return self._pictured(*super().step(key, height, action, task))

    def _pictured(self, height, timestep):
        image = jnp.broadcast_to(timestep.observation[:, None, None], (2, 3, 4))
        return height, dataclasses.replace(timestep, observation=image)


@dataclasses.dataclass(frozen=True)
class Numbers(Falling):
    observation_space = Discrete(3)


@dataclasses.dataclass(frozen=True)
class Switch(Falling):
    action_space = Box(-1.0, 1.0, ())


class Nothing:
    action_space = Discrete(3)


@pytest.mark.parametrize(
    ("env", "kind", "message"),
    [
        (Falling, ValueError, "env: expected an environment, got the class Falling"),
        (
            Nothing(),
            ValueError,
            "got Nothing without sample_task, reset, step, observation_space, ",
        ),
        (
            Pictures(),
            ValueError,
            "observation space: expected a Box, of one array, got mappingproxy",
        ),
        (Numbers(), ValueError, "observation space: expected a Box, of one array, got Discrete"),
        (Switch(), TypeError, "action space: expected Discrete or a Box of one axis, got Box"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_environment_of_ours_is_told_apart(env, kind, message):
    policy = mj.networks.mlp_policy(Discrete(3), (4,))
    for problem in (mj.policy_gradient, mj.q_learning):
        with pytest.raises(kind, match=re.escape(message)):
            problem(env, policy, episodes=2)
    for policy in (mj.networks.mlp_policy, mj.recurrent.gru_policy):
        with pytest.raises(TypeError, match="action space: expected Discrete or a Box of one axis"):
            policy(Switch().action_space)


def test_a_network_that_does_not_take_the_observations_is_told_which():
    class Bare(nn.Module):
        @nn.compact
        def __call__(self, observation):
            return nn.Dense(3)(observation)

    class Pixels(nn.Module):
        @nn.compact
        def __call__(self, observation, carry=()):
            features = nn.Conv(3, (3, 3))(observation)
            return features.reshape(*features.shape[:-3], -1), jnp.zeros(()), carry

    class Silent(nn.Module):
        @nn.compact
        def __call__(self, observation, carry=()):
            raise ValueError

    message = r"network: init\(key, observation, carry\) of an observation of shape \(2,\), float32"
    for network in (Bare(), Pixels(), Silent()):
        for problem in (mj.policy_gradient, mj.q_learning):
            with pytest.raises(ValueError, match=message):
                problem(Falling(), network, episodes=2).init(jax.random.key(0))


@pytest.mark.parametrize(
    ("env", "network"),
    [
        (GRID, mj.networks.CategoricalPolicy(9, (4,))),
        (GRID, mj.networks.CategoricalPolicy(2, (4,))),
        (envs.make("point", horizon=3), mj.networks.GaussianPolicy(1, (4,))),
        (Image(), None),
    ],
)
def test_a_network_that_does_not_fit_the_actions_is_refused(env, network):
    with pytest.raises(ValueError, match="network: expected outputs of shape"):
        learn(env, network)


def test_a_space_may_have_a_bound_for_each_element(monkeypatch):
    zeros, ones = np.zeros(2, np.uint8), np.ones(2, np.uint8)
    space = SimpleNamespace(shape=(2,), dtype=np.dtype(np.uint8), low=zeros, high=ones)
    monkeypatch.setattr(Falling, "observation_space", space)
    policy = mj.networks.mlp_policy(Falling.action_space, (4,))
    problem = mj.policy_gradient(Falling(), policy, episodes=2)
    assert jax.eval_shape(problem.init, jax.random.key(0))


def test_an_observation_that_is_a_number_is_taken_where_it_is_said_to_be(monkeypatch):
    monkeypatch.setattr(Falling, "observation_space", envs.Box(-1, 1, ()))
    for axes in (1, 0):
        policy = mj.networks.mlp_policy(Falling.action_space, (4,), observation_axes=axes)
        problem = mj.policy_gradient(Falling(), policy, episodes=2)
        if axes:
            with pytest.raises(
                ValueError, match=r"shape \(\), float32 failed: .*`observation_axes`"
            ):
                problem.init(jax.random.key(0))
        else:
            kernel = problem.init(jax.random.key(0))["params"]["MLP_0"]["Dense_0"]["kernel"]
            assert kernel.shape == (1, 4)


def test_observations_of_several_axes_are_flattened_where_they_are_said_to_be():
    policy = mj.networks.mlp_policy(Image.action_space, (4,), observation_axes=3)
    state, metrics = learn(Image(), policy)
    kernel = state.params["params"]["MLP_0"]["Dense_0"]["kernel"]
    assert kernel.shape == (2 * 3 * 4, 4)
    assert np.isfinite(metrics["outer_loss"])


def test_a_memory_has_to_say_what_it_begins_with():
    class Counting:
        init = staticmethod(lambda key, *inputs: {"bias": jnp.zeros(5)})

        @staticmethod
        def apply(params, observation, carry=()):
            logits = jnp.broadcast_to(params["bias"], (*observation.shape[:-1], 5))
            return logits, jnp.zeros(logits.shape[:-1]), jnp.zeros(())

    with pytest.raises(ValueError, match="network: expected `initial_carry` of one with a memory"):
        learn(GRID, Counting())


@pytest.mark.parametrize("several", [False, True])
def test_a_network_returns_outputs_a_value_and_a_memory(several):
    class Short(nn.Module):
        @nn.compact
        def __call__(self, observation, carry):
            outputs = nn.Dense(GRID.action_space.n)(observation.astype(jnp.float32))
            return (outputs, carry) if several else outputs

    got = "2 values" if several else "an array of shape (16, 5)"
    message = f"network: expected to return (outputs, value, carry), got {got}"
    with pytest.raises(ValueError, match=re.escape(message)):
        learn(GRID, Short())
