"""RL²: its objective is PPO's over all trials, in any layout, and it learns to explore."""

import dataclasses

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import envs
import metajax as mj
from metajax import experiments, presets
from metajax import trials as trials_of

TASKS = 8
MAZE = envs.make("maze", size=5, horizon=10, far_exit=False)
OPTIONS = dict(epochs=2, minibatches=2)


def trials(env=None, episodes=2, trials=2, **options):
    """A small problem; mazes, whose episodes end early, by default."""
    env = env or MAZE
    trial = envs.Trial(env, episodes)
    network = mj.recurrent.gru_policy(trial.action_space, 8)
    options = {"entropy": 0.01, "gae_lambda": 0.9} | options
    return mj.policy_gradient(trial, network, episodes=trials, baseline="critic", **options)


def updated(problem, outer=None, **options):
    learner = mj.rl2(problem, outer or optax.adam(1e-2), TASKS, **(OPTIONS | options))
    state = jax.jit(learner.init)(jax.random.key(0))
    return jax.jit(learner.update)(state)


@pytest.fixture(scope="module")
def plain():
    return updated(trials())


def columns(problem, params, key):
    """The trials of all tasks, as `rl2` draws them, side by side."""

    def play(key):
        key_task, key_play = jax.random.split(key)
        return problem.collect(params, problem.sample_task(key_task), key_play)

    keys = jax.random.split(jax.random.fold_in(key, 0), TASKS)
    batches = jax.jit(jax.vmap(play))(keys)  # (N, T, B, ...)
    return jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:]), batches
    )


def test_an_update_is_a_step_on_ppos_objective():
    """Written out: the clipped surrogate, squared errors of returns and the entropy."""
    problem = trials()
    learner = mj.rl2(problem, optax.sgd(1.0), TASKS, epochs=1, minibatches=1)
    state = jax.jit(learner.init)(jax.random.key(0))
    after, metrics = jax.jit(learner.update)(state)
    batch = columns(problem, state.params, state.key)
    assert 0 < jnp.sum(batch.mask) < batch.mask.size

    trial = envs.Trial(MAZE, 2)
    network = mj.recurrent.gru_policy(trial.action_space, 8)

    def loss(params):
        def step(carry, observation):
            outputs, value, carry = network.apply(params, observation, carry)
            return carry, (jax.nn.log_softmax(outputs), value)

        start = jnp.zeros((batch.mask.shape[1], 8))
        _, (logits, values) = jax.lax.scan(step, start, batch.observation)
        # λ-returns, from the values of the parameters that played.
        fixed = jax.lax.stop_gradient(values) * batch.mask
        advantage, tail = [], jnp.zeros(batch.mask.shape[1])
        for t in reversed(range(len(batch.mask))):
            following = fixed[t + 1] if t + 1 < len(fixed) else 0.0
            tail = batch.reward[t] + 0.99 * following - fixed[t] + 0.99 * 0.9 * tail
            tail = tail * batch.mask[t]
            advantage.insert(0, tail)
        raw = jnp.stack(advantage)
        count = jnp.sum(batch.mask)
        centred = (raw - jnp.sum(raw) / count) * batch.mask
        scaled = centred / jnp.sqrt(jnp.sum(centred**2) / count)
        chosen = jnp.take_along_axis(logits, batch.action[..., None], -1)[..., 0]
        ratio = jnp.exp(chosen - jax.lax.stop_gradient(chosen))
        gain = jnp.minimum(ratio * scaled, jnp.clip(ratio, 0.8, 1.2) * scaled)
        error = (values - jax.lax.stop_gradient(raw + fixed)) ** 2
        entropy = -jnp.sum(jnp.exp(logits) * logits, axis=-1)
        return jnp.sum((-gain + 0.5 * error - 0.01 * entropy) * batch.mask) / count

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    moved = jax.tree.map(jnp.subtract, state.params, after.params)
    chex.assert_trees_all_close(moved, grads, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(metrics["outer_loss"], value, rtol=1e-4, atol=1e-5)
    assert int(metrics["env_steps"]) == int(jnp.sum(batch.mask))


def test_results_do_not_depend_on_the_layout(plain):
    """Though trials end at different times, so that tiles have different numbers of steps."""
    mapping = mj.Mapping(mj.task_mesh(2), chunk=2, tile=1)  # of four tasks on each device
    state, metrics = updated(trials(), mapping=mapping)
    chex.assert_trees_all_close(state.params, plain[0].params, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(metrics, plain[1], rtol=1e-3, atol=1e-5)


def test_clipped_steps_end_where_the_ratio_leaves_its_bounds():
    """The objective is flat beyond them: more epochs hardly move a policy that is there."""
    problem = trials(entropy=0.0, value_weight=0.0)
    ratios, batch, state = {}, None, None
    for clip in (0.05, 10.0):
        learner = mj.rl2(problem, optax.sgd(3.0), TASKS, epochs=8, minibatches=1, clip=clip)
        state = state or jax.jit(learner.init)(jax.random.key(0))
        after, _ = jax.jit(learner.update)(state)
        batch = batch or columns(problem, state.params, state.key)  # of both: the same
        outputs = jax.jit(problem.divergence.outputs)(after.params, batch)[0]
        now, then = (
            mj.distributions.categorical.log_prob(logits, batch.action)
            for logits in (outputs, batch.behaviour)
        )
        ratios[clip] = np.abs(np.exp(now - then) - 1)[np.asarray(batch.mask) > 0].mean()
    assert ratios[0.05] < 0.6 * ratios[10.0]


def test_adapting_is_playing_on_and_scores_are_of_episodes():
    """Each episode's return, counted by the trial's own state, where episodes end early."""
    trial = envs.Trial(MAZE, 3)
    problem = trials(episodes=3, trials=16)
    learner = mj.rl2(problem, optax.sgd(1.0), TASKS)
    params = jax.jit(problem.init)(jax.random.key(0))
    task = problem.sample_task(jax.random.key(6))
    adapted, trace = jax.jit(learner.adapt)(params, task, jax.random.key(2))
    chex.assert_trees_all_equal(adapted, params)
    batch = jax.device_get(jax.jit(problem.collect)(params, task, jax.random.key(2)))
    reset, step = jax.jit(trial.reset), jax.jit(trial.step)
    returns, lengths = np.zeros(3), []
    for column in range(16):
        state, _ = reset(jax.random.key(0), task)
        for time in range(int(batch.mask[:, column].sum())):
            episode = int(state.episode)
            action = batch.action[time, column]
            state, timestep = step(jax.random.key(0), state, action, task)
            returns[episode] += timestep.reward
        assert timestep.truncated
        lengths.append(time + 1)
    assert min(lengths) < trial.max_horizon
    np.testing.assert_allclose(trace.score, returns / 16, rtol=1e-5)
    assert len(set(returns)) > 1
    assert int(trace.samples) == sum(lengths)


@pytest.mark.slow
def test_it_runs_in_double_precision():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        problem = trials()
        learner = mj.rl2(problem, optax.adam(1e-2), TASKS, **OPTIONS)
        state = jax.jit(learner.init)(jax.random.key(0))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float64"}
        after = jax.eval_shape(learner.update, state)[0]
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def best_of_two_arms(pulls: int) -> float:
    """The greatest expected reward of a two-armed Bernoulli bandit with uniform priors."""

    def value(left, wins):
        if not left:
            return 0.0
        worth = []
        for arm in (0, 1):
            won, lost = wins[arm]
            chance = (won + 1) / (won + lost + 2)
            follow = [
                value(left - 1, {**wins, arm: now}) for now in ((won + 1, lost), (won, lost + 1))
            ]
            worth.append(chance * (1 + follow[0]) + (1 - chance) * follow[1])
        return max(worth)

    return value(pulls, {0: (0, 0), 1: (0, 0)})


@pytest.mark.slow
def test_it_learns_to_explore_as_well_as_anything_can():
    """The Bayes-optimum of six pulls is 3.51; always pulling one arm gives 3."""
    bandit = envs.make("bandit", arms=2, horizon=6)
    problem = trials(bandit, episodes=1, trials=16, discount=1.0, gae_lambda=1.0)
    learner = mj.rl2(problem, optax.adam(1e-2), 32, minibatches=2)
    state = mj.train(learner, updates=200, progress=False)
    result = mj.evaluate(learner, state.params, problem, tasks=40_000)
    best = best_of_two_arms(6)
    assert 3.0 < 0.97 * best < result.mean[0] < best + 0.05


def test_a_trial_that_would_be_cut_is_refused():
    """Episodes that nobody played would count as a return of 0."""
    with pytest.raises(ValueError, match="horizon: a trial is played to its end, 30 steps, got 29"):
        trials(MAZE, episodes=3, trials=1, horizon=29)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"minibatches": 3}, "tasks: 8 is not a multiple of 3 minibatches on each of 1 devices"),
        ({"clip": 0.0}, "clip: expected above 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        mj.rl2(trials(), optax.sgd(1.0), TASKS, **options)


def test_what_is_no_policy_gradient_on_trials_is_refused():
    with pytest.raises(ValueError, match="RL² is for policy gradients"):
        mj.rl2(mj.regression(mj.networks.MLP((4, 1)), shots=2), optax.sgd(1.0), TASKS)
    with pytest.raises(ValueError, match="RL² is for trials, expected an environment such as"):
        mj.rl2(problems.gridworld(), optax.sgd(1.0), TASKS)
    trial = envs.Trial(MAZE, 2)
    network = mj.recurrent.gru_policy(trial.action_space, 4)
    learner = mj.rl2(mj.policy_gradient(trial, network, episodes=2), optax.sgd(1.0), TASKS)
    with pytest.raises(ValueError, match='with the baseline "critic"'):
        jax.eval_shape(lambda: learner.update(learner.init(jax.random.key(0))))


def test_a_critic_is_for_networks_that_have_one():
    env = envs.make("gridworld")
    with pytest.raises(ValueError, match="baseline: critic is for networks that have one"):
        mj.policy_gradient(
            env, mj.networks.mlp_policy(env.action_space), episodes=2, baseline="critic"
        )


def test_an_update_tells_the_scores_of_the_first_and_the_last_episode():
    problem = trials(episodes=3)
    learner = mj.rl2(problem, optax.sgd(1.0), TASKS, epochs=1, minibatches=1)
    state = jax.jit(learner.init)(jax.random.key(0))
    _, metrics = jax.jit(learner.update)(state)
    batch = columns(problem, state.params, state.key)
    episode = np.cumsum(batch.observation[..., -1] > 0.5, axis=0)
    first, last = (np.where(episode == k, batch.reward, 0).sum(0).mean() for k in (0, 2))
    assert first != last
    np.testing.assert_allclose(
        [metrics["score_before"], metrics["score_after"]], [first, last], rtol=1e-5
    )


def test_trials_that_judge_are_of_the_held_out_share():
    config = presets.preset("maze", "rl2")  # .2 held out
    experiment = experiments.build(config)
    keys = jax.random.split(jax.random.key(0), 200)
    trained, judged = (
        envs.TaskSet.of(config.env, jax.jit(jax.vmap(problem.sample_task))(keys)).side(0.8)
        for problem in (experiment.training, experiment.problem)
    )
    assert trained.all()
    assert not judged.any()


def test_numbers_of_a_configuration_reach_its_trials(monkeypatch):
    given, steps, make = [], [], trials_of.policy_gradient

    def problem(*args, **options):
        given.append(options)
        return make(*args, **options)

    def outer(config, count):
        steps.append(count)
        return optax.sgd(1.0)

    monkeypatch.setattr(trials_of, "policy_gradient", problem)
    monkeypatch.setattr(trials_of, "outer_optimizer", outer)
    numbers = dict(discount=0.9, gae_lambda=0.8, entropy=0.03, value_weight=0.2)
    sizes = dict(updates=5, epochs=3, minibatches=2, tasks=4)
    config = dataclasses.replace(presets.preset("bandit-10x5", "rl2"), **numbers, **sizes)
    trials_of.learners(config, mj.Mapping())
    assert steps == [5 * 3 * 2]
    assert given
    assert all(numbers.items() <= options.items() for options in given)


def test_episodes_that_are_forgotten_are_not_the_same():
    experiment = experiments.build(presets.preset("bandit-10x5", "rl2"))
    params = experiment.training.init(jax.random.key(0))
    task = experiment.training.sample_task(jax.random.key(1))
    adapt = jax.jit(experiment.multitask_evaluation(2))
    assert len({*adapt(params, task, jax.random.key(2))[1].score.tolist()}) > 1
