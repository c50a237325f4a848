"""What a caller of the Python interface is told: one line that names the argument."""

import dataclasses
import re
from functools import partial
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import envs
import metajax as mj
from envs.core import Box, Discrete, TimeStep
from metajax.checks import require_integer, require_number

OUTER = optax.adam(1e-3)
REGRESSION = mj.regression(mj.networks.MLP((4, 1)), shots=3)
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


@pytest.mark.parametrize("baseline", ["linear", "mean", "none"])
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


def test_targets_of_another_shape_than_the_outputs_are_refused():
    def of_one_axis(task, inputs):
        return mj.sinusoid.targets(task, inputs)[:, 0]

    tasks = mj.sinusoid._replace(targets=of_one_axis)
    learner = mj.maml(mj.regression(mj.networks.MLP((4, 1)), tasks, shots=3), mj.sgd(0.1), OUTER, 2)
    with pytest.raises(ValueError, match=r"targets of the network's shape \(3, 1\), got \(3,\)"):
        jax.eval_shape(learner.update, jax.eval_shape(learner.init, jax.random.key(0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mj.maml(REGRESSION, optax.sgd(0.1), OUTER, 2), "inner: expected an Inner"),
        (lambda: mj.promp(REGRESSION, optax.sgd(0.1), OUTER, 2), "inner: expected an Inner"),
        (lambda: mj.maml(GRID, mj.sgd(0.1), OUTER, 2), "problem: expected a Problem, .* Gridworld"),
        (lambda: mj.meta_learned(GRID, mj.sgd(0.1), ()), "problem: expected a Problem"),
        (
            lambda: mj.anil(REGRESSION, mj.sgd(0.1), OUTER, 2, head="Dense_1"),
            "fast parameters: expected a function, got 'Dense_1'",
        ),
        (lambda: mj.maml(REGRESSION, mj.sgd(0.1), OUTER, 2.0), "tasks: expected an integer"),
        (lambda: mj.maml(REGRESSION, mj.sgd(0.1, 1.5), OUTER, 2), "inner steps: expected an int"),
        (
            lambda: mj.maml(REGRESSION, mj.sgd(0.1), OUTER, 2, step_weights=[np.nan]),
            "step weights: expected 1 of at least 0",
        ),
        (lambda: mj.sgd(np.nan), "inner learning rate: expected above 0, got nan"),
        (lambda: mj.sgd([0.1, -1.0]), "inner learning rate: expected above 0, got -1.0"),
        (lambda: mj.sgd([]), "inner learning rate: expected at least one"),
        (lambda: mj.policy_gradient(GRID, None, episodes=True), "episodes: expected an integer"),
        (lambda: mj.policy_gradient(GRID, None, episodes=2, entropy=np.nan), "entropy: expected a"),
        (
            lambda: mj.policy_gradient(GRID, mj.networks.MLP, episodes=2),
            "network: expected an object with `init` and `apply`, .* got the class MLP",
        ),
        (lambda: mj.regression(np.tanh), "network: expected an object .* got ufunc"),
        (lambda: mj.q_learning(GRID, None, episodes=2), "network: expected an object .* NoneType"),
        (lambda: mj.networks.mlp_policy(GRID.action_space, (0,)), "hidden: expected at least 1"),
        (
            lambda: mj.networks.mlp_policy(GRID.action_space, activation="tanh"),
            "activation: expected a function",
        ),
        (
            lambda: mj.networks.mlp_policy(GRID.action_space, kernel_init="glorot"),
            "kernel_init: expected an initialiser",
        ),
    ],
)
def test_an_argument_that_cannot_be_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 0.0, 0.0), (1.0, -1.0, 1.0)])
def test_weights_that_fit_no_inner_steps_are_refused(weights):
    with pytest.raises(ValueError, match="step weights: expected 3 of at least 0"):
        mj.maml(problems.quadratic(), mj.sgd(0.2, 3), optax.sgd(1.0), 4, step_weights=weights)


def test_reptile_without_an_inner_step_is_refused():
    with pytest.raises(ValueError, match="inner steps: expected at least 1, got 0"):
        mj.reptile(problems.quadratic(), mj.sgd(0.1, steps=0), optax.sgd(0.1), 4)


def test_negative_inner_steps_are_refused():
    with pytest.raises(ValueError, match="inner steps: expected at least 0, got -1"):
        mj.maml(problems.quadratic(), mj.sgd(0.1, steps=-1), optax.sgd(0.1), 4)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (lambda *given: mj.anil(*given, head=lambda path: False), "some of theta, got none"),
        (mj.cavia, "some of theta, got none"),
    ],
)
def test_fast_parameters_that_do_not_exist_are_refused(learner, message):
    with pytest.raises(ValueError, match=f"fast parameters: expected {message}"):
        learner(problems.quadratic(), mj.sgd(0.1), optax.sgd(0.1), 4)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (partial(mj.imaml, strength=0.0), "proximal strength: expected above 0, got 0.0"),
        (partial(mj.imaml, damping=-1.0), "damping: expected at least 0, got -1.0"),
        (partial(mj.imaml, solver_steps=0), "solver steps: expected at least 1, got 0"),
        (mj.emaml, "E-MAML needs one that samples"),
        (
            partial(mj.reptile, serial=True, mapping=mj.Mapping(mj.task_mesh(2))),
            "serial: expected one device, got 2",
        ),
    ],
)
def test_what_an_algorithm_cannot_do_is_refused(learner, message):
    with pytest.raises(ValueError, match=message):
        learner(problems.quadratic(), mj.sgd(0.1), optax.sgd(0.1), 4)


def test_rates_for_no_step_are_refused():
    with pytest.raises(ValueError, match="rates per step need at least 1, got 0"):
        mj.meta_sgd(problems.quadratic(), mj.sgd(0.1, 0), optax.sgd(0.1), 4, per_step=True)


def test_context_without_a_size_is_refused():
    with pytest.raises(ValueError, match="context: expected a size of at least 1, got 0"):
        mj.networks.Conditioned(mj.networks.MLP((4, 1)), 0)


def test_parameters_are_told_from_the_state_that_has_them():
    learner = mj.maml(REGRESSION, mj.sgd(0.1), OUTER, 2)
    state = learner.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"params: .* got a MetaState"):
        mj.evaluate(learner, state, REGRESSION, tasks=2)
    with pytest.raises(ValueError, match=r"oracle: expected one number for a task, got \(1,\)"):
        mj.evaluate(
            learner, state.params, REGRESSION, tasks=2, oracle=lambda task: task.phase[None]
        )
    with pytest.raises(ValueError, match=r"oracle: expected a function of a task, got 1.0"):
        mj.evaluate(learner, state.params, REGRESSION, tasks=2, oracle=1.0)
    with pytest.raises(ValueError, match="problem: expected a Problem"):
        mj.evaluate(learner, REGRESSION, state.params, tasks=2)


def test_rates_may_be_numbers_of_any_library_schedules_or_traced():
    def after(rate):
        learner = mj.maml(problems.quadratic(), mj.sgd(rate), optax.sgd(0.0), 2)
        return learner.update(learner.init(jax.random.key(0)))[1]["score_after"]

    expected = jax.jit(lambda: after(0.1))()
    numbers = (np.float32(0.1), [0.1], jnp.array([0.1, 0.2]))
    for rate in (*numbers, optax.constant_schedule(0.1)):
        np.testing.assert_allclose(jax.jit(lambda: after(rate))(), expected, rtol=1e-6)  # noqa: B023
    swept = jax.jit(jax.vmap(after))(jnp.array([0.1, 0.3]))
    np.testing.assert_allclose(swept[0], expected, rtol=1e-5)
    assert swept[1] != swept[0]
    several = jax.jit(after)(jnp.array([0.1, 0.3]))  # one a step, not one a coordinate
    np.testing.assert_allclose(several, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="inner learning rate: expected above 0"):
        jax.jit(after)(jnp.ones((2, 2)))


@pytest.mark.parametrize("value", [0, -1, 1.0, np.float32(1), "1", True, None])
def test_what_is_no_integer_in_range_is_refused(value):
    with pytest.raises(ValueError, match="count: expected"):
        require_integer("count", value, 1)


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -0.1, 1.0, "0.5", True, None, [0.5], [[1], [1, 2]], 10**400]
)
def test_what_is_no_number_in_range_is_refused(value):
    with pytest.raises(ValueError, match="share: expected at least 0 and below 1, got"):
        require_number("share", value, 0, 1, below=True)


def test_numbers_in_range_are_taken():
    for value in (1, np.int64(7), jnp.int32(3)):
        require_integer("count", value, 1, 7)
    for value in (0, 0.5, np.float32(0.5), jnp.float32(0.5)):
        require_number("share", value, 0, 1, below=True)
