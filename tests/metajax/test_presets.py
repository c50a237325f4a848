import dataclasses
import json

import chex
import jax
import numpy as np
import pytest

from envs import PointNavigation, TaskSet
from metajax import experiments, learners, presets, runs, training
from metajax.arguments import parse_train
from metajax.catalogue import ALGORITHMS
from metajax.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_preset_survives_json_and_builds(name):
    config = PRESETS[name]
    assert config.preset == name
    assert presets.from_json(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    experiment = experiments.build(config)
    state = jax.eval_shape(experiment.learner.init, jax.random.key(0))
    after, metrics = jax.eval_shape(experiment.learner.update, state)
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(
        lambda leaf: leaf.shape, state
    )
    assert {"score_before", "score_after", "outer_loss", "env_steps"} <= metrics.keys()
    assert presets.describe(name)


# Of episodes alone, or of tasks whose optimum is known.
_EPISODES_ONLY = {name for name in ALGORITHMS if name.startswith("multitask-")} | {
    "emaml",
    "maml-trpo",
    "norml",
    "oracle",
    "promp",
    "rl2",
}


def smallest(algorithm):
    """Its learner on the preset that is the least work."""
    name = "bandit-10x5" if algorithm in _EPISODES_ONLY else "sinusoid-5"
    sizes = {"episodes": 2} if algorithm in _EPISODES_ONLY else {}
    config = dataclasses.replace(PRESETS[name], algorithm=algorithm, tasks=4, hidden=(4,), **sizes)
    return experiments.build(config).learner


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_update_by_every_algorithm_leaves_a_state_as_before(algorithm):
    learner = smallest(algorithm)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    after, metrics = jax.eval_shape(learner.update, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert "score_after" in metrics


# What they compute, their own tests see.
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_runs(algorithm):
    learner = smallest(algorithm)
    start = jax.eval_shape(learner.init, jax.random.key(0))
    state, metrics = jax.jit(lambda key: learner.update(learner.init(key)))(jax.random.key(0))
    assert np.isfinite(metrics["score_after"])
    assert int(state.step) == 1
    chex.assert_trees_all_equal_shapes_and_dtypes(state, start)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a not in _EPISODES_ONLY])
def test_every_other_algorithm_takes_reinforcement_learning_too(algorithm):
    config = dataclasses.replace(PRESETS["gridworld"], algorithm=algorithm, tasks=4)
    learner = experiments.build(config).learner
    state = jax.eval_shape(learner.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(learner.update, state)[0], state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bandit-10x5", "sinusoid-10"])
def test_reptile_goes_its_step_where_the_joint_policy_goes_by_adam(name):
    own = presets.preset(name, "reptile")
    config = dataclasses.replace(own, tasks=2, inner_steps=2, hidden=(4,))
    assert config.reptile_step == 0.3

    def moves(learner):
        start = jax.jit(learner.init)(jax.random.key(0))
        after, _ = jax.jit(learner.update)(start)
        return jax.tree.map(np.subtract, after.params, start.params)

    third, whole = (
        moves(experiments.build(dataclasses.replace(config, reptile_step=step)).learner)
        for step in (0.3, 1.0)
    )
    chex.assert_trees_all_close(third, jax.tree.map(lambda x: 0.3 * x, whole), rtol=1e-4, atol=1e-7)
    by_adam = moves(experiments.build(config).multitask)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(by_adam))
    np.testing.assert_allclose(largest, config.outer_learning_rate, rtol=1e-2)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("bandit-10x5", marks=pytest.mark.slow),
        pytest.param("gridworld-q", marks=pytest.mark.slow),
        "sinusoid-10",
    ],
)
def test_joint_training_uses_as_many_samples_an_update(name):
    config = dataclasses.replace(PRESETS[name], tasks=2, inner_steps=2)
    experiment = experiments.build(config)
    used = []
    for learner in (experiment.learner, experiment.multitask):
        # Alone, so that XLA leaves out what it does not take.
        count = jax.jit(lambda key: learner.update(learner.init(key))[1]["env_steps"])  # noqa: B023
        used.append(int(count(jax.random.key(0))))
    assert used[0] == used[1] > 0


@pytest.mark.parametrize("algorithm", ["maml", "multitask", "multitask-gradnorm"])
def test_what_an_experiment_trains_on_is_what_its_learner_does(algorithm):
    config = presets.preset("gridworld", algorithm)
    problem = experiments.build(config).training

    def collect(key):
        return problem.collect(problem.init(key), problem.sample_task(key), key)

    batches = 1 if algorithm == "maml" else config.inner_steps + 1
    played = jax.eval_shape(collect, jax.random.key(0))
    assert played.reward.shape[1] == batches * config.episodes


def test_seeds_share_the_tasks_of_joint_training_and_of_meta_training():
    """The comparison is on the same tasks: both learners draw them from the same keys."""
    experiment = experiments.build(dataclasses.replace(PRESETS["gridworld"], tasks=2))
    one = experiment.learner.init(jax.random.key(3))
    other = experiment.multitask.init(jax.random.key(3))
    assert (jax.random.key_data(one.key) == jax.random.key_data(other.key)).all()
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("maze", dict(algorithm="mamml"), "algorithm: unknown 'mamml'; nearest: .*maml"),
        ("maze", dict(activation="gelu"), "activation: expected one of tanh, relu, got 'gelu'"),
        ("maze", dict(precision="half"), "precision: expected one of float32, bfloat16, got"),
        ("maze", dict(updates=0), "updates: expected at least 1, got 0"),
        ("maze", dict(tasks=-4), "tasks: expected at least 1, got -4"),
        ("maze", dict(inner_steps=-1), "inner_steps: expected at least 0, got -1"),
        ("maze", dict(hidden=(64, 0)), "hidden: expected at least 1"),
        ("maze", dict(seed=-1), "seed: expected 0 to"),
        ("maze", dict(outer_learning_rate=0.0), "outer_learning_rate: expected above 0, got 0.0"),
        ("maze", dict(final_rate=1.5), "final_rate: expected 0 to 1, got 1.5"),
        ("maze", dict(inner_learning_rate=(0.0,)), "inner learning rate: expected above 0"),
        ("point", dict(initial_std=0.0), "initial_std: expected above 0, got 0.0"),
        ("maze", dict(initial_std=0.5), "initial_std: is for continuous actions, not maze"),
        ("tabular-mdp", dict(adapt_std=False), "adapt_std: is for continuous actions, not tabular"),
        ("sinusoid-5", dict(shots=0), "shots: expected at least 1, got 0"),
        ("maze", dict(tasks=3, devices=2), "tasks: 3 is not a multiple of the 2 devices"),
        ("maze", dict(annealing=-1), "annealing: expected at least 0, got -1"),
        ("maze", dict(context=8), "context: is for cavia, not norml"),
        (
            "sinusoid-5",
            dict(learn=("entropy",)),
            "learn: unknown 'entropy'; nearest: learning_rate",
        ),
        ("maze", dict(algorithm="reptile", learn=("discount",)), "learn: is for maml"),
        (
            "gridworld-q",
            dict(epsilon=0.5, learn=("epsilon",)),
            "learn: epsilon acts in sampling, which emaml credits, not maml",
        ),
        ("sinusoid-5", dict(algorithm="imaml", step_weights=(1.0,)), "step_weights: is for maml"),
        ("maze", dict(algorithm="cavia", context=0), "context: expected at least 1"),
        ("maze", dict(algorithm="imaml", proximal=0.0), "proximal strength: expected above 0"),
        ("gridworld-q", dict(algorithm="imaml"), "iMAML needs a loss that is minimised, got one"),
        ("sinusoid-5", dict(algorithm="emaml"), "E-MAML needs one that samples"),
        ("sinusoid-5", dict(algorithm="promp"), "ProMP needs a policy"),
        ("sinusoid-5", dict(algorithm="maml-trpo"), "TRPO needs a policy"),
        ("maze", dict(algorithm="maml-trpo", trust_region=0.0), "bound: expected above 0, got 0.0"),
        ("maze", dict(algorithm="promp", surrogate="dice"), "surrogate: is not for promp"),
        ("maze", dict(groups=4), "groups: is for multitask-uncertainty, multitask-gradnorm, not"),
        ("sinusoid-5", dict(algorithm="multitask-gradnorm"), "for tasks whose optimum is known"),
        (
            "maze",
            dict(algorithm="multitask-gradnorm", groups=1),
            "groups: expected at least 2, got 1",
        ),
        ("sinusoid-5", dict(algorithm="oracle"), "oracle is for episodes, got sinusoid-5"),
        ("tabular-mdp", dict(algorithm="oracle"), "expected one that can tell its task"),
        (
            "maze",
            dict(surrogate="loaded_dice", dice_lambda=1.5),
            "dice_lambda: expected 0 to 1, got 1.5",
        ),
        ("maze", dict(dice_lambda=0.5), "dice_lambda: acts with surrogate loaded_dice, not lvc"),
        ("maze", dict(surrogate="dice", gae_lambda=0.5), "gae_lambda: acts with surrogate lvc, "),
        ("maze", dict(surrogate="dice", baseline="none"), "baseline: acts with surrogate lvc, log"),
        (
            "gridworld-q",
            dict(outer="td", temperature=0.5),
            "temperature: acts with outer policy, not td",
        ),
        (
            "gridworld",
            dict(annealing=5, inner_steps=0),
            "annealing: is of the derivative through inner steps, which are 0",
        ),
        ("gridworld", dict(learn=("discount", "discount")), "learn: expected each name once"),
        ("bandit-10x5", dict(episodes=1), "baseline: a mean over one episode leaves no advantage"),
        ("maze", dict(devices=99), "devices: expected 1 to 2, got 99"),
    ],
)
def test_value_out_of_range_is_refused_in_one_line(name, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        experiments.build(dataclasses.replace(PRESETS[name], **fields))
    assert "\n" not in str(error.value)


def test_the_damping_of_imaml_makes_up_for_the_length_of_its_steps():
    settings = dict(inner_learning_rate=(0.1, 0.2), inner_steps=3)
    for name, times in (("point", 3.0), ("sinusoid-5", 1.0)):
        config = dataclasses.replace(PRESETS[name], **settings)
        assert learners._strength(config) + learners._damping(config) == pytest.approx(times / 0.5)
    assert learners._damping(dataclasses.replace(config, damping=0.25)) == 0.25


@pytest.mark.parametrize("name", PRESETS)
def test_reptile_is_more_than_joint_training(name):
    assert presets.preset(name, "reptile").inner_steps > 1


def test_an_algorithm_has_settings_of_its_own_unless_a_flag_says_otherwise():
    own = presets.preset("sinusoid-10", "reptile")
    assert own.inner_steps > PRESETS["sinusoid-10"].inner_steps
    assert parse_train(["sinusoid-10", "--algorithm", "reptile"])[1] == own
    flags = ["sinusoid-10", "--algorithm=reptile", "--inner-steps", "3"]
    assert parse_train(flags)[1] == dataclasses.replace(own, inner_steps=3)
    assert parse_train(["sinusoid-10"])[1] == PRESETS["sinusoid-10"]


def test_configuration_of_another_version_is_refused():
    content = dataclasses.asdict(PRESETS["maze"])
    with pytest.raises(ValueError, match="preset: unknown 'labyrinth'"):
        presets.from_json({**content, "preset": "labyrinth"})
    with pytest.raises(ValueError, match="unknown or missing colour"):
        presets.from_json({**content, "colour": "red"})
    without = {name: value for name, value in content.items() if name != "tasks"}
    with pytest.raises(ValueError, match="unknown or missing tasks"):
        presets.from_json(without)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", 40),
        ("hidden", [40.5]),
        ("updates", "9"),
        ("updates", True),
        ("seed", None),
        ("chunk", 1.5),
        ("env", {"size": "nine"}),
        ("env", 3),
    ],
)
def test_a_configuration_with_a_value_of_another_type_is_refused(field, value):
    content = {**dataclasses.asdict(PRESETS["maze"]), field: value}
    with pytest.raises(ValueError, match=f"{'size' if value == {'size': 'nine'} else field}: exp"):
        presets.from_json(content)


def test_a_run_of_an_earlier_version_opens(tmp_path):
    config = parse_train(["point", "--updates", "1", "--tasks", "2", "--hidden", "4"])[1]
    runs.create(tmp_path, config, overwrite=False)
    content = json.loads((tmp_path / runs.CONFIG).read_text())
    del content["config"]["minibatches"]  # a field that came later
    content["config"]["clip"] = 0.2  # a preset of MAML's says another now
    (tmp_path / runs.CONFIG).write_text(json.dumps(content))
    learner = experiments.build(config).learner
    described = runs.described(tmp_path)
    state = training.train(learner, updates=1, run=tmp_path, config=described, progress=False)
    _, restored = experiments.load(tmp_path)
    chex.assert_trees_all_equal(restored.params, state.params)


def test_mazes_that_judge_are_none_of_those_that_train():
    config = PRESETS["maze"]
    training, _, judging = experiments._problems(config, experiments._network(config))
    keys = jax.random.split(jax.random.key(0), 400)

    def hashes(sample_task):
        tasks = jax.jit(jax.vmap(sample_task))(keys)
        return set(map(tuple, np.asarray(TaskSet.of(config.env, tasks).hashes).tolist()))

    trained = hashes(training.sample_task)
    assert not trained & hashes(judging.sample_task)
    # Of as many drawn freely some are among them: there are not many small mazes.
    assert trained & hashes(lambda key: config.env.sample_task(jax.random.fold_in(key, 1)))


def test_inner_steps_can_leave_the_standard_deviation_to_the_outer_ones():
    sizes = dict(tasks=2, episodes=2, hidden=(4,), env=PointNavigation(horizon=5))
    config = dataclasses.replace(PRESETS["point"], adapt_std=False, **sizes)
    learner = experiments.build(config).learner
    state = jax.jit(learner.init)(jax.random.key(0))
    task = config.env.sample_task(jax.random.key(1))
    adapted, _ = jax.jit(learner.adapt)(state.params, task, jax.random.key(2))
    before, after = state.params["params"], adapted["params"]
    np.testing.assert_array_equal(after["log_std"], before["log_std"])
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool(np.any(a != b)), after["MLP_0"], before["MLP_0"])
    )
    improved, _ = jax.jit(learner.update)(state)
    assert np.all(improved.params["params"]["log_std"] != before["log_std"])
