"""Evaluation: adapt to fresh tasks, or to given ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_leaves_with_path

from . import inner
from . import mapping as mapping_
from .checks import require_integer, require_jit
from .compiling import compiler_options, plain
from .programs import NOWHERE, Shelf, remembered
from .scores import Adaptation
from .streams import heldout_keys
from .types import Adapt, MetaLearner, Params, Problem, require_params

__all__ = ["evaluate", "evaluator"]


def _given(tasks: Any, problem: Problem) -> tuple[int, Any]:
    """How many tasks there are to be, and they themselves, if they are given.

    Raises:
        ValueError: neither a number of tasks nor tasks of the problem.
    """
    leaves = jax.tree.leaves(tasks)
    if all(np.ndim(leaf) == 0 for leaf in leaves):
        require_integer("tasks", tasks, 1)
        return int(tasks), None

    def form(tree: Any, *axes: int) -> Any:
        return jax.tree.map(lambda leaf: ((*axes, *np.shape(leaf)), jnp.result_type(leaf)), tree)

    count = len(leaves[0]) if np.ndim(leaves[0]) else 0
    one = jax.eval_shape(problem.sample_task, jax.random.key(0))
    if not count or form(tasks) != form(one, count):
        raise ValueError(
            "tasks: expected a number of them, or tasks of the problem as one pytree, each leaf "
            f"with a leading axis, as `envs.TaskSet` has in its `tasks`, got {type(tasks).__name__}"
        )
    return count, tasks


def _require_params(learner: MetaLearner, params: Params) -> None:
    """Raises ValueError unless `params` have the structure and the shapes of the learner's own."""
    own = jax.eval_shape(learner.init, jax.random.key(0)).params
    expected, got = (
        {inner.path_of(path): np.shape(leaf) for path, leaf in tree_leaves_with_path(tree)}
        for tree in (own, params)
    )
    for name in expected | got:
        form, found = expected.get(name, "none"), got.get(name, "none")
        if form != found:
            raise ValueError(f"params: expected {form} for {name or 'them'}, got {found}")


def evaluator(
    learner: MetaLearner | Adapt,
    problem: Problem,
    *,
    tasks: Any = 256,
    seed: int = 0,
    oracle: Callable[[Any], jax.Array] | None = None,
    mapping: mapping_.Mapping | None = None,
    shelf: Shelf = NOWHERE,
) -> Callable[[Params], Adaptation]:
    """Compiles `evaluate` once, for several parameters of one learner.

    All of them adapt to the same tasks with the same keys, so that their scores are comparable
    task by task.

    Args:
        learner: as in `evaluate`.
        problem: where the tasks come from: only its `sample_task` is used. Batches are those of
            the problem that `learner` was made from.
        tasks: how many to draw, or given ones, as in `evaluate`. Task i of a seed is the same,
            however many there are (but for an RNG of jax whose `split` depends on it:
            `jax_threefry_partitionable` off).
        seed: of the held-out stream, whose keys training never uses.
        oracle: task -> () the best score possible, where it is known: of an episode, where scores
            are of a trial's episodes one by one, as in `rl2`: `trial.env.optimal_return`.
        mapping: how tasks are laid out on hardware; None for one device.
        shelf: where the program is loaded from and stored, see `programs`. Its description must
            cover all that determines the program, except `seed` and the number of tasks.

    Returns:
        Meta-parameters -> their scores, before and after each inner step.

    Raises:
        ValueError: `tasks` is less than 1, or not shaped as those of the problem, or `seed` out of
            range, no learner, no Problem, or an oracle that is no function; when called, a
            MetaState in the place of its parameters, parameters of another learner, or an oracle
            that is not one number for a task.
    """
    require_jit("evaluate")
    inner.check_outer(problem)
    count, given = _given(tasks, problem)
    if not (oracle is None or callable(oracle)):
        raise ValueError(f"oracle: expected a function of a task, got {oracle!r}")
    if not (isinstance(learner, MetaLearner) or callable(learner)):
        got = type(learner).__name__
        raise ValueError(f"learner: expected a MetaLearner, or its `adapt`, got {got}")
    mapping = mapping_.Mapping() if mapping is None else mapping
    mapping_.check_mapping(mapping)
    adapt = learner.adapt if isinstance(learner, MetaLearner) else learner
    keys = heldout_keys(seed)[:2]
    # Devices get equal shares; surplus tasks are adapted to and dropped.
    rounded = -(-count // mapping.devices) * mapping.devices
    origins, key_adapt = (jax.random.split(key, rounded) for key in keys)
    if given is not None:
        origins = jax.tree.map(lambda leaf: jnp.asarray(leaf)[np.arange(rounded) % count], given)

    def one_task(params: Params, origin_and_key: tuple[Any, jax.Array]) -> tuple[Any, ...]:
        origin, key_adapt = origin_and_key
        task = problem.sample_task(origin) if given is None else origin
        _, trace = adapt(params, task, key_adapt)
        best = jnp.float32(0) if oracle is None else oracle(task)
        if jnp.shape(best) != ():
            raise ValueError(f"oracle: expected one number for a task, got {jnp.shape(best)}")
        return trace.score, trace.samples, best

    # Every process reads the scores of all tasks.
    traced = jax.jit(
        mapping_.map_tasks(one_task, mapping),
        out_shardings=mapping.everywhere,
        keep_unused=True,
        compiler_options=compiler_options(),
    )
    compiled: dict[str, jax.stages.Compiled] = {}

    def program(*args: Any) -> Any:
        # Tasks may be keys themselves: whether they are given cannot be seen in their type.
        of_tasks = "drawn" if given is None else "given"
        form = f"evaluation of tasks {of_tasks} {jax.tree.map(jax.typeof, args)}"
        if form not in compiled:
            compiled[form] = found(form, *args)
        return compiled[form](*args)

    def found(form: str, *args: Any) -> jax.stages.Compiled:
        if shelf == NOWHERE:
            others = (plain(problem.sample_task), oracle, mapping)  # equal for all of one `env`
            return remembered(adapt, form, others, lambda: traced.lower(*args).compile())
        kept = shelf.take(form, *args)
        return kept[0] if kept else shelf.compile(form, traced.lower(*args))

    def run(params: Params) -> Adaptation:
        require_params(params)
        if isinstance(learner, MetaLearner):
            _require_params(learner, params)
        # Parameters may be on the devices they were trained on; the program needs them on its own.
        out = program(jax.device_get(params), (origins, key_adapt))
        score, samples, best = (np.asarray(x)[:count] for x in out)
        return Adaptation(score, samples, None if oracle is None else best)

    return run


def evaluate(
    learner: MetaLearner | Adapt,
    params: Params,
    problem: Problem,
    *,
    tasks: Any = 256,
    seed: int = 0,
    oracle: Callable[[Any], jax.Array] | None = None,
    mapping: mapping_.Mapping | None = None,
) -> Adaptation:
    """Adapts `params` to fresh tasks, drawn with keys that training never uses, or to given ones.

    ```python
    adaptation = mj.evaluate(learner, state.params, problem, tasks=256)
    adaptation.mean, adaptation.ci95      # (K+1,), (K+1, 2): after 0..K inner steps
    adaptation.score                      # (256, K+1): task by task
    mj.evaluate(learner, state.params, problem, tasks=task_set.tasks)  # each of an `envs.TaskSet`
    ```

    Args:
        learner: its `adapt` decides how many inner steps are taken; or such a function, as
            `adaptation` makes it for another number of steps.
        params: meta-parameters, such as those of a `MetaState`.
        problem: where the tasks come from: only its `sample_task` is used. Batches are those of
            the problem that `learner` was made from; for another environment, or other episodes,
            make one of that: `mj.adaptation(other, inner)`.
        tasks: how many to draw; or the tasks themselves, a pytree whose every leaf is (N, ...),
            each of which is adapted to once.
        seed: of the held-out stream, which also has the keys that given tasks are adapted with.
        oracle: task -> () the best score possible, where it is known: of an episode, where scores
            are of a trial's episodes one by one, as in `rl2`: `trial.env.optimal_return`.
        mapping: how tasks are laid out on hardware; None for one device.

    Returns:
        The scores, before and after each inner step.

    Raises:
        ValueError: see `evaluator`.
    """
    run = evaluator(learner, problem, tasks=tasks, seed=seed, oracle=oracle, mapping=mapping)
    return run(params)
