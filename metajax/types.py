"""The vocabulary of the engine: problems, learners, and the axis legend.

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
    "require_params",
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
    high: float = math.inf  # meta-learned strictly between 0 and this
    # If it acts in sampling, so that `collect`, not `inner_loss`, takes it by name: batch, value ()
    # -> () mean log-probability of the actions that it influenced.
    log_prob: Callable[[Any, Array], Array] | None = None


class Divergence(NamedTuple):
    """How far a policy is from the one that collected a batch; 0 if it is that one.

    It has two parts, the second without the network. That one is minimal, with gradient 0, at the
    outputs of the collecting policy, so the Hessian by the parameters is its Hessian by the outputs
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
        # Forward mode as the transpose of reverse mode, the only one that a network may define.
        # Where the network rounds both operands of a product, this rounds one.
        along = jax.linear_transpose(lambda image: pull(image)[0], at)(vector)[0]
        slope = jax.grad(lambda outputs: self.of_outputs(outputs, batch))
        return pull(jax.jvp(slope, (at,), (along,))[1])[0]


class Problem(NamedTuple):
    """What a meta-learner trains on, without knowing which kind of problem it is.

    Every function is pure and written for one task. The first six are needed; what follows them is
    what some algorithms ask for.

    Attributes:
        sample_task: key -> task.
        init: key -> params, any pytree of float arrays.
        collect: params, task, key -> batch, any pytree; no gradient flows through it.
        inner_loss: params, batch -> (), any aux; its gradient adapts. By name it also takes what
            `hyper`, `bootstraps` and `transitions` say.
        outer_loss: params, batch -> (), aux; what the adaptation is judged by. Learners report aux,
            a dict of scalars, under its names.
        score: batch -> (), higher is better: what people read.
        query: params, task, key -> held-out batch of a supervised task, see `on_policy`.
        scores: batch -> (E,), of trials of several episodes: the score of the first, ..., last one.
        samples: batch -> () int32, environment steps or examples.
        log_prob: params, batch -> () mean log-probability of the steps sampled. For `emaml`.
        hyper: what `inner_loss` (or `collect`) takes by name: arrays () that replace these values.
        ratio_loss: params, batch, clip -> (), aux: both losses for a batch that other parameters
            collected, by the probability ratio, clipped where a number is given. For `promp` and
            `maml_trpo`.
        divergence: the mean KL(the policy that collected a batch ‖ that of `params`). For the same.
        bootstraps: whether `inner_loss` takes `target` by name: parameters that its targets are
            computed from. Without it they are computed from `params` and held constant, as in an
            inner step.
        transitions: batch of episodes -> features of each step, (T, B, F), and 1 where they are
            known, (T, B). Then `inner_loss` takes `bonus` (T, B) by name, which is added to the
            advantages. For `norml`.
    """

    sample_task: Callable[[Array], Any]
    init: Callable[[Array], Params]
    collect: Callable[[Params, Any, Array], Batch]
    inner_loss: Callable[..., tuple[Array, Any]]
    outer_loss: Callable[[Params, Batch], tuple[Array, Any]]
    score: Callable[[Batch], Array]
    query: Callable[[Params, Any, Array], Batch] | None = None
    scores: Callable[[Batch], Array] | None = None
    samples: Callable[[Batch], Array] = lambda batch: jax.numpy.int32(0)
    log_prob: Callable[[Params, Batch], Array] | None = None
    hyper: tuple[Hyperparameter, ...] = ()
    ratio_loss: Callable[[Params, Batch, float | None], tuple[Array, Any]] | None = None
    divergence: Divergence | None = None
    bootstraps: bool = False
    transitions: Callable[[Batch], tuple[Array, Array]] | None = None

    @property
    def on_policy(self) -> bool:
        """Whether each inner step collects its own batch.

        With a `query`, as in supervised learning, the support batch is drawn once, every inner step
        descends on it, and the query batch judges. Otherwise the batch collected after the last
        inner step judges.
        """
        return self.query is None


@pytree_dataclass
class MetaState:
    """What a meta-learner carries from one update to the next, and what a checkpoint keeps.

    Attributes:
        params: meta-parameters.
        opt_state: of the outer optimiser.
        step: () int32, updates done.
        key: () typed key, constant over a run: update i draws from fold_in(key, i), and a
            serial learner's task j of N in it from fold_in(key, i·N + j).
        weighting: of the task groups' weights, see `groups`.
    """

    params: Params
    opt_state: Any
    step: Array
    key: Array
    weighting: Any = ()


def require_params(params: Any) -> None:
    """Raises ValueError for a state where its parameters are meant."""
    if isinstance(params, MetaState):
        raise ValueError("params: expected parameters, got a MetaState; give its `params`")


@pytree_dataclass
class Trace:
    """Scores and samples of one task's adaptation.

    Attributes:
        score: (K+1,) float32, before the first inner step, ..., after the last; in training only
            those two. Of a policy with memory (E,), of the first, ..., last episode of a trial.
        samples: () int32, environment steps or examples used, the judging batch included.
    """

    score: Array
    samples: Array


Adapt = Callable[[Params, Any, Array], tuple[Params, Trace]]
"""params, task, key -> adapted params, trace."""


class MetaLearner(NamedTuple):
    """An algorithm: a factory's three pure functions.

    Called by themselves, those of our factories are compiled. To donate a state, to scan over
    updates or to have more in one program, jit what calls them.

    Attributes:
        init: key -> state.
        update: state -> state, metrics: the whole inner-plus-outer step.
        adapt: params, task, key -> adapted params, trace.
    """

    init: Callable[[Array], MetaState]
    update: Callable[[MetaState], tuple[MetaState, dict[str, Array]]]
    adapt: Adapt
