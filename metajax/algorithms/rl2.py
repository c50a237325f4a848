"""RL² (Duan et al. 2016, arXiv 1611.02779): a policy whose memory is what adapts to a task."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..checks import require_integer, require_key, require_number
from ..compiling import standalone
from ..inner import check_outer, descend
from ..mapping import TILE, Mapping, check_layout, map_tasks, mean_over_tasks, tile_size
from ..problems import Trajectories
from ..returns import normalise
from ..types import MetaLearner, MetaState, Params, Problem, Trace, require_params
from .core import initialiser, task_keys

__all__ = ["rl2"]

Array = jax.Array

# Trials whose memories go on together at least: each step reads the recurrent weights for all of
# them once, which is worth more than what then leaves the cache.
_COLUMNS = 4


def rl2(
    problem: Problem,
    outer: optax.GradientTransformation,
    tasks: int,
    *,
    epochs: int = 4,
    minibatches: int = 4,
    clip: float = 0.2,
    mapping: Mapping = Mapping(),
) -> MetaLearner:
    """Maximises the return of whole trials, of several episodes each, by PPO.

    A policy with a memory that observes its actions, rewards and where episodes end learns to
    explore a task and to use what it found: adapting is playing on. One update collects a batch of
    trials for each of N tasks, and takes `epochs` times `minibatches` outer steps on them with the
    clipped probability ratio (Schulman et al. 2017, arXiv 1707.06347). Advantages have zero mean
    and unit standard deviation over the steps of all tasks. A minibatch is the same tasks in every
    epoch, so that no task changes device.

    Args:
        problem: a policy-gradient problem on an `envs.Trial`, of a policy with memory, such as
            `recurrent.gru_policy`, with the baseline "critic". Its `normalise_advantage` and
            `surrogate` are not used.
        outer: the outer optimiser, which takes `epochs` times `minibatches` steps per update.
        tasks: N, tasks per update.
        epochs: passes over an update's trials.
        minibatches: into how many the tasks are divided.
        clip: ε, how far the probability ratio may move from 1.
        mapping: how tasks are laid out on hardware. `chunk` is for playing; `tile` is the tasks
            whose gradient is taken at once. The trials of all tasks are alive at once.

    Returns:
        The learner. Its `adapt` plays a task's trials, returns the parameters as they are, and in
        the trace the score of each episode of a trial, (E,). Metrics are those of the first and the
        last episode, "outer_loss", "entropy", "value_error" and "gradient_norm" of the last step.

    Raises:
        ValueError: an invalid size, a number out of range, or a problem that is no policy gradient
            on trials; during tracing, one without a critic.
    """
    check_outer(problem, outer)
    ratio_loss, scores = problem.ratio_loss, problem.scores
    if ratio_loss is None:
        raise ValueError("problem: RL² is for policy gradients, expected a `ratio_loss`, got None")
    if scores is None:
        raise ValueError("problem: RL² is for trials, expected an environment such as `envs.Trial`")
    for name, value in (("epochs", epochs), ("minibatches", minibatches)):
        require_integer(name, value, 1)
    require_number("clip", clip, above=True)
    check_layout(mapping, tasks)
    if tasks % (minibatches * mapping.devices):
        raise ValueError(
            f"tasks: {tasks} is not a multiple of {minibatches} minibatches on each of "
            f"{mapping.devices} devices"
        )
    a_step = tasks // minibatches

    def of_task(params: Params, key: Array) -> tuple[Trajectories, Trace]:
        key_task, key_play = jax.random.split(key)
        with jax.named_scope("sample_task"):
            task = problem.sample_task(key_task)
        batch = problem.collect(params, task, key_play)
        if not isinstance(batch, Trajectories) or batch.target is None or batch.value is None:
            raise ValueError('problem: RL² is for policy gradients with the baseline "critic"')
        # As it was before the problem put it on the scale of a single task.
        batch = dataclasses.replace(batch, advantage=batch.target - batch.value)
        return batch, Trace(scores(batch), problem.samples(batch))

    def gradient(params: Params, batch: Trajectories, weight: Array) -> tuple[Params, Any]:
        """Of the mean over the steps of a batch of trials, (T, B, ...), times `weight`."""

        def loss(params: Params) -> tuple[Array, dict[str, Array]]:
            value, metrics = ratio_loss(params, batch, clip)
            weighted = {"outer_loss": value, **metrics}
            return value * weight, jax.tree.map(lambda leaf: leaf * weight, weighted)

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, metrics

    def tile_of(params: Params, batches: Trajectories) -> int:
        """The number of tasks whose gradient is taken at once."""
        one = jax.tree.map(lambda leaf: leaf[0], batches)
        least = -(-_COLUMNS // one.mask.shape[1])
        share = a_step // mapping.devices
        return tile_size(gradient, share, mapping, params, one, jnp.ones(()), least=least)

    def update(state: MetaState) -> tuple[MetaState, dict[str, Array]]:
        batches, traces = map_tasks(of_task, mapping)(state.params, task_keys(state, tasks))
        advantage = normalise(batches.advantage, batches.mask)
        batches = dataclasses.replace(batches, advantage=advantage)
        tile = tile_of(state.params, batches)
        tiles = a_step // tile

        def arranged(leaf: Array) -> Array:
            """(N, T, B, ...) -> (minibatches, tiles, T, columns, ...), once for all epochs.

            Every minibatch has tasks of every device. The trials of a tile's tasks are so many more
            columns, as parameters are shared.
            """
            apart = leaf.reshape(tiles, tile, minibatches, *leaf.shape[1:])
            ordered = jnp.moveaxis(apart, (2, 0, 3, 1), (0, 1, 2, 3))
            return ordered.reshape(minibatches, tiles, leaf.shape[1], -1, *leaf.shape[3:])

        parts = jax.tree.map(arranged, batches)

        def of_tile(shared: tuple[Params, Array], batch: Trajectories) -> tuple[Params, Any]:
            params, steps = shared
            # The mean over tiles is that over steps: trials end at different times.
            weight = jnp.sum(batch.mask) * tiles / jnp.maximum(steps, 1.0)
            # The names tell profiles, and `plan`.
            with jax.named_scope("outer_gradient"), jax.named_scope(f"{TILE}{tile}"):
                return gradient(params, batch, weight)

        mean_gradient = mean_over_tasks(of_tile, mapping._replace(chunk=1))

        def outer_step(
            carry: tuple[Params, Any], batch: Trajectories
        ) -> tuple[tuple[Params, Any], Any]:
            params, opt_state = carry
            grads, metrics = mean_gradient((params, jnp.sum(batch.mask)), batch)
            metrics["gradient_norm"] = optax.tree.norm(grads)
            with jax.named_scope("outer_update"):
                return descend(outer, grads, opt_state, params), metrics

        def epoch(carry: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], Any]:
            carry, metrics = jax.lax.scan(outer_step, carry, parts)
            return carry, jax.tree.map(lambda leaf: leaf[-1], metrics)

        (params, opt_state), metrics = jax.lax.scan(
            epoch, (state.params, state.opt_state), length=epochs
        )
        metrics = jax.tree.map(lambda leaf: leaf[-1], metrics)
        metrics |= {
            "score_before": jnp.mean(traces.score[:, 0]),
            "score_after": jnp.mean(traces.score[:, -1]),
            "env_steps": jnp.sum(traces.samples),
        }
        return MetaState(params, opt_state, state.step + 1, state.key), metrics

    def adapt(params: Params, task: Any, key: Array) -> tuple[Params, Trace]:
        require_key(key)
        require_params(params)
        batch = problem.collect(params, task, key)
        return params, Trace(scores(batch), problem.samples(batch))

    return MetaLearner(initialiser(problem, outer.init), standalone(update), standalone(adapt))
