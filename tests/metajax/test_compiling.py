"""How programs are compiled."""

import chex
import jax
import jax.numpy as jnp
import optax
import problems
import pytest

import envs
import metajax as mj
from metajax.compiling import standalone


def test_options_are_the_callers_own(monkeypatch):
    monkeypatch.setattr(jax.config, "read", lambda name: False)
    options = mj.compiler_options()
    assert options
    options.clear()
    assert mj.compiler_options()


def test_a_cpu_takes_the_options_and_other_settings_come_first(monkeypatch):
    settings = {"jax_disable_most_optimizations": False}
    monkeypatch.setattr(jax.config, "read", settings.__getitem__)
    options = mj.compiler_options()
    program = jax.jit(lambda x: jnp.tanh(x @ x), compiler_options=options)
    assert options
    assert program(jnp.zeros((3, 3))).shape == (3, 3)
    settings["jax_disable_most_optimizations"] = True
    assert mj.compiler_options() is None
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    settings["jax_disable_most_optimizations"] = False
    assert mj.compiler_options() is None


def test_a_function_is_one_program_by_itself_and_plain_within_another():
    traced = []

    def square(x, *, times=1):
        traced.append(x)
        return jnp.sin(x) * times

    function, one = standalone(square), jnp.float32(1.0)
    assert function.__name__ == "square"
    for _ in range(2):
        assert function(one, times=2.0) == pytest.approx(2 * jnp.sin(1.0))
    assert len(traced) == 1
    # Each trace is a new one, with no program within it; so where what it takes is no part of it.
    for within in (lambda x: function(x), lambda x: function(one) + x):
        jaxpr = jax.make_jaxpr(within)(one)
        assert {equation.primitive.name for equation in jaxpr.eqns} <= {"sin", "mul", "add"}
    assert len(traced) == 3
    assert jax.grad(function)(one) == pytest.approx(jnp.cos(1.0))


class Counting:
    """A network that counts how often its code runs."""

    def __init__(self, network):
        self.network, self.runs = network, 0

    def init(self, key, *inputs):
        self.runs += 1
        return self.network.init(key, *inputs)

    def apply(self, params, *inputs):
        self.runs += 1
        return self.network.apply(params, *inputs)


GRIDWORLD = envs.make("gridworld", horizon=4)
POLICY = mj.networks.mlp_policy(GRIDWORLD.action_space, (4,))


@pytest.mark.parametrize(
    ("make", "network"),
    [
        (lambda network: mj.policy_gradient(GRIDWORLD, network, episodes=2), POLICY),
        (
            lambda network: mj.q_learning(GRIDWORLD, network, episodes=2, judging_epsilon=0.5),
            POLICY,
        ),
        (mj.regression, mj.networks.MLP((4, 1))),
    ],
)
def test_a_problems_code_runs_once_where_its_functions_are_called_by_themselves(make, network):
    network = Counting(network)
    problem, key = make(network), jax.random.key(0)
    task, params = problem.sample_task(key), problem.init(key)
    calls = [(problem.init, key), (problem.collect, params, task, key)]
    calls += [(problem.query, params, task, key)] if problem.query else []
    for function, *args in calls:
        first, runs = function(*args), network.runs
        chex.assert_trees_all_equal(function(*args), first)
        assert network.runs == runs > 0


def test_a_learner_that_is_called_by_itself_does_what_it_does_in_a_program():
    problem = problems.quadratic()
    learner = mj.maml(problem, mj.sgd(0.1), optax.sgd(0.1), tasks=2)
    key = jax.random.key(0)
    state = learner.init(key)
    chex.assert_trees_all_equal(state.params, jax.jit(learner.init)(key).params)
    (found, metrics), (expected, others) = learner.update(state), jax.jit(learner.update)(state)
    chex.assert_trees_all_close((found.params, metrics), (expected.params, others))
    task = problem.sample_task(key)
    found = learner.adapt(state.params, task, key)
    chex.assert_trees_all_close(found, jax.jit(learner.adapt)(state.params, task, key))
