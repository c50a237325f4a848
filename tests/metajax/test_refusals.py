"""What a caller of the Python interface is told: one line that names the argument."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import envs
import metajax as mj
from metajax.checks import require_integer, require_number

OUTER = optax.adam(1e-3)
REGRESSION = mj.regression(mj.networks.MLP((4, 1)), shots=3)
GRID = envs.make("gridworld", size=4, horizon=3)


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
        (
            lambda: mj.maml(REGRESSION, mj.Inner(0.1, steps=1), OUTER, 2),
            "inner: expected an optimiser of optax, got 0.1",
        ),
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
        (
            lambda: mj.maml(REGRESSION, mj.sgd(0.1), OUTER, 2, first_order=0.5),
            "first_order: expected a bool or a function, got 0.5",
        ),
        (
            lambda: mj.reptile(REGRESSION, mj.sgd(0.1).among(lambda p: "Dense_1" in p), OUTER, 2),
            "fast parameters: Reptile moves no others, expected all, not params/Dense_0/bias",
        ),
        (
            lambda: mj.reptile(
                *mj.meta_learned(REGRESSION, mj.sgd(0.1), "learning_rate"), OUTER, 2
            ),
            "fast parameters: Reptile moves no others, expected all, not hyper/learning_rate",
        ),
        (
            lambda: mj.meta_learned(REGRESSION, mj.sgd(0.1), "learning_rate", speed=0.0),
            "speed: expected above 0, got 0.0",
        ),
        (lambda: mj.networks.Conditioned(None, 2.5), "context: expected an integer, got 2.5"),
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


def test_fast_parameters_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="fast parameters: expected some of theta, got none"):
        mj.anil(problems.quadratic(), mj.sgd(0.1), optax.sgd(0.1), 4, head=lambda path: False)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (mj.cavia, r"`networks.Conditioned\(network, size\)`, got .* without a context: theta"),
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
    with pytest.raises(ValueError, match="context: expected at least 1, got 0"):
        mj.networks.Conditioned(mj.networks.MLP((4, 1)), 0)


def test_parameters_are_told_from_the_state_that_has_them():
    learner = mj.maml(REGRESSION, mj.sgd(0.1), OUTER, 2)
    state = learner.init(jax.random.key(0))
    task = REGRESSION.sample_task(jax.random.key(1))
    with pytest.raises(ValueError, match=r"params: .* got a MetaState"):
        learner.adapt(state, task, jax.random.key(2))
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
    with pytest.raises(ValueError, match=r"learner: expected a MetaLearner, .* got Problem"):
        mj.evaluate(REGRESSION, state.params, REGRESSION, tasks=2)
    with pytest.raises(ValueError, match=r"learner: expected a MetaLearner, .* got Problem"):
        mj.train(REGRESSION, updates=1)
    with pytest.raises(ValueError, match=r"state: expected a MetaState, .* got dict"):
        learner.update(state.params)


def test_parameters_of_another_learner_are_told_where_they_differ():
    learner = mj.maml(REGRESSION, mj.sgd(0.1), OUTER, 2)
    seeds = jax.vmap(REGRESSION.init)(jax.random.split(jax.random.key(0), 3))
    bias = r"params/MLP_0/Dense_0/bias|params/Dense_0/bias"
    with pytest.raises(ValueError, match=rf"params: expected \(4,\) for ({bias}), got \(3, 4\)"):
        mj.evaluate(learner, seeds, REGRESSION, tasks=2)
    with pytest.raises(ValueError, match=rf"params: expected \(4,\) for ({bias}), got none"):
        mj.evaluate(learner, {}, REGRESSION, tasks=2)


@pytest.mark.parametrize("name", ["inner_loss", "outer_loss"])
@pytest.mark.parametrize("algorithm", [mj.maml, mj.reptile, mj.imaml])
def test_a_loss_without_aux_is_named(algorithm, name):
    whole = problems.quadratic()
    problem = whole._replace(**{name: lambda *given: whole.inner_loss(*given)[0]})
    learner = algorithm(problem, mj.sgd(0.1), OUTER, 2)
    message = rf"{name}: expected to return \(loss, aux\), got an array of shape \(\)"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(learner.update, jax.eval_shape(learner.init, jax.random.key(0)))


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


@pytest.mark.parametrize("key", [jax.random.PRNGKey(0), jax.random.split(jax.random.key(0)), 0])
def test_what_is_no_typed_key_is_refused(key):
    learner = mj.maml(REGRESSION, mj.sgd(0.1), OUTER, 2)
    with pytest.raises(ValueError, match=r"key: expected one typed key, as `jax\.random\.key"):
        learner.init(key)
    with pytest.raises(ValueError, match="key: expected one typed key"):
        learner.adapt(None, None, key)


@pytest.mark.parametrize(
    ("aux", "message"),
    [
        (None, "expected a dict, got NoneType"),
        ({"score_after": jnp.float32(0)}, "'score_after' is a metric of every learner's"),
        ({"mine": jnp.zeros(3)}, "'mine': expected a scalar, got .3,."),
    ],
)
def test_what_an_outer_loss_reports_is_a_dict_of_scalars_of_its_own(aux, message):
    problem = problems.quadratic()
    problem = problem._replace(outer_loss=lambda *given: (problem.inner_loss(*given)[0], aux))
    learner = mj.maml(problem, mj.sgd(0.1), OUTER, 2)
    with pytest.raises(ValueError, match=f"outer_loss: aux: {message}"):
        jax.eval_shape(learner.update, jax.eval_shape(learner.init, jax.random.key(0)))


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, inputs, carry=()):
        hidden = nn.BatchNorm(use_running_average=True)(inputs.astype(jnp.float32))
        return nn.Dense(4)(hidden), jnp.zeros(()), carry


@pytest.mark.parametrize(
    "problem",
    [
        mj.regression(Normalised(), shots=3),
        mj.policy_gradient(GRID, Normalised(), episodes=2, baseline="none"),
    ],
    ids=["regression", "policy_gradient"],
)
def test_running_statistics_are_no_parameters(problem):
    with pytest.raises(ValueError, match="network: expected parameters alone, got batch_stats too"):
        jax.eval_shape(problem.init, jax.random.key(0))
