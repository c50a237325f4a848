"""ProMP: its epochs against the objective written out, its penalties, what it carries."""

import dataclasses
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from jax.scipy.stats import norm

import envs
import metajax as mj
from metajax.inner import run
from metajax.replays import replay

TASKS, EPOCHS, CLIP, PENALTY, OUTER = 4, 2, 0.1, 0.5, 0.3
RATES = (0.0625, 0.03125)  # the same in both precisions
INNER = mj.sgd(RATES, 2)
TARGET = 2e-3


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def problem():
    """Two action dimensions, several steps, in double precision throughout."""
    env = envs.make("point", horizon=3)
    network = mj.networks.mlp_policy(env.action_space, (), initial_std=0.3)
    single = mj.policy_gradient(env, network, episodes=3, baseline="none", entropy=0.01)

    def collect(params, task, key):
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64), single.collect(params, task, key)
        )

    return single._replace(collect=collect)


@pytest.fixture(scope="module")
def collected():
    """A state, and what the first update collects of each task: a record with a leading axis N."""
    with jax.enable_x64(True):
        state = promp(problem()).init(jax.random.key(0))

        def of_task(key):
            key_task, key_adapt = jax.random.split(key)
            task = problem().sample_task(key_task)
            return run(problem(), INNER, state.params, task, key_adapt)[1]

        keys = jax.random.split(jax.random.fold_in(state.key, state.step), TASKS)
        return state, jax.jit(jax.vmap(of_task))(keys)


def promp(problem, **changed):
    options = dict(epochs=EPOCHS, clip=CLIP, penalty=PENALTY) | changed
    return mj.promp(problem, INNER, optax.sgd(OUTER), TASKS, **options)


def plain_objective(params, record, penalty=PENALTY, clip=CLIP):
    """Equation 10 for one task, with nothing of the engine but the network."""
    network = mj.networks.GaussianPolicy(2, ())

    def loss(params, batch, clip=np.inf):
        (mean, log_std), _, _ = network.apply(params, batch.observation, ())
        old_mean, old_log_std = batch.behaviour
        std, old_std = jnp.exp(log_std), jnp.exp(old_log_std)
        ratio = jnp.prod(
            norm.pdf(batch.action, mean, std) / norm.pdf(batch.action, old_mean, old_std), -1
        )
        clipped = jnp.where(
            batch.advantage > 0, jnp.minimum(ratio, 1 + clip), jnp.maximum(ratio, 1 - clip)
        )
        entropy = jnp.sum(log_std + 0.5 * jnp.log(2 * jnp.pi * jnp.e), -1)
        distance = (old_std**2 + (old_mean - mean) ** 2) / (2 * std**2)
        divergence = jnp.mean(jnp.sum(log_std - old_log_std + distance - 0.5, -1))
        value = -jnp.mean(clipped * batch.advantage + 0.01 * entropy)
        return value, (divergence, jnp.mean(ratio != clipped))

    divergences = []
    for k, rate in enumerate(RATES):
        batch = jax.tree.map(lambda leaf, k=k: leaf[k], record.batches)
        gradient, (divergence, _) = jax.grad(loss, has_aux=True)(params, batch)
        divergences.append(divergence)
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, gradient)
    value, (_, blocked) = loss(params, record.judged, clip)
    divergence = jnp.mean(jnp.stack(divergences))
    return value + penalty * divergence, (value, divergence, blocked)


@pytest.mark.usefixtures("double")
def test_epochs_descend_on_the_objective_written_out(collected):
    state, records = collected

    @jax.jit
    def expected(params):
        def mean(params):
            each, aux = jax.vmap(plain_objective, (None, 0))(params, records)
            return jnp.mean(each), jax.tree.map(jnp.mean, aux)

        def epoch(params, _):
            gradient, aux = jax.grad(mean, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - OUTER * g, params, gradient), aux

        return jax.lax.scan(epoch, params, length=EPOCHS)

    after, metrics = jax.jit(promp(problem()).update)(state)
    params, (loss, divergence, blocked) = expected(state.params)
    assert blocked[0] == 0
    assert blocked[-1] > 0.05  # the clip has something to do
    np.testing.assert_allclose(flat(after.params), flat(params), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(metrics["outer_loss"], loss[-1], rtol=1e-7)
    np.testing.assert_allclose(metrics["divergence"], divergence[-1], rtol=1e-6)


@pytest.mark.usefixtures("double")
def test_the_objective_written_out_is_maml_s_where_nothing_is_penalised(collected):
    """Where the batches were collected the ratio is LVC, through the inner steps and after them."""
    state, records = collected
    record = jax.tree.map(lambda leaf: leaf[0], records)
    lvc = problem()

    def of_maml(params):
        return lvc.outer_loss(replay(lvc, INNER, params, record), record.judged)

    @jax.jit
    def both(params):
        unclipped = partial(plain_objective, record=record, penalty=0.0)
        return jax.grad(of_maml, has_aux=True)(params)[0], jax.grad(unclipped, has_aux=True)(
            params
        )[0]

    one, other = both(state.params)
    assert np.linalg.norm(flat(one)) > 0.1
    np.testing.assert_allclose(flat(one), flat(other), rtol=1e-9, atol=1e-12)


def test_update_depends_on_neither_devices_nor_chunks(adaptive):
    _, state, update = adaptive
    after, metrics = update(state)
    layout = mj.Mapping(mj.task_mesh(2), chunk=1)
    other, other_metrics = jax.jit(quadratic_promp(mapping=layout).update)(state)
    np.testing.assert_allclose(flat(other.params), flat(after.params), rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(other_metrics[name], value, rtol=1e-5)


def quadratic_promp(**options):
    """Of the quadratic, whose divergences have a closed form, toward a divergence."""
    inner, outer = mj.sgd(0.4, 3), optax.adam(0.01)
    return mj.promp(problems.quadratic(), inner, outer, 4, penalty=0.5, target=TARGET, **options)


@pytest.fixture(scope="module")
def adaptive():
    learner = quadratic_promp()
    return learner, learner.init(jax.random.key(0)), jax.jit(learner.update)


def test_penalties_halve_and_double_toward_the_target(adaptive):
    _, state, update = adaptive
    after, _ = update(state)
    moved = np.asarray(after.params["theta"] - state.params["theta"])
    contraction = np.eye(3) - 0.4 * np.asarray(problems.CURVATURE)
    factors = []
    for k in range(3):
        divergence = 0.5 * np.sum((np.linalg.matrix_power(contraction, k) @ moved) ** 2)
        factors.append(
            0.5 if divergence < TARGET / 1.5 else 2.0 if divergence > 1.5 * TARGET else 1.0
        )
    assert len(set(factors)) > 1
    np.testing.assert_array_equal(after.opt_state.penalty, 0.5 * np.array(factors, np.float32))


def test_the_divergence_that_is_told_is_the_one_that_adapts_the_penalties(adaptive):
    _, state, update = adaptive
    after, metrics = update(state)
    moved = np.asarray(after.params["theta"] - state.params["theta"])
    contraction = np.eye(3) - 0.4 * np.asarray(problems.CURVATURE)
    each = [0.5 * np.sum((np.linalg.matrix_power(contraction, k) @ moved) ** 2) for k in range(3)]
    np.testing.assert_allclose(metrics["divergence"], np.mean(each), rtol=1e-4)


def test_a_penalty_that_was_halved_for_long_can_be_doubled_again(adaptive):
    _, state, update = adaptive
    tiny = dataclasses.replace(state, opt_state=state.opt_state._replace(penalty=jnp.zeros(3)))
    penalty = np.asarray(update(tiny)[0].opt_state.penalty)
    assert (penalty > 0).all()


def test_a_run_that_is_resumed_is_the_run_that_was_not(adaptive, tmp_path):
    learner, state, update = adaptive
    after_one, _ = update(state)
    mj.save(tmp_path / "state", after_one)
    restored = mj.load(tmp_path / "state", jax.eval_shape(learner.init, jax.random.key(0)))
    for one, other in zip(
        jax.tree.leaves(update(after_one)[0]), jax.tree.leaves(update(restored)[0]), strict=True
    ):
        assert (one == other).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(epochs=0), "epochs: expected at least 1, got 0"),
        (dict(inner=mj.sgd(0.1, 0)), "inner steps: expected at least 1, got 0"),
        (dict(clip=0.0), "clip: expected above 0, got 0.0"),
        (dict(penalty=-1.0), "penalty: expected at least 0, got -1.0"),
        (dict(target=0.1, penalty=0.0), "penalty: expected above 0 where a target adapts it"),
        (dict(target=0.0), "target: expected above 0, got 0.0"),
        (
            dict(problem=mj.regression(mj.networks.MLP((1,)))),
            "problem: ProMP needs a policy gradient",
        ),
        (dict(problem=problems.point("dice")), "a surrogate other than dice"),
        (dict(outer=None), "outer: expected an optimiser of optax, got None"),
    ],
)
def test_what_cannot_be_is_refused(changed, message):
    given = dict(problem=problems.quadratic(), inner=mj.sgd(0.1), outer=optax.sgd(0.1), tasks=4)
    with pytest.raises(ValueError, match=message):
        partial(mj.promp, **(given | changed))()
