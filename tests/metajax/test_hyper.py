"""Meta-learned hyper-parameters: their gradients, what they stand for, what is refused."""

import dataclasses
import operator
from functools import partial

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from differences import directional_error, to_x64

import envs
import metajax as mj
from metajax import baselines, returns
from metajax.algorithms.meta_sgd import learned_rates
from metajax.inner import Record
from metajax.problems.policy_gradient import Trajectories
from metajax.problems.q_learning import Transitions
from metajax.replays import replay
from metajax.slow import beside

RATE = 0.5
VALUES = {"discount": 0.9, "gae_lambda": 0.7, "entropy": 0.05}
NAMES = ("learning_rate", *VALUES)


def point(surrogate="lvc", **given):
    env = envs.make("point", horizon=4)
    network = mj.networks.mlp_policy(env.action_space, (), initial_std=0.3)
    values = VALUES | {"surrogate": surrogate, "baseline": "mean", **given}
    return mj.policy_gradient(env, network, episodes=3, **values)


def q_learning(discount=VALUES["discount"]):
    env = envs.make("gridworld", horizon=4)
    network = mj.networks.mlp_policy(env.action_space, ())
    return mj.q_learning(env, network, episodes=3, n_step=2, epsilon=0.5, discount=discount)


@pytest.fixture(scope="module")
def played():
    """name -> a problem, one of other values, parameters, and made-up batches with an axis of 3."""
    random = np.random.default_rng(0)
    shape = (3, 4, 3)  # batches, time, episodes
    mask = np.broadcast_to(np.arange(4)[:, None] < np.array([4, 2, 3]), shape).astype(np.float32)
    reward = random.normal(size=shape).astype(np.float32) * mask
    seen = random.normal(size=(*shape, 2)).astype(np.float32)
    ended = np.tile([False, True, False], (3, 1))
    gamma, lam = VALUES["discount"], VALUES["gae_lambda"]

    @jax.jit
    @jax.vmap
    def derived(reward, mask, ended):
        value = baselines.mean_return(reward, returns.discounted_returns(reward, mask, gamma), mask)
        advantage = returns.generalised_advantages(reward, value, mask, gamma, lam)
        paid, power, _ = returns.n_step_returns(reward, ended, mask, gamma, 2)
        return returns.normalise(advantage, mask), paid, power

    advantage, paid, power = derived(reward, mask, ended)
    trajectories = Trajectories(seen, seen[..., ::-1], reward, mask, advantage, None)
    (cells,) = envs.make("gridworld").observation_space.shape
    before, after = np.eye(cells, dtype=np.uint8)[random.integers(0, cells, (2, *shape))]
    action = random.integers(0, 5, shape).astype(np.int32)
    rest = (paid, power, ended, after, reward, mask)
    weight = mask / mask.sum((1, 2), keepdims=True)
    transitions = Transitions(before, action, reward, mask, weight, *rest)
    one, q = point(), q_learning()
    other, other_q = point(discount=0.5, gae_lambda=0.3, entropy=0.2), q_learning(0.5)
    return {
        "point": (one, other, jax.jit(one.init)(jax.random.key(0)), trajectories),
        "q": (q, other_q, jax.jit(q.init)(jax.random.key(0)), transitions),
    }


@pytest.mark.parametrize(
    ("name", "derived"), [("point", ["advantage"]), ("q", ["n_step_return", "discount"])]
)
def test_a_learned_value_is_the_value_that_a_problem_is_given(name, derived, played):
    one, other, params, batches = played[name]
    values = {of.name: jnp.float32(of.value) for of in one.hyper if of.log_prob is None}

    @jax.jit
    def losses(params):
        batch = jax.tree.map(operator.itemgetter(0), batches)
        unknown = dataclasses.replace(batch, **dict.fromkeys(derived, jnp.full((4, 3), jnp.nan)))
        return one.inner_loss(params, batch)[0], other.inner_loss(params, unknown, **values)[0]

    np.testing.assert_allclose(*losses(params), rtol=1e-5)


@pytest.mark.parametrize(("kind", "steps"), [("point", 1), ("q", 1), ("differences", 2)])
def test_meta_gradient_is_that_of_plain_steps_with_the_learned_values(kind, steps, played):
    """Of reverse mode over reverse mode, and of differences where a loss has no held constants."""
    problem, _, params, batches = played["q" if kind == "q" else "point"]
    problem = point("log_prob") if kind == "differences" else problem
    names = ("learning_rate", *(of.name for of in problem.hyper if of.log_prob is None))
    learned, inner = mj.meta_learned(problem, mj.sgd(RATE, steps), names, speed=2.0)
    judged = jax.tree.map(operator.itemgetter(-1), batches)
    batches = jax.tree.map(operator.itemgetter(slice(steps)), batches)

    def plain(meta, batches):
        """Steps of the problem's own loss at the values that the numbers stand for."""
        each = {name: jnp.exp(2.0 * number) for name, number in meta["hyper"].items()}
        for name in {"discount", "gae_lambda"} & each.keys():
            odds = each[name] * VALUES[name] / (1 - VALUES[name])
            each[name] = odds / (1 + odds)
        each = {n: v * VALUES["entropy"] if n == "entropy" else v for n, v in each.items()}
        rate = RATE * each.pop("learning_rate")

        def step(params, batch):
            given = {**each, "target": params} if problem.bootstraps else each
            grads = jax.grad(lambda params: problem.inner_loss(params, batch, **given)[0])(params)
            return jax.tree.map(lambda p, g: p - rate * g, params, grads), grads

        params, grads = jax.lax.scan(step, meta["params"], batches)
        return problem.outer_loss(params, judged)[0], grads

    def every(meta, batches):
        (loss, grads), expected = jax.value_and_grad(plain, has_aux=True)(meta, batches)
        nothing = jax.tree.map(lambda _: None, meta["hyper"])
        record = Record(batches, {"params": grads, "hyper": nothing}, judged)
        actual = jax.grad(
            lambda meta: learned.outer_loss(replay(learned, inner, meta, record), judged)[0]
        )(meta)
        return loss, actual, expected

    with jax.enable_x64(True):
        params, batches, judged = to_x64((params, batches, judged))
        meta = {"params": params, "hyper": {name: jnp.float64(0.1) for name in names}}
        compiled = jax.jit(every)
        _, actual, expected = compiled(meta, batches)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-14), actual, expected)
        assert all(abs(float(number)) > 1e-6 for number in actual["hyper"].values())
        if kind == "differences":
            error = directional_error(
                lambda meta: compiled(meta, batches)[0], actual, meta, jax.random.key(3)
            )
            assert error < 1e-6


def test_values_begin_where_they_were_given_and_stay_in_their_range(played):
    problem, _ = mj.meta_learned(point(), mj.sgd(RATE), NAMES)
    _, _, params, batches = played["point"]

    @jax.jit
    def values_at(number):
        meta = {"params": params, "hyper": dict.fromkeys(NAMES, number)}
        return problem.outer_loss(meta, jax.tree.map(operator.itemgetter(0), batches))[1]

    low, start, high = (values_at(number) for number in (-0.5, 0.0, 0.5))
    for name, value in {"learning_rate": 1.0, **VALUES}.items():
        np.testing.assert_allclose(start[f"learned_{name}"], value, rtol=1e-6)
        assert 0 < low[f"learned_{name}"] < value < high[f"learned_{name}"]
    assert high["learned_discount"] < 1 > high["learned_gae_lambda"]
    for number in (-40.0, 40.0):  # further than rounding has room for
        far = values_at(number)
        assert 0 < far["learned_discount"] < 1 > far["learned_gae_lambda"] > 0


@pytest.mark.parametrize("name", ["entropy", "discount"])
def test_what_inner_steps_by_a_ratio_would_not_have_is_refused_there(name):
    problem, inner = mj.meta_learned(point(), mj.sgd(RATE), [name])
    for algorithm, outer in ((mj.promp, optax.adam(1e-3)), (mj.maml_trpo, mj.TrustRegion())):
        with pytest.raises(ValueError, match="expected a `ratio_loss`, got None"):
            algorithm(problem, inner, outer, 4)
        mj.promp(*mj.meta_learned(point(), mj.sgd(RATE), ["learning_rate"]), optax.adam(1e-3), 4)


def test_rates_of_parameters_and_hyper_parameters_lie_over_one_another_either_way():
    problem, inner, names = problems.quadratic(), mj.sgd(RATE, 2), ["learning_rate"]
    one = mj.meta_learned(*learned_rates(problem, inner), names)
    other = learned_rates(*mj.meta_learned(problem, inner, names))

    def after_an_update(problem, inner):
        learner = mj.maml(problem, inner, optax.sgd(0.01), 2)
        return jax.jit(learner.update)(learner.init(jax.random.key(0)))[0].params

    one, other = after_an_update(*one), after_an_update(*other)
    np.testing.assert_allclose(
        one["hyper"]["learning_rate"], other["params"]["hyper"]["learning_rate"], rtol=1e-5
    )
    np.testing.assert_allclose(
        one["params"]["rates"]["theta"], other["rates"]["params"]["theta"], rtol=1e-5
    )


def test_a_head_is_of_what_is_fast_and_leaves_hyper_parameters_to_the_outer_steps():
    env = envs.make("gridworld", horizon=6)
    network = mj.networks.mlp_policy(env.action_space, (8,))
    problem = mj.policy_gradient(env, network, episodes=4, entropy=0.01)
    problem, inner = mj.meta_learned(problem, mj.sgd(0.5, 1), ["entropy"])
    learner = mj.anil(problem, inner, optax.sgd(0.1), 2, head=network.is_head)
    meta = jax.jit(learner.init)(jax.random.key(0)).params
    given = (meta, problem.sample_task(jax.random.key(1)), jax.random.key(2))
    adapted, _ = jax.jit(learner.adapt)(*given)
    chex.assert_trees_all_equal(adapted["hyper"], meta["hyper"])
    one, other = (jax.flatten_util.ravel_pytree(of["params"])[0] for of in (adapted, meta))
    assert (one != other).any()
    with pytest.raises(ValueError, match="fast parameters: expected none of 'hyper'"):
        mj.adaptation(problem, inner._replace(fast=network.is_head))(*given)


def test_parameters_beside_parameters_are_drawn_from_keys_of_their_own():
    def draw(key, params):
        del params
        return jax.random.normal(key, (4,))

    problem, inner = problems.quadratic(), mj.sgd(0.1)
    first = beside(problem, inner, "first", draw, inner.optimizer)
    both, _ = beside(*first, "second", draw, inner.optimizer)
    params = both.init(jax.random.key(0))
    assert not np.intersect1d(params["second"], params["params"]["first"]).size
    np.testing.assert_array_equal(
        params["params"]["params"]["theta"], problem.init(jax.random.key(0))["theta"]
    )


def test_losses_that_are_one_stay_one_beside_other_parameters():
    """Learners save work where the inner and the outer loss are the same function."""
    one = problems.quadratic()
    two = one._replace(outer_loss=lambda params, batch: one.outer_loss(params, batch))
    for problem in (one, two):
        meta, _ = beside(problem, mj.sgd(0.1), "more", lambda key, params: (), optax.identity())
        assert (meta.inner_loss is meta.outer_loss) == (problem is one)


def test_a_rate_that_is_too_low_is_learned_to_be_higher():
    problem, inner = mj.meta_learned(problems.quadratic(), mj.sgd(0.01, 3), ["learning_rate"])
    learner = mj.maml(problem, inner, optax.adam(0.01), 8)
    _, metrics = jax.lax.scan(
        lambda state, _: learner.update(state), learner.init(jax.random.key(0)), length=100
    )
    assert metrics["learned_learning_rate"][0] == 1.0
    assert metrics["learned_learning_rate"][-1] > 10.0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["learning_rat"], "learn: unknown 'learning_rat'; nearest: learning_rate"),
        (["lambda"], "learn: unknown 'lambda'; nearest: gae_lambda"),
        (["entropy"], "entropy: expected above 0 to be learned, got 0.0"),
        (["gae_lambda"], "gae_lambda: expected above 0 and below 1.0 to be learned, got 1.0"),
    ],
)
def test_what_cannot_be_learned_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        mj.meta_learned(point(entropy=0.0, gae_lambda=1.0), mj.sgd(RATE), names)
