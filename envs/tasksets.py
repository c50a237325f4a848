"""Fixed sets of tasks: drawn once, identified by content, saved to a file, sampled inside jit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core import Environment, require, require_integer
from .splits import content_hash, is_first
from .taskfiles import form_drawn_by, form_of, read_tasks, write_tasks

__all__ = ["TaskSet", "described"]

Array = jax.Array


# Equal to itself only: arrays compare element by element, and have no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class TaskSet:
    """M tasks of one environment; a pytree that passes through `jax.jit` as an argument.

    `sample`, `get`, `shuffle` and `side` work inside and outside jit. `filter` and `split` do not
    work inside, because how many tasks they keep depends on the tasks. Use a mask there instead,
    `sample(key, where=mask)`; `side` gives that of a split.

        tasks = TaskSet.make(env, jax.random.key(0), 1_000_000)
        train, test = tasks.split(0.9)
        problem = mj.policy_gradient(env, network, episodes=20, sample_task=train.sample)
    """

    tasks: Any  # a task, every leaf [M, ...]
    hashes: Array  # [M, 2] uint32, the `content_hash` of each task
    environment: str  # JSON, the class and fields of the environment of the tasks

    @classmethod
    def make(
        cls, env: Environment, key: Array, count: int, *, chunk: int = 8192, unique: bool = True
    ) -> TaskSet:
        """Draws `count` tasks from the environment's p(T).

        Task i is drawn from `fold_in(key, i)`, so a larger set from the same key begins with the
        smaller one.

        Args:
          env: the environment.
          key: typed.
          count: how many tasks are drawn.
          chunk: tasks drawn at once; it does not affect the result (beyond rounding, for tasks
            computed in floating point).
          unique: whether only the first of equal tasks is kept, so that M may be below `count`.

        Raises:
          ValueError: a key that is not one typed key, a count or a chunk below 1, or tasks that
            hold anything but bools and numbers.
        """
        dtype, shape = getattr(key, "dtype", np.dtype(object)), np.shape(key)
        one = jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
        got = f"{dtype} {list(shape)}" if hasattr(key, "dtype") else key
        require("key", got, one, "one typed key, as `jax.random.key(0)` makes")
        require_integer("count", count, 1, 2**31 - 1)
        require_integer("chunk", chunk, 1)
        form_of(form_drawn_by(env.sample_task))
        chunk = min(chunk, count)

        def draw(index: Array) -> tuple[Any, Array]:
            task = env.sample_task(jax.random.fold_in(key, index))
            return task, content_hash(task)

        # Whole chunks: `lax.map` compiles a second program for a remainder.
        indices = jnp.arange(-(-count // chunk) * chunk, dtype=jnp.uint32)
        tasks, hashes = jax.jit(lambda: jax.lax.map(draw, indices, batch_size=chunk))()
        kept = np.arange(count)
        if unique:
            words = np.asarray(hashes)[:count].view(np.uint64)
            kept = np.sort(np.unique(words, return_index=True)[1])
        return cls(tasks, hashes, described(env))._keep(kept)

    @classmethod
    def of(cls, env: Environment, tasks: Any) -> TaskSet:
        """A set of the given tasks, a list of them or one pytree whose every leaf is [M, ...].

        Only their form is checked. Whether levels can be solved, `check` of a maze or a gridworld
        says.

        Raises:
          ValueError: no tasks, or tasks whose leaves are not those that `env.sample_task` draws.
        """
        expected = form_of(form_drawn_by(env.sample_task))
        if isinstance(tasks, list):
            require("tasks", tasks, len(tasks) > 0, "one or more")
            for index, task in enumerate(tasks):
                require(f"task {index}", form_of(task), form_of(task) == expected, str(expected))
            tasks = jax.tree.map(lambda *leaves: np.stack(leaves), *tasks)
        found = form_of(tasks)
        count = next(iter(found[0][2]), 0)
        expected = [[name, dtype, [count, *shape]] for name, dtype, shape in expected]
        require("tasks", found, found == expected and count > 0, f"one or more of {expected}")
        return cls(tasks, _hashes(tasks), described(env))

    @classmethod
    def load(cls, path: str | Path, like: Any) -> TaskSet:
        """Reads what `save` wrote.

        Args:
          path: the file.
          like: the environment of the tasks, with the fields they were drawn with; or one task
            (arrays or `ShapeDtypeStruct`s), which accepts tasks of the same form from any
            environment, such as one that differs in what is observed.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is not a task set, is damaged, has another format version, or holds
            tasks of another environment.
        """
        is_env = hasattr(like, "sample_task")
        form = form_drawn_by(like.sample_task) if is_env else like
        tasks, environment = read_tasks(path, form, described(like) if is_env else None)
        return cls(tasks, _hashes(tasks), environment)

    def save(self, path: str | Path) -> None:
        """Writes the set as one npz file, atomically; see `taskfiles` for the format.

        Raises:
          ValueError: an empty set, or a leaf that does not hold bools or numbers.
        """
        write_tasks(path, self.tasks, self.environment)

    def __len__(self) -> int:
        return self.hashes.shape[0]

    def sample(self, key: Array, where: Array | None = None) -> Any:
        """One task, drawn uniformly: a replacement for `env.sample_task`.

        A set that a jitted function does not take as an argument becomes a constant of its program:
        a million mazes add a second of compilation, and no program holds more than 2 GB.

        Args:
          key: typed, consumed.
          where: bool [M], the tasks to draw from, all by default. If none is true, the last task.

        Raises:
          ValueError: an empty set, or a mask that is not bool [M].
        """
        if where is None:
            return self.get(jax.random.randint(key, (), 0, len(self), jnp.int32))
        self._require_mask("where", where)
        upto = jnp.cumsum(where, dtype=jnp.int32)
        ticket = jax.random.randint(key, (), 0, jnp.maximum(upto[-1], 1), jnp.int32)
        return self.get(jnp.searchsorted(upto, ticket, side="right"))

    def get(self, index: int | Array) -> Any:
        """Task `index`, or the tasks at an array of indices, which are clipped to the range.

        Raises:
          ValueError: an empty set, or a Python integer out of range.
        """
        require("tasks", len(self), len(self) > 0, "a set that is not empty")
        if isinstance(index, int):
            require_integer("index", index, -len(self), len(self) - 1)
        return jax.tree.map(lambda leaf: leaf[index], self.tasks)

    def shuffle(self, key: Array) -> TaskSet:
        """The same tasks in a random order."""
        order = jax.random.permutation(key, len(self))
        tasks, hashes = jax.tree.map(lambda leaf: leaf[order], (self.tasks, self.hashes))
        return TaskSet(tasks, hashes, self.environment)

    def filter(self, keep: Array | Callable[[Any], Array], *, chunk: int = 8192) -> TaskSet:
        """The tasks where `keep` holds, in the same order.

        Args:
          keep: bool [M], or a function from one task to bool ().
          chunk: tasks that the function is mapped over at once.

        Raises:
          ValueError: a mask that is not bool [M].
        """
        if callable(keep):
            test = keep
            keep = jax.jit(lambda tasks: jax.lax.map(test, tasks, batch_size=chunk))(self.tasks)
        mask = np.asarray(keep)
        self._require_mask("keep", mask)
        return self._keep(np.flatnonzero(mask))

    def split(self, share: float, *, salt: int = 0) -> tuple[TaskSet, TaskSet]:
        """Two sets without a task in common; the first has about `share` of the tasks.

        A task's side depends only on its content, `share` and `salt`; equal tasks share it. Raising
        the share only adds tasks to the first set. A different salt gives a different split: use
        one for the second of two nested splits.

        Raises:
          ValueError: a share outside [0, 1], or a salt that is not an unsigned 32-bit integer.
        """
        first = np.asarray(self.side(share, salt=salt))
        return self._keep(np.flatnonzero(first)), self._keep(np.flatnonzero(~first))

    def side(self, share: float, *, salt: int = 0) -> Array:
        """Whether each task is in the first set of `split(share, salt=salt)`: bool [M].

        Raises:
          ValueError: as `split`.
        """
        require("share", share, 0 <= share <= 1, "a number from 0 to 1")
        require_integer("salt", salt, 0, 2**32 - 1)
        return is_first(self.hashes, share, salt)

    def _require_mask(self, name: str, mask: Any) -> None:
        form = f"{jnp.result_type(mask)} {list(np.shape(mask))}"
        require(name, form, form == f"bool [{len(self)}]", f"bool [{len(self)}]")

    def _keep(self, indices: np.ndarray) -> TaskSet:
        # In numpy, so that nothing is compiled for a number of tasks that occurs once.
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[indices]), self)


jax.tree_util.register_dataclass(
    TaskSet, data_fields=["tasks", "hashes"], meta_fields=["environment"]
)


_hashes = jax.jit(jax.vmap(content_hash))


def described(env: Any) -> str:
    """An environment as JSON: its class and its fields, nested environments included.

    Numbers of numpy are as those of Python, functions are told by their names.
    """
    return json.dumps(_description(env), sort_keys=True)


def _description(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _description(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, list | tuple):
        return [_description(item) for item in value]
    if isinstance(value, np.floating):
        return float(str(value))  # float32's .3 is .3, not the double nearest to it
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str | int | float | None):
        return value
    return getattr(value, "__qualname__", type(value).__name__)
