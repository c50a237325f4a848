"""XLand-MiniGrid's environments as ours are its own, but for where an episode ends."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs

pytest.importorskip("xminigrid")
import xminigrid
from xminigrid.benchmarks import Benchmark
from xminigrid.core.constants import Colors, Tiles
from xminigrid.core.goals import AgentNearGoal
from xminigrid.core.rules import EmptyRule
from xminigrid.types import RuleSet
from xminigrid.wrappers import GymAutoResetWrapper

from envs.adapters.xland import from_xland

N, HORIZON = 24, 30
COLOURS = (Colors.RED, Colors.GREEN, Colors.BLUE)


@pytest.fixture(autouse=True)
def lenient():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def made():
    return xminigrid.make("XLand-MiniGrid-R1-9x9", max_steps=HORIZON)


def _benchmark():
    """To come next to a ball of a colour, where there are balls of all colours."""
    balls = [jnp.array((Tiles.BALL, colour), jnp.uint8) for colour in COLOURS]
    goals = jnp.stack([AgentNearGoal(ball).encode() for ball in balls])
    rules = jnp.stack([EmptyRule().encode()[None]] * 3)
    return Benchmark(goals, rules, jnp.stack([jnp.stack(balls)] * 3), jnp.zeros((3,), jnp.int32))


def test_it_plays_as_xland_minigrid_does(made):
    inner, params = made
    env = from_xland(inner, params, _benchmark())
    assert hash(env) == hash(env)
    assert (env.max_horizon, env.action_space) == (HORIZON, envs.Discrete(6))
    keys = jax.random.split(jax.random.key(0), (N, HORIZON + 1))
    actions = jax.random.choice(keys[0, 0], jnp.array([0, 0, 1, 2], jnp.int32), (N, HORIZON))

    def play(keys, actions):
        task = env.sample_task(keys[0])

        def step(carry, given):
            state, theirs = carry
            key, action = given
            state, timestep = env.step(key, state, action, task)
            theirs = inner.step(params.replace(ruleset=task), theirs, action)
            return (state, theirs), (timestep, theirs)

        state, first = env.reset(keys[1], task)
        theirs = inner.reset(params.replace(ruleset=task), keys[1])
        return task, first, jax.lax.scan(step, (state, theirs), (keys[1:], actions))[1]

    tasks, first, (ours, theirs) = jax.jit(jax.vmap(play))(keys, actions)
    np.testing.assert_array_equal(ours.observation, theirs.observation)
    np.testing.assert_array_equal(ours.reward, theirs.reward)
    np.testing.assert_array_equal(ours.terminated | ours.truncated, theirs.last())
    np.testing.assert_array_equal(ours.terminated, theirs.discount == 0)
    np.testing.assert_array_equal(ours.reward > 0, ours.terminated)
    assert ours.terminated.any()
    assert ours.truncated[:, -1].any()
    assert not (ours.terminated & ours.truncated).any()
    for timesteps in (first, ours):
        space = env.observation_space
        assert timesteps.observation.shape[-3:] == space.shape
        assert jax.vmap(space.contains)(timesteps.observation.reshape(-1, *space.shape)).all()
    assert len(np.unique(np.asarray(tasks.goal), axis=0)) == 3


def test_stacked_rulesets_serve_as_a_benchmark_does(made):
    rulesets = RuleSet(*jax.tree.leaves(_benchmark())[:3])
    drawn = [
        jax.vmap(from_xland(*made, given).sample_task)(jax.random.split(jax.random.key(0), N))
        for given in (_benchmark(), rulesets)
    ]
    chex.assert_trees_all_equal(*drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            lambda env, params: (GymAutoResetWrapper(env), params, _benchmark()),
            "env: got .*GymAutoResetWrapper.*, expected an environment unwrapped",
        ),
        (
            lambda env, _: (env, xminigrid.make("MiniGrid-Empty-5x5")[1], _benchmark()),
            "params: got .*, expected those of an environment with rulesets",
        ),
        (
            lambda env, params: (env, params, _benchmark().get_ruleset(0)),
            r"rulesets: got \(1, 2, 2\), expected leaves of ranks \(2, 3, 3\), M rulesets",
        ),
    ],
    ids=["wrapped", "no ruleset", "one ruleset"],
)
def test_bad_arguments_are_refused(made, arguments, message):
    with pytest.raises(ValueError, match=message):
        from_xland(*arguments(*made))
