"""Fixed sets of tasks: drawn once, known by their content, kept in a file, sampled inside jit.

A task's identity is a hash of its arrays. Which side of a train/test split it falls on follows from
that hash alone, so no task crosses when a set is drawn again, shuffled, filtered or extended.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .core import Environment, require, require_integer
from .taskfiles import form_of, read_tasks, write_tasks

__all__ = ["TaskSet", "content_hash", "count_sides", "sampler_of_side"]

Array = jax.Array

_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: successive multiples are far apart


@dataclasses.dataclass(frozen=True)
class TaskSet:
    """M tasks of one environment; a pytree that passes through `jax.jit` as an argument.

    `sample`, `get`, `shuffle` and `side` are for use inside jit and out. `filter` and `split` are
    not: how many tasks they keep depends on the tasks, and an array's shape cannot. Inside jit a
    mask does what they do, `sample(key, where=mask)`, and `side` is that of a split.

        tasks = TaskSet.make(env, jax.random.key(0), 1_000_000)
        train, test = tasks.split(0.9)
        problem = mj.policy_gradient(env, network, episodes=20, sample_task=train.sample)
    """

    tasks: Any  # a task, every leaf [M, ...]
    hashes: Array  # [M, 2] uint32, of each task, see `content_hash`
    environment: str  # JSON, the class and the fields of the environment that the tasks are of

    @classmethod
    def make(
        cls, env: Environment, key: Array, count: int, *, chunk: int = 8192, unique: bool = True
    ) -> TaskSet:
        """Draws `count` tasks from the environment's p(T).

        Task i is drawn from `fold_in(key, i)`: a larger set of the same key begins with the
        smaller one.

        Args:
          count: draws.
          chunk: tasks drawn at once; what is drawn does not depend on it (to rounding, for tasks
            that are computed in floating point).
          unique: keeps the first of equal tasks only, so that M may be less than `count`.

        Raises:
          ValueError: a count or a chunk below 1, or tasks that are not made of numbers.
        """
        require_integer("count", count, 1, 2**31 - 1)
        require_integer("chunk", chunk, 1)
        form_of(_form_drawn_by(env))
        chunk = min(chunk, count)

        def draw(index: Array) -> tuple[Any, Array]:
            task = env.sample_task(jax.random.fold_in(key, index))
            return task, content_hash(task)

        # Whole chunks: `lax.map` compiles a second program for a rest.
        indices = jnp.arange(-(-count // chunk) * chunk, dtype=jnp.uint32)
        tasks, hashes = jax.jit(lambda: jax.lax.map(draw, indices, batch_size=chunk))()
        kept = np.arange(count)
        if unique:
            words = np.asarray(hashes)[:count].view(np.uint64)
            kept = np.sort(np.unique(words, return_index=True)[1])
        return cls(tasks, hashes, described(env))._keep(kept)

    @classmethod
    def of(cls, env: Environment, tasks: Any) -> TaskSet:
        """The set of given tasks, every leaf [M, ...].

        Raises:
          ValueError: no tasks, or tasks that are not of the form that `env.sample_task` draws.
        """
        found, expected = form_of(tasks), form_of(_form_drawn_by(env))
        count = next(iter(found[0][2]), 0)
        expected = [[name, dtype, [count, *shape]] for name, dtype, shape in expected]
        require("tasks", found, found == expected and count > 0, f"one or more of {expected}")
        return cls(tasks, jax.jit(jax.vmap(content_hash))(tasks), described(env))

    @classmethod
    def load(cls, path: str | Path, like: Any) -> TaskSet:
        """Reads what `save` wrote.

        Args:
          like: the environment that the tasks are of, with the fields they were drawn with; or
            one task (arrays or `ShapeDtypeStruct`s), for tasks of the same form from whatever
            environment, such as one that differs in what is observed.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: it is not a task set, damaged, of a later version, or of another environment.
        """
        is_env = hasattr(like, "sample_task")
        form = _form_drawn_by(like) if is_env else like
        tasks, environment = read_tasks(path, form, described(like) if is_env else None)
        return cls(tasks, jax.jit(jax.vmap(content_hash))(tasks), environment)

    def save(self, path: str | Path) -> None:
        """Writes the set as one npz file, whole or not at all; see `taskfiles` for the format.

        Raises:
          ValueError: an empty set, or a leaf that is not of numbers.
        """
        write_tasks(path, self.tasks, self.environment)

    def __len__(self) -> int:
        return self.hashes.shape[0]

    def sample(self, key: Array, where: Array | None = None) -> Any:
        """One task, uniformly: in the place of `env.sample_task`.

        A set that a jitted function does not take as an argument is a constant of its program: a
        second of compilation more for a million mazes, and no program holds more than 2 GB.

        Args:
          where: bool [M], the tasks to draw from, all by default; if there is none, the last.

        Raises:
          ValueError: anything else than M bools.
        """
        if where is None:
            return self.get(jax.random.randint(key, (), 0, len(self), jnp.int32))
        self._require_mask("where", where)
        upto = jnp.cumsum(where, dtype=jnp.int32)
        ticket = jax.random.randint(key, (), 0, jnp.maximum(upto[-1], 1), jnp.int32)
        return self.get(jnp.searchsorted(upto, ticket, side="right"))

    def get(self, index: int | Array) -> Any:
        """Task `index`, or those at an array of indices.

        Raises:
          ValueError: a Python integer out of range. An array's elements are clipped to the range.
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
        """The tasks where `keep` holds, in their order.

        Args:
          keep: bool [M], or a function from one task to bool ().
          chunk: tasks that the function is mapped over at once.

        Raises:
          ValueError: anything else than M bools.
        """
        if callable(keep):
            test = keep
            keep = jax.jit(lambda tasks: jax.lax.map(test, tasks, batch_size=chunk))(self.tasks)
        mask = np.asarray(keep)
        self._require_mask("keep", mask)
        return self._keep(np.flatnonzero(mask))

    def split(self, share: float, *, salt: int = 0) -> tuple[TaskSet, TaskSet]:
        """Two sets without a task in common; the first has about `share` of the tasks.

        A task's side is a function of its content, `share` and `salt` only; equal tasks share it.
        With a greater share the first set only gains tasks. Another salt is another split: give
        one to the second of two nested splits.

        Raises:
          ValueError: a share outside [0, 1], or a salt that is not an integer of 32 bits.
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
        bound = round(share * 2**32)
        if bound == 2**32:
            return jnp.ones((len(self),), bool)
        return _place(self.hashes, salt) < jnp.uint32(bound)

    def _require_mask(self, name: str, mask: Any) -> None:
        form = f"{jnp.result_type(mask)} {list(np.shape(mask))}"
        require(name, form, form == f"bool [{len(self)}]", f"bool [{len(self)}]")

    def _keep(self, indices: np.ndarray) -> TaskSet:
        # By numpy: nothing is compiled for a number of tasks that comes once.
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[indices]), self)


jax.tree_util.register_dataclass(
    TaskSet, data_fields=["tasks", "hashes"], meta_fields=["environment"]
)


def content_hash(task: Any) -> Array:
    """64 bits that identify one task's content: (2,) uint32.

    Of the bits of every leaf, its dtype and its shape, in the order of the leaves; -0.0 is not 0.0.
    Integer arithmetic only, so it is the same on every platform, under jit and vmap or not.

    Two different tasks share a hash with a chance of about 2^-64, so among a million some pair does
    with a chance of 3e-8; they would count as one task. It is not made to withstand an adversary.

    Each 32-bit word is encrypted by its place and they are added up, twice with different keys.
    """
    leaves = jax.tree.leaves(task)
    form = json.dumps([[str(leaf.dtype), list(leaf.shape)] for leaf in leaves])
    seeds = np.frombuffer(hashlib.sha256(form.encode()).digest()[:8], "<u4").astype(np.uint32)
    sums = jnp.asarray(seeds)
    first = 0
    for words in map(_words, leaves):
        place = np.arange(first, first + words.size, dtype=np.uint32)
        keys = _mixed(place * np.uint32(_GOLDEN) ^ seeds[:, None])
        sums += jnp.sum(_mixed(words ^ keys), axis=-1, dtype=jnp.uint32)
        first += words.size
    return _mixed(sums ^ _mixed(sums[::-1]))


def sampler_of_side(
    sample_task: Callable[[Array], Any], share: float, *, first: bool, salt: int = 0
) -> Callable[[Array], Any]:
    """A `sample_task` that draws from one side of a split alone: key -> task.

    The sides are those of `TaskSet.split(share, salt=salt)`, so what is learned from one is judged
    on tasks of the other that it has never seen. The task is the first of the side among so many
    draws that there is none with a chance below 1e-9. Where p(T) has so few tasks that a side is
    empty, it is of the other side: `count_sides` says so beforehand.

    Raises:
      ValueError: a share outside (0, 1), or a salt that is not an integer of 32 bits.
    """
    require("share", share, 0 < share < 1, "a number between 0 and 1")
    require_integer("salt", salt, 0, 2**32 - 1)
    draws = math.ceil(math.log(1e-9) / math.log(1 - share if first else share))
    bound = min(round(share * 2**32), 2**32 - 1)

    # One by one: a batch of draws within a batch of tasks takes twice as long to compile, and most
    # of the draws are not needed.
    def sample(key: Array) -> Any:
        keys = jax.random.split(key, draws)

        def missed(carry: tuple[Array, Array, Any]) -> Array:
            drawn, found, _ = carry
            return ~found & (drawn < draws)

        def draw(carry: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
            drawn, _, _ = carry
            task = sample_task(keys[drawn])
            place = _place(content_hash(task), salt)
            return drawn + 1, (place < jnp.uint32(bound)) == first, task

        form = jax.eval_shape(sample_task, key)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)
        return jax.lax.while_loop(missed, draw, (jnp.int32(0), jnp.array(False), nothing))[2]

    return sample


def count_sides(
    sample_task: Callable[[Array], Any], share: float, *, salt: int = 0, draws: int = 2048
) -> tuple[int, int]:
    """How many of `draws` tasks are of the first side of a split, and of the second.

    Args:
      sample_task: key -> task.
      share: of the first side, as in `sampler_of_side`.
      salt: likewise.
      draws: how many tasks are drawn.
    """
    bound = min(round(share * 2**32), 2**32 - 1)

    def is_first(key: Array) -> Array:
        return _place(content_hash(sample_task(key)), salt) < jnp.uint32(bound)

    keys = jax.random.split(jax.random.key(0), draws)
    first = int(jnp.sum(jax.jit(jax.vmap(is_first))(keys), dtype=jnp.int32))
    return first, draws - first


def _place(hashes: Array, salt: int) -> Array:
    """Where tasks of these hashes [..., 2] stand in the order that splits them, uint32 [...]."""
    low, high = hashes[..., 0], hashes[..., 1]
    # An array of one: numpy warns where a lone number overflows.
    (salted,) = _mixed(np.array([salt], np.uint32))
    return _mixed(low ^ _mixed(high ^ salted))


def _words(leaf: Array) -> Array:
    """The bits of an array in 32-bit words, [1, words] uint32; a small element fills one."""
    bits = leaf.ravel()
    if bits.dtype != bool:
        bits = jax.lax.bitcast_convert_type(bits, f"uint{8 * leaf.dtype.itemsize}")
    words = [bits.astype(jnp.uint32)]
    if leaf.dtype.itemsize == 8:
        words.append((bits >> 32).astype(jnp.uint32))
    return jnp.concatenate(words)[None]


def _mixed(words: Any) -> Any:
    """A bijection of 32-bit words in which each bit depends on all: Wellons' lowbias32."""
    words = words ^ words >> np.uint32(16)
    words = words * np.uint32(0x7FEB352D)
    words = words ^ words >> np.uint32(15)
    words = words * np.uint32(0x846CA68B)
    return words ^ words >> np.uint32(16)


def _form_drawn_by(env: Environment) -> Any:
    return jax.eval_shape(env.sample_task, jax.random.key(0))


def described(env: Any) -> str:
    """An environment as JSON: its class and fields, those of the environments in it likewise."""
    return json.dumps(_description(env), sort_keys=True)


def _description(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _description(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, list | tuple):
        return [_description(item) for item in value]
    return value if isinstance(value, str | int | float | None) else type(value).__name__
