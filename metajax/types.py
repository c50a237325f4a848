"""The vocabulary of the engine: what is learned over, what learns, and the axis legend.

Axis legend, used in every docstring and comment of the package:
    N tasks, K inner steps, B episodes or parallel environments per task, T time, A actions,
    O observation features. Functions are written for ONE task; `mapping.py` alone adds N.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax

__all__ = [
    "Divergence",
    "Hyperparameter",
    "MetaLearner",
    "MetaState",
    "Problem",
    "Trace",
    "pytree_dataclass",
]

Array = jax.Array
Params = Any  # a pytree of float arrays
Batch = Any  # what `Problem.collect` returns
T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are all pytree children."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


class Hyperparameter(NamedTuple):
    """A number that a problem's functions use, and that may be meta-learned."""

    name: str
    value: float
    high: float = math.inf  # it is meta-learned between 0 and this, neither included
    # Of one that acts in sampling, so that `collect` takes it by name, not `inner_loss`: batch,
    # value () -> () mean log-probability of the actions that it had a part in.
    log_prob: Callable[[Any, Array], Array] | None = None


class Divergence(NamedTuple):
    """How far a policy is from the one that collected a batch, 0 where it is that one.

    In two parts, of which the second one knows no network: least where the outputs are those that
    collected, it has no slope there, and so the Hessian by the parameters is that by the outputs
    between two Jacobians of the first part (Gauss-Newton).
    """

    outputs: Callable[[Params, Batch], Any]  # params, batch -> a pytree of float arrays
    of_outputs: Callable[[Any, Batch], Array]  # those outputs, batch -> ()

    def __call__(self, params: Params, batch: Batch) -> Array:
        """The divergence of `params`, ()."""
        return self.of_outputs(self.outputs(params, batch), batch)

    def hessian_product(self, params: Params, batch: Batch, vector: Params) -> Params:
        """∇²D(params) · `vector`, where `params` collected the batch."""
        at, pull = jax.vjp(lambda params: self.outputs(params, batch), params)
        # The transpose of reverse mode, as a network may define no forward mode of its own. Where
        # it rounds both operands of its products, this rounds one.
        along = jax.linear_transpose(lambda image: pull(image)[0], at)(vector)[0]
        slope = jax.grad(lambda outputs: self.of_outputs(outputs, batch))
        return pull(jax.jvp(slope, (at,), (along,))[1])[0]


class Problem(NamedTuple):
    """What a meta-learner learns over. No meta-learner knows which kind of problem it has.

    Every function is pure and written for one task.
    """

    sample_task: Callable[[Array], Any]  # key -> task
    init: Callable[[Array], Params]  # key -> params
    collect: Callable[[Params, Any, Array], Batch]  # params, task, key -> batch; no gradient flows
    inner_loss: Callable[..., tuple[Array, Any]]  # params, batch -> (), aux; its gradient adapts
    outer_loss: Callable[[Params, Batch], tuple[Array, Any]]  # judges the adaptation -> (), aux
    score: Callable[[Batch], Array]  # -> (), higher is better: what people read
    query: Callable[[Params, Any, Array], Batch] | None = None  # held-out data of a supervised task
    samples: Callable[[Batch], Array] = lambda batch: jax.numpy.int32(
        0
    )  # environment steps or examples
    log_prob: Callable[[Params, Batch], Array] | None = None  # -> () mean over the steps sampled
    # What `inner_loss` (or `collect`) also takes by name: arrays () in the place of these values.
    hyper: tuple[Hyperparameter, ...] = ()
    # Of a batch that other parameters collected: both losses at once, the probability ratio clipped
    # where a number is given, and the mean KL divergence of their policy from that of `params`.
    ratio_loss: Callable[[Params, Batch, float | None], tuple[Array, Any]] | None = None
    divergence: Divergence | None = None
    # Whether `inner_loss` takes `target` by name: parameters that its targets are computed from.
    # Without it they are constants, as an inner step has them, of `params`.
    bootstraps: bool = False
    # Of a batch of episodes: what each step was, (T, B, F), and where that is known, (T, B). Then
    # `inner_loss` takes `bonus` by name, (T, B): what to add to the advantages.
    transitions: Callable[[Batch], tuple[Array, Array]] | None = None

    @property
    def on_policy(self) -> bool:
        """Whether each inner step collects its own batch.

        Where a problem has a `query` it is supervised: the support batch is drawn once, every inner
        step descends on it, and the query batch judges. Otherwise the batch collected after the
        last inner step judges.
        """
        return self.query is None


@pytree_dataclass
class MetaState:
    """What a meta-learner carries from one update to the next, and what a checkpoint keeps."""

    params: Params  # meta-parameters
    opt_state: Any  # of the outer optimiser
    step: Array  # () int32, updates done
    key: Array  # () typed key, constant over a run: update i draws from fold_in(key, i)
    weighting: Any = ()  # of the weights of groups of tasks, see `groups`


@pytree_dataclass
class Trace:
    """What one task's adaptation went through."""

    # (K+1,) float32, before the first inner step, ..., after the last; in training those two alone
    score: Array
    samples: Array  # () int32, environment steps or examples used, the judging batch included


class MetaLearner(NamedTuple):
    """An algorithm: a factory's three pure functions.

    `update` is the whole inner-plus-outer step; jit it, scan it, donate its state.
    """

    init: Callable[[Array], MetaState]  # key -> state
    update: Callable[[MetaState], tuple[MetaState, dict[str, Array]]]  # state -> state, metrics
    adapt: Callable[
        [Params, Any, Array], tuple[Params, Trace]
    ]  # params, task, key -> adapted, trace
