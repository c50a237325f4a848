"""The learners of a configuration that adapts by memory: over trials of several episodes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from envs import Trial
from envs.splits import samplers

from .algorithms import rl2
from .configs import ACTIVATIONS, PRECISIONS, PolicyConfig, TrainConfig
from .learners import Learners, outer_optimizer
from .mapping import Mapping
from .problems import policy_gradient
from .recurrent import gru_policy
from .types import Adapt, MetaLearner, Params, Problem, Trace

__all__ = ["learners"]

Array = jax.Array

# Trials of a task in evaluation, whose means are its scores: a single one is mostly noise.
_JUDGING_TRIALS = 16


def learners(config: TrainConfig, mapping: Mapping) -> Learners:
    """The learners of a configuration, whose inner steps are the episodes before a trial's last.

    Joint training is the same on trials of one episode: a memory that begins anew with each.

    Raises:
        ValueError: a value out of range, or a preset that the algorithm is not for.
    """
    if not isinstance(config, PolicyConfig):
        raise ValueError(f"algorithm: {config.algorithm} is for policies, got {config.preset}")
    if not config.hidden:
        raise ValueError("hidden: expected at least the width of the memory, got none")
    env = getattr(config, "env")  # noqa: B009  (each subclass has its own kind)
    training, judging = samplers(env.sample_task, config.held_out)
    *before, memory = config.hidden
    network = gru_policy(
        env.action_space,
        memory,
        before,
        ACTIVATIONS[config.activation],
        initial_std=config.initial_std,
        action_scale=config.action_scale,
        dtype=PRECISIONS[config.precision],
    )

    def problem(episodes: int, trials: int, sample_task: Callable[[Array], Any]) -> Problem:
        return policy_gradient(
            Trial(env, episodes),
            network,
            episodes=trials,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
            baseline="critic",
            entropy=config.entropy,
            value_weight=config.value_weight,
            sample_task=sample_task,
        )

    outer = outer_optimizer(config, config.updates * config.epochs * config.minibatches)

    def learner(problem: Problem) -> MetaLearner:
        return rl2(
            problem,
            outer,
            config.tasks,
            epochs=config.epochs,
            minibatches=config.minibatches,
            clip=config.clip,
            mapping=mapping,
        )

    @functools.cache  # what is compiled of such a function is kept with it
    def evaluation(steps: int) -> Adapt:
        return learner(problem(steps + 1, _JUDGING_TRIALS, judging)).adapt

    @functools.cache
    def forgetful(steps: int) -> Adapt:
        """Plays as many episodes, each with a memory of its own."""
        one = learner(problem(1, _JUDGING_TRIALS, judging))

        def adapt(params: Params, task: Any, key: Array) -> tuple[Params, Trace]:
            keys = jax.random.split(key, steps + 1)
            trace = jax.lax.map(lambda key: one.adapt(params, task, key)[1], keys)
            return params, Trace(trace.score[:, 0], jnp.sum(trace.samples))

        return adapt

    trained = problem(config.episodes, 1, training)
    remembering = learner(trained)
    in_one_episode = config.episodes == 1  # then both are the same
    return Learners(
        training=trained,
        judging=problem(config.evaluation_steps + 1, _JUDGING_TRIALS, judging),
        learner=remembering,
        evaluation=evaluation,
        network=network,
        multitask=remembering if in_one_episode else learner(problem(1, config.episodes, training)),
        multitask_evaluation=forgetful,
    )
