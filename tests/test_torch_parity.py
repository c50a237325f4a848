"""The PyTorch baseline is the same algorithm as metajax on every preset, at a tiny size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("torch")
import rl2_vs_torch
import torch

import metajax as mj
from envs.point import PointNavigation, PointTask
from metajax import experiments, presets
from metajax.algorithms.core import task_keys
from peers import contenders as peer_contenders
from peers import contest as contests
from peers import learn2learn, parity, split
from peers.bridge import BRIDGES
from support import layouts, traces

SMALL = dict(tasks=4, devices=1)
# A second step of the maze's rates leaves policies so certain that float32 loses its digits.
SIZES = {
    "point": dict(episodes=6, horizon=30, inner_steps=2),
    "point-published": dict(episodes=6, horizon=30, inner_steps=3, step_weights=(0.4, 0.3, 0.3)),
    "point-corners": dict(episodes=6, horizon=30),
    "maze": dict(episodes=6, horizon=30, inner_steps=1, held_out=0.0),
    "gridworld": dict(episodes=6, horizon=10, inner_steps=2),
    "gridworld-q": dict(episodes=8, inner_steps=2),
    "maze-q": dict(episodes=12, horizon=60, inner_steps=3, held_out=0.0),
    "bandit-10x5": dict(episodes=6, inner_steps=2),
    "tabular-mdp": dict(episodes=6, horizon=8),
    "sinusoid-5": dict(),  # two steps, each of which is judged
    "sinusoid-10": dict(),
}
EAGER = (
    "torch batched",
    "torch batched in chunks",
    "torch batched, by square",
    "torch.func vmap",
    "torch loop",
    "torch loop, learn2learn's way",
)
torch.set_num_threads(1)  # at these sizes more of them only wait for one another


class Case(NamedTuple):
    side: contests.Contest
    params: Any
    frozen: parity.Frozen
    ways: dict[str, peer_contenders.Contender]


def contenders(
    side: contests.Contest, params: Any, *names: str
) -> dict[str, peer_contenders.Contender]:
    return peer_contenders.contenders(side, contests.torch_params(params), "cpu", 3, names)


slow = pytest.mark.slow


DEFAULT = ("point", "gridworld-q")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[slow] * (name not in DEFAULT)) for name in BRIDGES],
)
def case(request: pytest.FixtureRequest) -> Case:
    """Parameters away from the near-zero head of a fresh policy, and an adaptation from them."""
    side = contests.contest(request.param, **SMALL, **SIZES[request.param])
    noise = jax.random.key(1)
    params = jax.jit(side.problem.init)(jax.random.key(0))
    scale = 0.01 if side.preset == "maze-q" else 0.1  # its softmax has a low temperature
    params = jax.tree.map(lambda p: p + scale * jax.random.normal(noise, p.shape), params)
    frozen = parity.freeze(side, params, jax.random.split(jax.random.key(2), 4))
    return Case(side, params, frozen, contenders(side, params, *EAGER))


def test_meta_gradients_agree(case: Case) -> None:
    assert optax.tree.norm(case.frozen.gradient) > 1e-3
    errors = {
        name: parity.meta_gradient_error(case.side, case.params, case.frozen, way)
        for name, way in case.ways.items()
    }
    bridge = BRIDGES[case.side.preset]
    assert bridge.by_square == (len(bridge.games(case.side, "cpu")) > 1)
    assert len(errors) == 4 + bridge.by_square + (case.side.preset == "point")
    assert max(errors.values()) < 1e-4


def collected(side: contests.Contest) -> set[str]:
    """Some of what a batch must have been compared in."""
    if side.setting.q:
        return {"action", "weight", "paid", "discount", "after", "credit"}
    return {"action", "weight"} if side.setting.on_policy else {"inputs", "targets"}


def test_rollouts_and_advantages_agree(case: Case) -> None:
    if case.side.preset.startswith("maze"):  # some episodes end early, and not all
        assert 0 < float(case.frozen.batches[0].mask[:, -1].mean()) < 1
    for name in {"torch batched", "torch batched, by square"} & case.ways.keys():
        errors = parity.collection_errors(case.side, case.frozen, case.ways[name])
        assert {"policy", "score"} | collected(case.side) <= errors.keys()
        assert max(errors.values()) < 1e-5


def test_the_loop_in_learn2learns_way_plays_and_credits_as_metajax_does() -> None:
    side = contests.contest("point", **SMALL, episodes=20, horizon=100)
    torch.manual_seed(1)
    policy = learn2learn.Policy(2, 2, (8,))
    with torch.no_grad():
        policy.sigma -= 4.0
        policy.mean[-1].weight.zero_()
        policy.mean[-1].bias.zero_()
    goal = torch.tensor([0.02, -0.02])
    weights = dict(policy.named_parameters())
    played = learn2learn._play(policy, weights, goal, side.setting)
    state, action, reward, mask = (x.numpy() for x in played)
    assert 0 < mask[-1].mean() < 1  # some episodes reach the goal, and not all

    task = PointTask(jnp.asarray(goal.numpy()), jnp.int32(100))
    env, key = PointNavigation(), jax.random.key(0)

    def walk(actions: jax.Array) -> Any:
        begun, first = env.reset(key, task)
        _, steps = jax.lax.scan(lambda s, a: env.step(key, s, a, task), begun, actions)
        return jnp.concatenate([first.observation[None], steps.observation[:-1]]), steps

    seen, steps = jax.vmap(walk, 1, 1)(jnp.asarray(action))
    np.testing.assert_allclose(state, seen, atol=1e-5)
    np.testing.assert_allclose(reward, steps.reward, atol=1e-5)
    over = np.cumsum(steps.terminated, axis=0) > 0
    np.testing.assert_array_equal(mask[1:] == 0, over[:-1])

    doubles = (torch.from_numpy(x.astype(np.float64)) for x in (state, reward, mask))
    theirs = learn2learn._advantage(*doubles, side.setting)
    batch = SimpleNamespace(observation=state[None], reward=(reward * mask)[None], mask=mask[None])
    ours = parity.exact_advantage(side, batch)[0]
    # Its ridge is absolute, as in the examples; ours is relative to columns of unit norm.
    assert parity.relative_error([theirs], [ours]) < 1e-2


def test_every_contender_updates_its_parameters(case: Case) -> None:
    torch.manual_seed(0)  # for tasks some of whose episodes reach the goal
    for name, way in case.ways.items():
        params = contests.torch_params(case.params)
        before = [p.detach().clone() for p in params]
        update = way.update(params)
        assert torch.isfinite(update()), name
        moved = any(not torch.equal(p, q) for p, q in zip(params, before, strict=True))
        assert moved == ("learn2learn" not in name)  # that one learns a module of its own


@slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_compiled_contender_agrees(case: Case) -> None:
    torch.compiler.reset()  # or the sizes of other presets count as recompilations of this one
    (way,) = contenders(case.side, case.params, "torch compiled").values()
    assert parity.meta_gradient_error(case.side, case.params, case.frozen, way) < 1e-4
    collected = parity.collection_errors(case.side, case.frozen, way, dtype=torch.float32)
    assert max(collected.values()) < 1e-4


@pytest.fixture(scope="module")
def one_step() -> tuple[contests.Contest, Any]:
    """A contest of one inner step, and the state that its learner begins with."""
    side = contests.contest("gridworld", episodes=6, horizon=5, inner_steps=1, **SMALL)
    return side, jax.jit(side.learner.init)(jax.random.key(0))


@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_an_update_is_split_into_its_parts(one_step: Any, tmp_path: Path) -> None:
    side, state = one_step
    (way,) = contenders(side, state.params, "torch.func vmap").values()
    step = way.update(contests.torch_params(state.params))
    shares = split.shares(tmp_path / "trace.json", step, 2)
    assert set(shares) == {*traces.PARTS, "other"}
    assert all(0 < share < 1 for share in shares.values())


@slow
def test_outer_steps_agree(one_step: Any) -> None:
    side, state = one_step
    after, _ = jax.jit(side.learner.update)(state)
    keys = task_keys(state, side.setting.tasks)
    gradient = parity.freeze(side, state.params, keys).gradient
    assert parity.outer_step_error(side, state.params, gradient, after) < 1e-4


@slow
def test_layouts_end_in_the_same_place() -> None:
    problem = mj.regression(mj.networks.MLP((8, 1)), shots=5)

    def learner(**mapping: int) -> mj.MetaLearner:
        return mj.maml(problem, mj.sgd(0.1), optax.adam(1e-2), 4, mapping=mj.Mapping(**mapping))

    state = jax.jit(learner().init)(jax.random.key(0))
    assert layouts.apart(learner(chunk=2, tile=1), learner(), state, 3) < 1e-5


@slow
def test_rl2_is_that_of_torchs_gated_unit() -> None:
    """World, policy, advantages and PPO's gradient, through `torch.nn.GRU`."""
    config = dataclasses.replace(presets.preset("gridworld", "rl2"), tasks=8, hidden=(6,))
    problem = experiments.build(config).problem
    params = jax.jit(problem.init)(jax.random.key(0))
    settings = rl2_vs_torch.settings_of(config)
    errors = rl2_vs_torch.agreement(problem, params, settings, seed=0)
    assert max(errors.values()) < rl2_vs_torch.TOLERANCE
