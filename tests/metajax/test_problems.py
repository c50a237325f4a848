import dataclasses

import chex
import flax.nnx as nnx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import envs
import metajax as mj
from metajax.networks import MLP


def collected(problem, params):
    """A batch of a task."""
    task = problem.sample_task(jax.random.key(1))
    return jax.jit(problem.collect)(params, task, jax.random.key(2))


def test_sine_tasks_are_those_of_the_paper():
    keys = jax.random.split(jax.random.key(0), 2000)
    tasks = jax.vmap(mj.sinusoid.sample_task)(keys)
    for values, low, high in ((tasks.amplitude, 0.1, 5.0), (tasks.phase, 0.0, np.pi)):
        assert low <= float(values.min()) <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= float(values.max()) <= high
    inputs = mj.sinusoid.sample_inputs(jax.random.key(1), 2000)
    assert -5.0 <= float(inputs.min()) < -4.9
    assert 4.9 < float(inputs.max()) <= 5.0
    one = jax.tree.map(lambda leaf: leaf[0], tasks)
    np.testing.assert_allclose(
        mj.sinusoid.targets(one, inputs), one.amplitude * np.sin(inputs - one.phase), rtol=1e-5
    )


def test_evaluation_on_a_grid_judges_by_the_whole_range():
    problem = mj.regression(MLP((4, 1)), shots=3, query=5, grid=True)
    params = problem.init(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    batch = problem.query(params, task, jax.random.key(2))
    np.testing.assert_allclose(batch.inputs[:, 0], [-5.0, -2.5, 0.0, 2.5, 5.0])
    np.testing.assert_allclose(problem.score(batch), -problem.outer_loss(params, batch)[0])


def test_score_is_the_mean_return_of_the_episodes():
    problem = problems.gridworld()
    params = problem.init(jax.random.key(0))
    batch = collected(problem, params)
    np.testing.assert_allclose(problem.score(batch), batch.reward.sum(0).mean(), rtol=1e-6)
    assert int(problem.samples(batch)) == 4 * 6
    assert batch.observation.dtype == jnp.uint8  # kept small until it meets the network


@pytest.mark.smoke
def test_a_baseline_and_a_surrogate_may_be_functions():
    env = envs.make("point", horizon=3)
    network = mj.networks.mlp_policy(env.action_space, (4,))
    named, given = (
        mj.policy_gradient(env, network, episodes=3, baseline=baseline, surrogate=surrogate)
        for baseline, surrogate in (
            ("mean", "log_prob"),
            (mj.baselines.mean_return, lambda *args: mj.estimators.log_prob_surrogate(*args)),
        )
    )
    params = named.init(jax.random.key(0))
    task = env.sample_task(jax.random.key(1))
    batches = [jax.jit(p.collect)(params, task, jax.random.key(2)) for p in (named, given)]
    np.testing.assert_array_equal(batches[0].advantage, batches[1].advantage)
    losses = [
        jax.jit(p.inner_loss)(params, b)[0] for p, b in zip((named, given), batches, strict=True)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("surrogate", ["lvc", "log_prob", "loaded_dice"])
def test_gradient_of_a_surrogate_is_the_policy_gradient(surrogate):
    problem = problems.point(surrogate)._replace()
    env = envs.make("point")
    network = mj.networks.mlp_policy(env.action_space, (8,), initial_std=0.3)
    params = problem.init(jax.random.key(0))
    batch = collected(problem, params)

    def by_hand(params):
        """Σ A_t ∇ log π of independent normals over both action dimensions, and the entropy."""
        (mean, log_std), _, _ = network.apply(params, batch.observation, ())
        log_prob = jax.scipy.stats.norm.logpdf(batch.action, mean, jnp.exp(log_std)).sum(-1)
        entropy = (log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e)).sum(-1)
        value = log_prob * batch.advantage + 0.01 * entropy
        return -jnp.sum(value * batch.mask) / jnp.sum(batch.mask)

    actual = jax.jit(jax.grad(lambda p: problem.inner_loss(p, batch)[0]))(params)
    expected = jax.jit(jax.grad(by_hand))(params)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_unit_of_the_action_is_an_environment_with_larger_actions():
    """Its log-probabilities differ by a constant, so gradients, and inner steps, are the same."""
    observation = jax.random.normal(jax.random.key(0), (5, 2))
    action = jax.random.normal(jax.random.key(1), (5, 2))
    plain, scaled = (mj.networks.GaussianPolicy(2, (4,), action_scale=s) for s in (1.0, 0.1))
    params = plain.init(jax.random.key(2), observation[0])
    density = mj.distributions.diagonal_gaussian.log_prob

    def value(params, policy, action):
        return jnp.sum(density(policy.apply(params, observation)[0], action))

    both = jax.jit(jax.value_and_grad(value), static_argnums=1)
    one, of_one = both(params, plain, action)
    other, of_other = both(params, scaled, 0.1 * action)
    np.testing.assert_allclose(other, one - 10 * np.log(0.1), rtol=1e-5)
    for a, b in zip(jax.tree.leaves(of_one), jax.tree.leaves(of_other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_masked_steps_weigh_nothing_in_a_loss():
    problem = problems.point()
    params = problem.init(jax.random.key(0))
    batch = collected(problem, params)
    short = dataclasses.replace(batch, mask=batch.mask.at[3:].set(0.0))
    scrambled = dataclasses.replace(
        short,
        action=short.action.at[3:].set(9.0),
        observation=short.observation.at[3:].set(-9.0),
        advantage=short.advantage.at[3:].set(9.0),
    )
    loss = jax.jit(jax.value_and_grad(lambda p, b: problem.inner_loss(p, b)[0]))
    for a, b in zip(
        jax.tree.leaves(loss(params, short)), jax.tree.leaves(loss(params, scrambled)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.smoke
def test_a_policy_learns_over_a_fixed_set_of_tasks():
    env = envs.make("gridworld", horizon=6)
    tasks = envs.TaskSet.make(env, jax.random.key(0), 100)
    train, test = tasks.split(0.6)
    network = mj.networks.mlp_policy(env.action_space, (4,))
    problem = mj.policy_gradient(env, network, episodes=2, sample_task=train.sample)
    drawn = jax.vmap(problem.sample_task)(jax.random.split(jax.random.key(1), 300))
    goals = {tuple(goal) for goal in drawn.goal.tolist()}
    assert goals == {tuple(goal) for goal in train.tasks.goal.tolist()}
    assert not goals & {tuple(goal) for goal in test.tasks.goal.tolist()}
    learner = mj.maml(problem, mj.sgd(1.0), optax.adam(1e-3), 2)
    state = jax.eval_shape(learner.init, jax.random.key(2))
    chex.assert_trees_all_equal_shapes(jax.eval_shape(learner.update, state)[0], state)


def test_a_policy_plays_a_trial_as_any_environment():
    trial = envs.Trial(envs.make("gridworld", horizon=3), episodes=2)
    network = mj.networks.mlp_policy(trial.action_space, (4,))
    problem = mj.policy_gradient(trial, network, episodes=2)
    params = problem.init(jax.random.key(0))
    batch = collected(problem, params)
    ended = batch.observation[..., -1]
    np.testing.assert_array_equal(ended, np.eye(6)[3][:, None].repeat(2, axis=1))
    assert batch.mask.all()


class PlainPolicy:
    """Any init/apply pair will do: here, a table of logits."""

    def init(self, key, observation, carry):
        return {"logits": 0.01 * jax.random.normal(key, (observation.shape[0], 5))}

    def apply(self, params, observation, carry):
        return observation.astype(jnp.float32) @ params["logits"], jnp.float32(0.0), carry


class NnxPolicy:
    """A Flax NNX module as an init/apply pair, by split and merge."""

    class Module(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.layer = nnx.Linear(25, 5, rngs=rngs)

        def __call__(self, observation):
            return self.layer(observation)

    def __init__(self):
        self.graph, _ = nnx.split(self.Module(nnx.Rngs(0)))

    def init(self, key, observation, carry):
        return nnx.split(self.Module(nnx.Rngs(key)))[1]

    def apply(self, params, observation, carry):
        module = nnx.merge(self.graph, params)
        return module(observation.astype(jnp.float32)), jnp.float32(0.0), carry


@pytest.mark.parametrize("network", [PlainPolicy(), NnxPolicy()], ids=["table", "nnx"])
def test_any_init_apply_pair_is_a_policy(network):
    problem = mj.policy_gradient(envs.make("gridworld", horizon=6), network, episodes=4)
    learner = mj.maml(problem, mj.sgd(1.0), optax.adam(1e-3), 2)
    state = learner.init(jax.random.key(0))
    after, metrics = jax.jit(learner.update)(state)
    assert np.isfinite(metrics["outer_loss"])
    assert float(optax.tree.norm(optax.tree.sub(after.params, state.params))) > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(episodes=0), "episodes: expected at least 1, got 0"),
        (dict(horizon=0), "horizon: expected at least 1, got 0"),
        (dict(discount=1.1), "discount: expected 0 to 1, got 1.1"),
        (dict(gae_lambda=-0.1), "gae_lambda: expected 0 to 1, got -0.1"),
        (dict(baseline="value"), "baseline: expected one of linear, .*, critic, got 'value'"),
        (dict(dice_lambda=2.0), "dice_lambda: expected 0 to 1, got 2.0"),
        (dict(surrogate="ppo"), "surrogate: expected one of lvc, .*, dice, got 'ppo'"),
    ],
)
def test_policy_gradient_refuses_what_is_out_of_range(fields, message):
    env = envs.make("gridworld")
    network = mj.networks.mlp_policy(env.action_space)
    with pytest.raises(ValueError, match=message):
        mj.policy_gradient(env, network, **{"episodes": 4, **fields})


@pytest.mark.parametrize("fields", [dict(shots=0), dict(query=0)])
def test_regression_refuses_empty_sets(fields):
    with pytest.raises(ValueError, match="expected at least 1, got 0"):
        mj.regression(MLP((4, 1)), **fields)


def test_dice_lambda_reaches_the_surrogate():
    env = envs.make("point", horizon=4)
    network = mj.networks.mlp_policy(env.action_space, ())
    of = lambda **options: mj.policy_gradient(env, network, episodes=2, **options)  # noqa: E731
    lvc = of(surrogate="lvc")
    params = lvc.init(jax.random.key(0))
    batch = jax.jit(lvc.collect)(params, env.sample_task(jax.random.key(1)), jax.random.key(2))
    flat, restore = jax.flatten_util.ravel_pytree(params)
    tangent = jax.random.normal(jax.random.key(3), flat.shape)

    def product(problem):
        slope = jax.grad(lambda flat: problem.inner_loss(restore(flat), batch)[0])
        return jax.jit(lambda flat: jax.jvp(slope, (flat,), (tangent,))[1])(flat)

    none, half, one = (product(of(surrogate="loaded_dice", dice_lambda=x)) for x in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(none, product(lvc), rtol=1e-4, atol=1e-5)
    assert min(np.abs(half - none).max(), np.abs(half - one).max()) > 1e-3


def test_dice_takes_rewards_discounted_from_the_start():
    env = envs.make("gridworld", horizon=5)
    network = mj.networks.mlp_policy(env.action_space, (4,))
    problem = mj.policy_gradient(env, network, episodes=3, surrogate="dice", discount=0.5)
    params = problem.init(jax.random.key(0))
    batch = jax.jit(problem.collect)(params, env.sample_task(jax.random.key(1)), jax.random.key(2))
    np.testing.assert_allclose(
        batch.advantage, 0.5 ** np.arange(5)[:, None] * batch.reward, rtol=1e-6
    )
