"""XLand-MiniGrid (package `xminigrid`): its environments with rulesets as tasks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from xminigrid.benchmarks import Benchmark
from xminigrid.core.constants import NUM_COLORS, NUM_TILES
from xminigrid.environment import Environment
from xminigrid.envs.xland import XLandEnvParams
from xminigrid.types import RuleSet
from xminigrid.types import TimeStep as XLandTimeStep
from xminigrid.wrappers import Wrapper

from ..core import Box, Discrete, TimeStep, first_timestep, require, require_integer
from .episodes import draw

__all__ = ["FromXLand", "from_xland"]

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class FromXLand:
    """An XLand-MiniGrid environment as one of ours; made by `from_xland`.

    Observation: uint8 [view, view, 2], tile and colour of each square in view.
    Action: int32 () in 0..5, XLand-MiniGrid's actions.
    Reward: float32 (), 1 - 0.9 * t / horizon if step t reaches the goal, else 0.
    Termination: on the ruleset's goal. Truncation: after `params.max_steps` steps that did not
      reach it.
    Task: a `RuleSet`; the layout is drawn in `reset`. State: XLand-MiniGrid's time step.
    """

    env: Environment
    params: XLandEnvParams  # its ruleset is None, as the task provides it
    sample_ruleset: Callable[[Array], RuleSet]

    @property
    def observation_space(self) -> Box:
        shape = self.env.observation_shape(self.params)
        return Box(0, max(NUM_TILES, NUM_COLORS) - 1, shape, np.dtype(np.uint8))

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.env.num_actions(self.params))

    @property
    def max_horizon(self) -> int:
        return self.params.max_steps

    def sample_task(self, key: Array) -> RuleSet:
        return self.sample_ruleset(key)

    def reset(self, key: Array, task: RuleSet) -> tuple[XLandTimeStep, TimeStep]:
        state = self.env.reset(self.params.replace(ruleset=task), key)
        return state, first_timestep(state.observation)

    def step(
        self, key: Array, state: XLandTimeStep, action: Array, task: RuleSet
    ) -> tuple[XLandTimeStep, TimeStep]:
        del key
        state = self.env.step(self.params.replace(ruleset=task), state, action)
        terminated = state.discount == 0
        timestep = TimeStep(
            state.observation,
            state.reward.astype(jnp.float32),
            terminated,
            truncated=state.last() & ~terminated,
        )
        return state, timestep


def from_xland(
    env: Environment, params: XLandEnvParams, rulesets: Benchmark | RuleSet
) -> FromXLand:
    """An XLand-MiniGrid environment whose p(T) is uniform over a benchmark's rulesets.

    `from_xland(*xminigrid.make("XLand-MiniGrid-R1-9x9"), xminigrid.load_benchmark("small-1m"))`

    Args:
      env, params: from `xminigrid.make`, without wrappers.
      rulesets: a benchmark, or M rulesets stacked, [M, ...].

    Raises:
      ValueError: a wrapper, params of an environment without rulesets, a horizon below 1, or no
        rulesets.
    """
    require("env", env, not isinstance(env, Wrapper), "an environment unwrapped")
    takes_rulesets = isinstance(params, XLandEnvParams)
    require("params", params, takes_rulesets, "those of an environment with rulesets")
    require_integer("max_steps", params.max_steps, 1)
    if isinstance(rulesets, Benchmark):
        rulesets = RuleSet(rulesets.goals, rulesets.rules, rulesets.init_tiles)
    rulesets = jax.tree.map(jnp.asarray, rulesets)
    ranks = tuple(leaf.ndim for leaf in jax.tree.leaves(rulesets))
    require("rulesets", ranks, ranks == (2, 3, 3), "leaves of ranks (2, 3, 3), M rulesets")
    require("rulesets", len(rulesets.goal), len(rulesets.goal) > 0, "at least one")
    sample = functools.partial(_sample, rulesets)
    return FromXLand(env, params.replace(ruleset=None), sample)


def _sample(rulesets: RuleSet, key: Array) -> RuleSet:
    return draw(key, rulesets)
