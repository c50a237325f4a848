"""Q-learning by hand, against value iteration, and under the meta-learners."""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from differences import directional_error, to_x64

import envs
import metajax as mj
from envs.core import TimeStep, first_timestep
from envs.value_iteration import value_iteration
from metajax.algorithms.hyper import meta_learned
from metajax.inner import Record, run
from metajax.problems.q_learning import _best
from metajax.replays import replay

CELLS, HORIZON, EPISODES, DISCOUNT = 4, 5, 8, 0.8


class State(NamedTuple):
    position: jax.Array
    steps: jax.Array


class Corridor:
    """Cells in a row; the last one terminates and pays the task, a step to the left costs 0.1.

    Episodes start on any other cell, and are truncated after HORIZON steps.
    """

    observation_space = envs.Box(0, 1, (CELLS,), np.dtype(np.uint8))
    action_space = envs.Discrete(2)
    max_horizon = HORIZON

    def sample_task(self, key):
        return jax.random.uniform(key, (), minval=0.5, maxval=1.0)

    def _observe(self, position):
        return jax.nn.one_hot(position, CELLS, dtype=jnp.uint8)

    def reset(self, key, task):
        position = jax.random.randint(key, (), 0, CELLS - 1)
        return State(position, jnp.int32(0)), first_timestep(self._observe(position))

    def step(self, key, state, action, task):
        position = jnp.clip(state.position + 2 * action - 1, 0, CELLS - 1)
        home = position == CELLS - 1
        reward = jnp.where(home, task, jnp.where(action == 0, -0.1, 0.0))
        steps = state.steps + 1
        timestep = TimeStep(self._observe(position), reward, home, ~home & (steps >= HORIZON))
        return State(position, steps), timestep

    def optimal_values(self, task):
        """(CELLS, 2) float32, by value iteration on the same dynamics."""
        cells = jnp.arange(CELLS - 1)
        transition, reward = np.zeros((CELLS, 2, CELLS), np.float32), np.zeros((CELLS, 2))
        for cell in range(CELLS - 1):
            for action in (0, 1):
                key = jax.random.key(0)
                state = State(cells[cell], jnp.int32(0))
                after, timestep = self.step(key, state, jnp.int32(action), task)
                reward[cell, action] = timestep.reward
                transition[cell, action, after.position] = 1.0 - float(timestep.terminated)
        reward = jnp.asarray(reward, jnp.float32)
        return value_iteration(jnp.asarray(transition), reward, discount=DISCOUNT)


class OneHotCorridor(Corridor):
    """It says of its observations what they are, so that networks are looked up."""

    observation_space = envs.OneHot(CELLS)


class Table:
    """A value for each cell and action."""

    def init(self, key, observation, carry):
        return {"values": 0.3 * jax.random.normal(key, (observation.shape[-1], 2))}

    def apply(self, params, observation, carry):
        values = observation.astype(params["values"].dtype) @ params["values"]
        return values, jnp.zeros_like(values[..., 0]), carry


def corridor(**fields):
    given = dict(episodes=EPISODES, discount=DISCOUNT, epsilon=0.7, n_step=2)
    return mj.q_learning(Corridor(), Table(), **{**given, **fields})


def collected(problem, key=2):
    params = problem.init(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    batch = jax.jit(problem.collect)(params, task, jax.random.key(key))
    return params, task, jax.tree.map(np.asarray, batch)


def expected_targets(batch, values, task, n_step):
    """Of each step taken, from the rule of the game and the batch's actions alone."""
    targets = np.zeros(batch.mask.shape)
    ends = set()
    for b in range(EPISODES):
        cell = int(batch.observation[0, b].argmax())
        cells, rewards, home = [cell], [], False
        for action in batch.action[:, b]:
            cell = min(max(cell + 2 * int(action) - 1, 0), CELLS - 1)
            home = cell == CELLS - 1
            rewards.append(float(task) if home else (-0.1 if action == 0 else 0.0))
            cells.append(cell)
            if home:
                break
        steps = len(rewards)
        ends.add("terminated" if home else "truncated")
        np.testing.assert_array_equal(batch.mask[:, b], np.arange(HORIZON) < steps)
        np.testing.assert_allclose(batch.reward[:steps, b], rewards, rtol=1e-6)
        for t in range(steps):
            last = min(t + n_step, steps)
            target = sum(DISCOUNT ** (j - t) * rewards[j] for j in range(t, last))
            if not (home and last == steps):
                target += DISCOUNT ** (last - t) * values[cells[last]].max()
            targets[t, b] = target
    assert ends == {"terminated", "truncated"}  # both kinds are in what is tested
    return targets


@pytest.mark.smoke
@pytest.mark.parametrize("n_step", [1, 3, 99])
def test_inner_step_is_that_of_targets_summed_by_hand(n_step):
    problem = corridor(n_step=n_step)
    params, task, batch = collected(problem)
    values = np.asarray(params["values"], np.float64)
    targets = expected_targets(batch, values, task, n_step)
    cell = batch.observation.argmax(-1)
    error = (values[cell, batch.action] - targets) * batch.mask
    taken = batch.mask.sum()
    expected = np.zeros_like(values)
    np.add.at(expected, (cell, batch.action), error / taken)
    (loss, aux), gradient = jax.jit(jax.value_and_grad(problem.inner_loss, has_aux=True))(
        params, batch
    )
    np.testing.assert_allclose(loss, 0.5 * (error**2).sum() / taken, rtol=1e-5)
    np.testing.assert_allclose(aux["td_error"], abs(error).sum() / taken, rtol=1e-5)
    np.testing.assert_allclose(gradient["values"], expected, rtol=1e-4, atol=1e-6)


def test_episodes_that_a_shorter_horizon_cuts_are_bootstrapped():
    problem = corridor(horizon=2, epsilon=0.0, n_step=2)
    _, _, batch = collected(problem)
    terminated = batch.next_observation[0].argmax(-1) == CELLS - 1
    length = batch.mask.sum(0)
    np.testing.assert_allclose(batch.discount[0], np.where(terminated, 0.0, DISCOUNT**length))


def test_masked_steps_weigh_nothing():
    problem = corridor()
    params, _, batch = collected(problem)
    gone = batch.mask == 0
    assert gone.any()
    scrambled = dataclasses.replace(
        batch,
        action=np.where(gone, 1 - batch.action, batch.action),
        observation=np.where(gone[..., None], np.uint8(7), batch.observation),
        next_observation=np.where(gone[..., None], np.uint8(7), batch.next_observation),
        n_step_return=np.where(gone, np.float32(9), batch.n_step_return),
    )
    loss = jax.jit(jax.value_and_grad(lambda p, b: problem.inner_loss(p, b)[0]))
    for a, b in zip(
        jax.tree.leaves(loss(params, batch)), jax.tree.leaves(loss(params, scrambled)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_huber_bounds_what_an_error_does():
    _, _, batch = collected(corridor())
    params = {"values": jnp.full((CELLS, 2), 50.0)}
    alike = dataclasses.replace(batch, discount=np.zeros_like(batch.discount))
    gradient = jax.grad(lambda p: corridor(huber=0.5).inner_loss(p, alike)[0])(params)
    cell = batch.observation.argmax(-1)
    share = np.zeros((CELLS, 2))
    np.add.at(share, (cell, batch.action), batch.mask / batch.mask.sum())
    np.testing.assert_allclose(gradient["values"], 0.5 * share, rtol=1e-5)


def test_the_slope_of_the_best_value_is_that_of_one_action():
    values = jnp.array([[0.1, 0.9, -2.0], [0.5, 0.5, 0.5]])
    slope = jax.grad(lambda values: jnp.sum(jnp.array([2.0, 3.0]) * _best(values)))(values)
    np.testing.assert_array_equal(slope, [[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    assert not jnp.any(jax.hessian(lambda row: _best(row))(values[0]))


def test_score_is_the_return_of_the_greedy_episodes_alone():
    problem = corridor(epsilon=1.0, greedy_episodes=2)
    _, task, batch = collected(problem)
    np.testing.assert_allclose(problem.score(batch), batch.reward[:, -2:].sum() / 2, rtol=1e-6)
    assert int(problem.samples(batch)) == batch.mask.sum()
    homeward = {"values": jnp.tile(jnp.array([0.0, 1.0]), (CELLS, 1))}
    batch = jax.tree.map(np.asarray, jax.jit(problem.collect)(homeward, task, jax.random.key(3)))
    np.testing.assert_array_equal(batch.action[:, -2:], 1)
    assert (batch.action[:, :-2] == 0).any()
    np.testing.assert_allclose(problem.score(batch), task, rtol=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "one-batch"])
def test_inner_steps_reach_the_optimal_values(fresh):
    judging = None if fresh else 0.0
    problem = corridor(epsilon=1.0, n_step=1, episodes=24, judging_epsilon=judging)
    params = problem.init(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    learner = mj.maml(problem, mj.sgd(2.0, steps=300), optax.sgd(1.0), 1)
    adapted, trace = jax.jit(learner.adapt)(params, task, jax.random.key(2))
    optimal = np.asarray(Corridor().optimal_values(task))
    np.testing.assert_allclose(adapted["values"][:-1], optimal[:-1], atol=1e-3)
    np.testing.assert_allclose(trace.score[-1], task, rtol=1e-6)


@pytest.mark.parametrize("mean_over", ["steps", pytest.param("pairs", marks=pytest.mark.slow)])
def test_meta_gradient_has_targets_that_move_in_it(mean_over):
    """In x64, over frozen batches: against finite differences of the steps taken by hand.

    The discount is learned beside the parameters, and so reaches the targets both ways.
    """
    steps, rate = 3, 1.5
    network = mj.networks.mlp_policy(Corridor.action_space, (5,), skip=1.0)
    env = OneHotCorridor() if mean_over == "pairs" else Corridor()
    problem, inner = meta_learned(
        mj.q_learning(
            env, network, episodes=4, n_step=2, epsilon=0.5, discount=0.8, mean_over=mean_over
        ),
        mj.sgd(rate, steps=steps),
        ["discount"],
    )
    # Away from the first policy, whose values nearly tie: a greatest value has no derivative there.
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        jax.jit(problem.init)(jax.random.key(0)),
    )
    task = problem.sample_task(jax.random.key(1))
    _, record, _ = jax.jit(lambda *given: run(problem, inner, *given))(
        params, task, jax.random.key(2)
    )
    with jax.enable_x64(True):
        params, record = to_x64(params), to_x64(record)
        batches = [jax.tree.map(lambda leaf, k=k: leaf[k], record.batches) for k in range(steps)]

        @jax.jit
        def descend(meta, batch):
            gradient = jax.grad(lambda p: problem.inner_loss({**meta, "params": p}, batch)[0])
            step = gradient(meta["params"])
            moved = jax.tree.map(lambda p, g: p - rate * g, meta["params"], step)
            return {**meta, "params": moved}, step

        @jax.jit
        def plain(meta):
            for batch in batches:
                meta, _ = descend(meta, batch)
            return problem.outer_loss(meta, judged)[0]

        gradients, meta = [], params
        for batch in batches:
            meta, step = descend(meta, batch)
            gradients.append({**jax.tree.map(lambda _: None, params), "params": step})
        # Of the loss that judges, targets are constants: those of where adaptation ended.
        outputs, *_ = jax.jit(network.apply)(meta["params"], record.judged.next_observation, ())
        values = outputs.max(-1)
        judged = dataclasses.replace(
            record.judged,
            n_step_return=record.judged.n_step_return + record.judged.discount * values,
            discount=jnp.zeros_like(record.judged.discount),
        )
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
        recorded = Record(record.batches, stacked, record.judged)

        @jax.jit
        @jax.grad
        def of_engine(p):
            return problem.outer_loss(replay(problem, inner, p, recorded), recorded.judged)[0]

        error = directional_error(plain, of_engine(params), params, jax.random.key(3))
    assert error < 1e-6


def test_a_mean_over_pairs_moves_a_table_to_the_mean_of_its_targets():
    problem = mj.q_learning(
        OneHotCorridor(), Table(), episodes=EPISODES, discount=DISCOUNT, epsilon=0.7,
        n_step=2, mean_over="pairs",
    )  # fmt: skip
    params, task, batch = collected(problem)
    values = np.asarray(params["values"], np.float64)
    targets = expected_targets(batch, values, task, n_step=2)
    pair = (batch.observation.argmax(-1), batch.action)
    total, visits = np.zeros_like(values), np.zeros_like(values)
    np.add.at(total, pair, targets * batch.mask)
    np.add.at(visits, pair, batch.mask)
    assert visits.min() == 0
    assert visits.max() > 1
    gradient = jax.grad(lambda p: problem.inner_loss(p, batch)[0])(params)["values"]
    expected = np.where(visits > 0, total / np.maximum(visits, 1), values)
    np.testing.assert_allclose(values - CELLS * 2 * gradient, expected, rtol=1e-4, atol=1e-6)


def test_pairs_of_what_is_not_one_hot_are_refused():
    with pytest.raises(ValueError, match="mean_over: pairs are of one-hot observations, got Box"):
        corridor(mean_over="pairs")


def test_policy_loss_weighs_each_exploring_action_by_its_chances():
    problem = corridor(outer="policy", temperature=0.5, judging_epsilon=0.4)
    params = problem.init(jax.random.key(0))
    task = problem.sample_task(jax.random.key(1))
    batch = jax.tree.map(np.asarray, jax.jit(problem.query)(params, task, jax.random.key(2)))
    values = np.asarray(params["values"], np.float64)[batch.observation.argmax(-1)]
    action, mask = batch.action[..., None], batch.mask
    policy = np.exp(values / 0.5) / np.exp(values / 0.5).sum(-1, keepdims=True)
    greedy = values.argmax(-1)[..., None] == action
    ratio = np.take_along_axis(policy, action, -1)[..., 0] / (0.2 + 0.6 * greedy[..., 0])
    returns = np.zeros((HORIZON + 1, EPISODES))
    for t in reversed(range(HORIZON)):
        returns[t] = batch.reward[t] + DISCOUNT * returns[t + 1]
    returns = returns[:-1]
    advantage = returns - (returns * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True)
    taken = mask > 0
    advantage = (advantage - advantage[taken].mean()) / advantage[taken].std()
    ratio[:, -1] = 0.0  # the greedy episode explores nothing
    expected = -(ratio * advantage * mask).sum() / mask.sum()
    np.testing.assert_allclose(problem.outer_loss(params, batch)[0], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "learner",
    [mj.maml, lambda *given: mj.maml(*given, first_order=True), mj.reptile],
    ids=["maml", "fomaml", "reptile"],
)
def test_meta_learners_meet_q_learning_as_any_problem(learner):
    problem = corridor()
    made = learner(problem, mj.sgd(2.0, steps=2), optax.sgd(0.5), 32)
    state = made.init(jax.random.key(0))
    update = jax.jit(made.update)
    scores = []
    for _ in range(30):
        state, metrics = update(state)
        scores.append(float(metrics["score_after"]))
    assert np.mean(scores[-10:]) > scores[0] + 0.1  # the first is of what it began with


def test_continuous_actions_are_refused():
    env = envs.make("point")
    network = mj.networks.mlp_policy(env.action_space)
    with pytest.raises(ValueError, match="action space: Q-learning expects Discrete, got Box"):
        mj.q_learning(env, network, episodes=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(episodes=0), "episodes: expected at least 1, got 0"),
        (dict(horizon=0), "horizon: expected at least 1, got 0"),
        (dict(n_step=0), "n_step: expected at least 1, got 0"),
        (dict(greedy_episodes=0), "greedy_episodes: expected 1 to 8, got 0"),
        (dict(greedy_episodes=8, outer="policy"), "greedy_episodes: expected below 8"),
        (dict(greedy_episodes=9), "greedy_episodes: expected 1 to 8, got 9"),
        (dict(epsilon=1.1), "epsilon: expected 0 to 1, got 1.1"),
        (dict(epsilon=-0.1), "epsilon: expected 0 to 1, got -0.1"),
        (dict(discount=1.1), "discount: expected 0 to 1, got 1.1"),
        (dict(judging_epsilon=2.0), "judging_epsilon: expected 0 to 1, got 2.0"),
        (dict(temperature=0.0), "temperature: expected above 0, got 0.0"),
        (dict(outer="return"), "outer: expected one of td, policy, got 'return'"),
        (dict(mean_over="tasks"), "mean_over: expected one of steps, pairs, got 'tasks'"),
        (dict(huber=0.0), "huber: expected above 0, got 0.0"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        corridor(**fields)


def test_episodes_that_are_worth_the_same_give_no_credit():
    """Their mean differs from each by rounding, which must not be normalised."""
    env = envs.make("gridworld", horizon=7)  # eight steps from the start to the far corner
    problem = mj.q_learning(
        env, mj.networks.mlp_policy(env.action_space, ()), episodes=13, discount=0.9, outer="policy"
    )
    task = dataclasses.replace(
        env.sample_task(jax.random.key(0)), goal=jnp.array([4, 4], jnp.int32)
    )
    params = problem.init(jax.random.key(1))
    batch = jax.jit(problem.collect)(params, task, jax.random.key(2))
    assert float(batch.reward.max()) < 0  # nobody came there
    np.testing.assert_array_equal(batch.credit, 0.0)
