"""What `metajax render` draws of an agent is what it did."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import experiments, presets, render


@pytest.mark.parametrize(
    ("preset", "algorithm"),
    [
        pytest.param("gridworld", "maml", marks=pytest.mark.slow),
        ("gridworld", "rl2"),
        ("gridworld-q", "maml++"),
    ],
)
def test_the_states_drawn_are_those_that_were_observed_where_steps_slip(preset, algorithm):
    config = presets.preset(preset, algorithm)
    env = dataclasses.replace(config.env, slip=0.5, horizon=6)
    sizes = dict(tasks=8, episodes=4, hidden=(4,), evaluation_steps=1)
    experiment = experiments.build(dataclasses.replace(config, env=env, **sizes))
    remembers = algorithm == "rl2"
    index = int(remembers)
    key = jax.random.key(1)

    @jax.jit
    def played(params, task):
        found = render._play(experiment, remembers, params, task, key, index)
        return experiment.problem.collect(params, task, key), found

    params = jax.jit(experiment.training.init)(jax.random.key(0))
    # Of half of the steps: a task that is drawn may hardly slip.
    task = dataclasses.replace(jax.jit(env.sample_task)(key), slip=jnp.float32(0.5))
    batch, found = jax.device_get(played(params, task))
    squares = env.size**2
    at = found.states.position @ np.array([env.size, 1])
    shown = np.asarray(found.steps)
    if remembers:  # six steps of each trial's second episode, and none of the first
        np.testing.assert_array_equal(shown.sum(axis=0), 6)
        assert not shown[:6].any()
    else:
        np.testing.assert_array_equal(shown, batch.mask > 0)
    assert len(np.unique(at[:-1][shown])) > 3
    seen = batch.observation[..., :squares].argmax(-1)
    np.testing.assert_array_equal(at[:-1][shown], seen[shown])
