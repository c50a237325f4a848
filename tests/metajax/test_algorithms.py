"""Every algorithm: its meta-gradient in closed form, one trace, task isolation, safety at zero."""

import dataclasses
import functools
import inspect
from functools import partial

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
from metajax import algorithms
from metajax.algorithms.maml import MAMLOptions
from metajax.algorithms.meta_sgd import learned_rates
from metajax.compiling import plain

STEPS, RATE = 3, 0.2
STRENGTH = 2.0  # of the pull toward the start
DAMPING = 0.3  # added to it in the linear system
WEIGHTS = (0.5, 0.0, 2.0)  # of the losses after each step
REGION = mj.TrustRegion(damping=0.1)

ALGORITHMS = {
    "maml": mj.maml,
    "fomaml": partial(mj.maml, first_order=True),
    "annealed": partial(mj.maml, first_order=lambda step: step < 1),
    "multi-step": lambda problem, inner, *args, **kwargs: mj.maml(
        problem, inner, *args, step_weights=WEIGHTS[: inner.steps], **kwargs
    ),
    "maml_trpo": lambda problem, inner, outer, *args, **kwargs: mj.maml_trpo(
        problem, inner, REGION, *args, **kwargs
    ),
    "meta_sgd": mj.meta_sgd,
    "rates-per-step": partial(mj.meta_sgd, per_step=True),
    "anil": partial(mj.anil, head=lambda path: path == "head" or "Dense_1" in path),
    "cavia": mj.cavia,
    "learned_optimizer": mj.learned_optimizer,
    "imaml": partial(mj.imaml, strength=STRENGTH, damping=DAMPING, solver_steps=3),
    "emaml": partial(mj.emaml, exploration=0.1),
    "promp": partial(mj.promp, epochs=1, penalty=0.1),
    "reptile": mj.reptile,
    "multitask": mj.multitask,
}


EVERYWHERE, LAST_TWO = np.eye(3), np.diag([0.0, 1.0, 1.0])  # where θ moves

# Whose derivatives are those of others.
BORROWED = ("annealed", "rates-per-step", "multitask", "maml_trpo")
ELSEWHERE = ("learned_optimizer",)  # safe at zero, by its own tests
OF_ADVANTAGES = ("norml",)  # which a quadratic has none of: tests of its own
WITHOUT_STEPS = ("rl2",)  # likewise


def quadratic(name):
    parts = {"anil": ("body", "head"), "cavia": ("network", "context")}
    if name in parts:
        return problems.parted(*parts[name])
    if name == "emaml":
        problem = problems.quadratic()
        return problem._replace(log_prob=lambda params, task: params["theta"] @ task["centre"])
    return problems.quadratic()


def expected_meta_gradient(name, theta, centre, others):
    """On a quadratic θ_K − c = M_K (θ − c) with M_K = (I − αA)^K, in double precision.

    Of all meta-parameters, in the order of their names; `others` are the other tasks' centres.
    """
    curvature = np.asarray(problems.CURVATURE, np.float64)
    theta, centre, others = (np.asarray(given, np.float64) for given in (theta, centre, others))
    offset = theta - centre

    def contraction(steps, moves=EVERYWHERE):
        return np.linalg.matrix_power(np.eye(3) - RATE * moves @ curvature, steps)

    def through(steps, moves=EVERYWHERE):
        last = contraction(steps, moves)
        return last.T @ curvature @ last @ offset

    def of_rates():
        """(K, 3): how the loss changes with the factor of each parameter at each step."""
        judged = curvature @ contraction(STEPS) @ offset
        return [
            -RATE * (curvature @ contraction(k) @ offset) * (contraction(STEPS - 1 - k).T @ judged)
            for k in range(STEPS)
        ]

    def implicit():
        """(I + A / (λ + damping))⁻¹ ∇L where the pulled steps end."""
        now = offset
        for _ in range(STEPS):
            now = now - RATE * (curvature @ now + STRENGTH * (now - offset))
        return np.linalg.solve(np.eye(3) + curvature / (STRENGTH + DAMPING), curvature @ now)

    def exploring():
        """Its log-probability is cᵀθ, its score −‖θ_K − c‖², credited by what the others' is."""
        sampled = sum(contraction(k).T @ centre for k in range(STEPS))
        missed, *missed_by_others = (
            np.sum((contraction(STEPS) @ (theta - c)) ** 2) for c in (centre, *others)
        )
        return through(STEPS) + 0.1 * (missed - np.mean(missed_by_others)) * sampled

    return {
        "imaml": implicit,
        "emaml": exploring,
        "maml": lambda: through(STEPS),
        "maml_trpo": lambda: through(STEPS),
        "promp": lambda: through(STEPS),  # no divergence yet, hence no gradient of it
        "learned_optimizer": lambda: through(STEPS),
        "fomaml": lambda: curvature @ contraction(STEPS) @ offset,
        "annealed": lambda: curvature @ contraction(STEPS) @ offset,
        "multi-step": lambda: sum(w * through(k + 1) for k, w in enumerate(WEIGHTS)),
        "meta_sgd": lambda: np.concatenate([through(STEPS), np.sum(of_rates(), axis=0)]),
        "rates-per-step": lambda: np.concatenate([through(STEPS), np.sum(of_rates(), axis=1)]),
        "anil": lambda: np.concatenate([through(STEPS, LAST_TWO), through(STEPS, LAST_TWO)[1:]]),
        "cavia": lambda: np.concatenate([np.zeros(2), through(STEPS, LAST_TWO)]),
        "reptile": lambda: offset - contraction(STEPS) @ offset,
        "multitask": lambda: curvature @ offset,
    }[name]()


def build(name, problem, tasks=4, outer=None, inner=None, **kwargs):
    inner = inner or mj.sgd(RATE, STEPS)
    return ALGORITHMS[name](problem, inner, outer or optax.sgd(1.0), tasks, **kwargs)


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def test_every_public_algorithm_is_tested_here_and_has_one_signature():
    for name in algorithms.__all__:
        assert name in (*ALGORITHMS, *OF_ADVANTAGES, *WITHOUT_STEPS)
        names = list(inspect.signature(getattr(mj, name)).parameters)
        first = ["problem", "inner", "outer", "tasks"]
        first = [each for each in first if each != "inner" or name not in WITHOUT_STEPS]
        assert names[: len(first)] == first
        assert names[-1] in ("mapping", "options")  # the keywords of `maml`, that one among them


def test_every_learner_is_compiled_where_it_is_called_by_itself():
    learners = {name: build(name, quadratic(name)) for name in ALGORITHMS}
    learners["serial"] = mj.reptile(
        problems.quadratic(), mj.sgd(RATE), optax.sgd(1.0), 4, serial=True
    )
    learners["norml"] = mj.norml(problems.gridworld(), mj.sgd(RATE), optax.sgd(1.0), 4)
    trial = envs.Trial(envs.make("bandit", horizon=1), 2)
    network = mj.recurrent.gru_policy(trial.action_space, 2)
    trials = mj.policy_gradient(trial, network, episodes=2, baseline="critic")
    learners["rl2"] = mj.rl2(trials, optax.sgd(1.0), 4, epochs=1, minibatches=1)
    for name, learner in learners.items():
        for function in (learner.init, learner.update, learner.adapt):
            assert plain(function) is not function, name


def test_the_options_of_mamls_variants_are_the_keywords_of_maml():
    keywords = inspect.signature(mj.maml).parameters.values()
    names = {each.name for each in keywords if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(MAMLOptions.__annotations__) == names


def test_a_variant_hands_its_options_on_to_maml():
    given = (problems.quadratic(), mj.sgd(RATE, 2), optax.sgd(1.0), 4)
    options = {"first_order": True, "step_weights": (1.0, 2.0)}
    state = mj.maml(*given).init(jax.random.key(0))
    plain, _ = jax.jit(mj.maml(*given, **options).update)(state)
    all_adapt, _ = jax.jit(mj.anil(*given, head=lambda path: True, **options).update)(state)
    chex.assert_trees_all_equal(all_adapt.params, plain.params)


@pytest.mark.smoke
@pytest.mark.parametrize("name", ALGORITHMS)
def test_meta_gradient_is_the_closed_form_of_a_quadratic(name):
    problem = quadratic(name)
    with jax.enable_x64(True):
        learner = build(name, problem)
        state = learner.init(jax.random.key(0))
        after, _ = jax.jit(learner.update)(state)
        keys = jax.random.split(jax.random.fold_in(state.key, 0), 4)
        centres = [problem.sample_task(jax.random.split(key)[0])["centre"] for key in keys]
        theta = jax.tree.leaves(problem_parameters(state.params))[0]
        each = [
            expected_meta_gradient(name, theta, centre, centres[:i] + centres[i + 1 :])
            for i, centre in enumerate(centres)
        ]
        expected = np.mean(each, axis=0)
        expected = natural(expected) if name == "maml_trpo" else expected
        actual = flat(state.params) - flat(after.params)
    if name == "learned_optimizer":  # the rule's own come last: test_learned_optimizer.py
        actual = actual[: expected.size]
    assert np.linalg.norm(actual - expected) <= 1e-6 * np.linalg.norm(expected)


def natural(gradient):
    """The step whose mean divergence, ½ ‖M_K step‖², is the bound, with the damping in it."""
    last = np.linalg.matrix_power(np.eye(3) - RATE * np.asarray(problems.CURVATURE, float), STEPS)
    curvature = last.T @ last + REGION.damping * np.eye(3)
    direction = np.linalg.solve(curvature, gradient)
    return direction * np.sqrt(2 * REGION.bound / (direction @ curvature @ direction))


def problem_parameters(params):
    """Those that are θ: not the rates beside them, nor the part that starts at 0."""
    for name in ("params", "body", "network"):
        params = params.get(name, params) if isinstance(params, dict) else params
    return params


@functools.cache
def on_one_task(name, tasks):
    """A first state, an update on the same task over and over, compiled, and its traces."""
    traces = []

    def sample_task(key):
        traces.append(key)
        return {"centre": jnp.ones(3)}

    learner = build(name, quadratic(name)._replace(sample_task=sample_task), tasks)
    return learner.init(jax.random.key(0)), jax.jit(learner.update), traces


@pytest.mark.parametrize("name", ALGORITHMS)
def test_meta_gradient_does_not_grow_with_the_meta_batch(name):
    def gradient(tasks):
        state, update, _ = on_one_task(name, tasks)
        return flat(state.params) - flat(update(state)[0].params)

    np.testing.assert_allclose(gradient(2), gradient(16), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_whole_run_traces_once(name):
    state, update, traces = on_one_task(name, 16)
    for _ in range(3):
        state, _ = update(state)
    assert len(traces) == 1
    assert int(state.step) == 3


def test_annealing_takes_the_second_order_from_the_step_that_its_schedule_says():
    learners = {name: build(name, problems.quadratic()) for name in ("annealed", "fomaml", "maml")}
    updates = {name: jax.jit(learner.update) for name, learner in learners.items()}
    state = learners["annealed"].init(jax.random.key(0))
    for name in ("fomaml", "maml"):
        expected, _ = updates[name](state)
        state, _ = updates["annealed"](state)
        np.testing.assert_allclose(state.params["theta"], expected.params["theta"], rtol=1e-6)


@pytest.fixture(scope="module")
def adapt_gridworld():
    problem = problems.gridworld()
    learner = mj.maml(problem, mj.sgd(5.0, steps=2), optax.sgd(1.0), 4)
    params = problem.init(jax.random.key(0))
    tasks = jax.vmap(problem.sample_task)(jax.random.split(jax.random.key(1), 4))
    adapt = jax.jit(lambda tasks, keys: jax.vmap(learner.adapt, (None, 0, 0))(params, tasks, keys))
    return learner, params, tasks, jax.random.split(jax.random.key(2), 4), adapt


def test_changing_one_task_leaves_the_others_adaptation_untouched_to_the_bit(adapt_gridworld):
    _, _, tasks, keys, adapt = adapt_gridworld
    one = adapt(tasks, keys)
    other = adapt(
        jax.tree.map(lambda leaf: leaf.at[2].set(leaf[0]), tasks), keys.at[2].set(keys[0])
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a)[[0, 1, 3]], np.asarray(b)[[0, 1, 3]])
    changed = [
        np.any(np.asarray(a)[2] != np.asarray(b)[2])
        for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(other[0]), strict=True)
    ]
    assert any(changed)


def test_permuting_tasks_permutes_their_adaptation(adapt_gridworld):
    _, _, tasks, keys, adapt = adapt_gridworld
    order = jnp.array([2, 0, 3, 1])
    straight = adapt(tasks, keys)
    permuted = adapt(jax.tree.map(lambda leaf: leaf[order], tasks), keys[order])
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(permuted), strict=True):
        np.testing.assert_allclose(np.asarray(a)[np.asarray(order)], b, rtol=1e-5, atol=1e-6)


def test_vmapped_adaptation_is_a_loop_over_tasks(adapt_gridworld):
    learner, params, tasks, keys, adapt = adapt_gridworld
    batched, trace = adapt(tasks, keys)
    alone = jax.jit(learner.adapt)
    for n in range(4):
        adapted, one = alone(params, jax.tree.map(lambda leaf, n=n: leaf[n], tasks), keys[n])
        np.testing.assert_allclose(trace.score[n], one.score, rtol=1e-5, atol=1e-5)
        for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(adapted), strict=True):
            np.testing.assert_allclose(a[n], b, rtol=1e-4, atol=1e-5)


@functools.cache
def rewardless(context):
    """Nothing to learn from: every advantage, hence every policy gradient, is exactly 0.

    The episodes are those of the first parameters, for nothing moves them, and were played before:
    how they are played need not be compiled into every update.
    """
    problem = problems.gridworld(context=context)
    first = build("maml", problem).init(jax.random.key(0)).params
    task = problem.sample_task(jax.random.key(1))
    batch = jax.jit(problem.collect)(first, task, jax.random.key(2))
    zeros = jnp.zeros_like(batch.advantage)
    batch = dataclasses.replace(batch, reward=zeros, advantage=zeros)
    return problem._replace(collect=lambda params, task, key: batch)


# What the others do about it is what MAML does.
_SAFE = ("maml", "cavia", "imaml", "emaml", "promp", "meta_sgd")


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("maml", "sgd"),
        *(
            pytest.param(name, "adam", marks=[pytest.mark.slow] * (name not in _SAFE))
            for name in ALGORITHMS
            if name not in BORROWED + ELSEWHERE
        ),
    ],
)
def test_task_without_gradient_gives_a_finite_meta_gradient(name, inner):
    outer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    inner = {"sgd": mj.sgd(1.0, 2), "adam": mj.adam(0.1, 2)}[inner]
    learner = build(name, rewardless(2 if name == "cavia" else 0), 2, outer, inner)
    state = learner.init(jax.random.key(0))
    after, metrics = jax.jit(learner.update)(state)
    assert np.isfinite(metrics["gradient_norm"])
    for leaf in jax.tree.leaves(after.params):
        assert np.isfinite(leaf).all()


def test_serial_reptile_is_one_task_after_another():
    problem, inner, outer = problems.quadratic(), mj.sgd(RATE, STEPS), optax.adam(0.1)
    serial = mj.reptile(problem, inner, outer, 4, serial=True)
    one = mj.reptile(problem, inner, outer, 1)
    state = expected = one.init(jax.random.key(0))
    after_one = jax.jit(one.update)
    for _ in range(8):
        expected, _ = after_one(expected)
    update = jax.jit(serial.update)
    state, metrics = update(update(state)[0])
    np.testing.assert_allclose(state.params["theta"], expected.params["theta"], rtol=1e-6)
    assert int(state.step) == 2
    assert int(metrics["env_steps"]) == 4 * (STEPS + 1)


def test_maml_learns_an_initialisation_that_one_step_adapts():
    problem = problems.quadratic()
    learner = build("maml", problem, 32, optax.adam(0.05))
    update = jax.jit(learner.update)
    state = learner.init(jax.random.key(0))
    for _ in range(150):
        state, metrics = update(state)
    np.testing.assert_allclose(state.params["theta"], jnp.ones(3), atol=0.3)
    assert float(metrics["score_after"]) > float(metrics["score_before"])


def test_the_norm_told_is_that_of_the_meta_gradient():
    learner = mj.maml(problems.quadratic(), mj.sgd(RATE, STEPS), optax.sgd(1.0), 4)
    state = learner.init(jax.random.key(0))
    after, metrics = jax.jit(learner.update)(state)
    moved = jnp.linalg.norm(after.params["theta"] - state.params["theta"])
    np.testing.assert_allclose(metrics["gradient_norm"], moved, rtol=1e-5)


def test_a_context_stays_where_tasks_start_whatever_the_outer_optimiser_adds():
    problem = problems.parted("network", "context")
    noisy = optax.chain(optax.add_noise(1.0, 0.5, key=0), optax.sgd(1.0))
    learner = mj.cavia(problem, mj.sgd(RATE, STEPS), noisy, 2)
    before = learner.init(jax.random.key(0))
    after = jax.jit(learner.update)(before)[0].params
    assert (after["context"] == before.params["context"]).all()
    assert (after["network"] != before.params["network"]).all()


def test_a_context_has_learned_rates():
    """Only the context itself stays where it is, not what is learned about it under its name."""
    problem, inner = problems.parted("network", "context"), mj.sgd(RATE, STEPS)
    problem, inner = learned_rates(problem, inner.among(lambda path: path == "context"))
    learner = mj.cavia(problem, inner, optax.sgd(1.0), 2)
    state = learner.init(jax.random.key(0))
    after = jax.jit(learner.update)(state)[0].params
    assert (after["params"]["context"] == state.params["params"]["context"]).all()
    assert (after["rates"]["context"] != 1).any()
