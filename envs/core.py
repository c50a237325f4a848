"""The environment interface: spaces, time steps and the `Environment` protocol.

A task is data: a pytree of arrays that is passed to `reset` and `step`, never held by the
environment and never copied into its state. A batch of tasks is the same pytree with a leading
axis N.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol, TypeGuard, TypeVar, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "Box",
    "Discrete",
    "Environment",
    "OneHot",
    "SolvedEnvironment",
    "Space",
    "TimeStep",
    "first_timestep",
    "provides",
    "pytree_dataclass",
    "require",
    "require_action",
    "require_integer",
    "require_number",
]

Array = jax.Array
T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are all pytree children: the form of every task and state."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return jax.tree_util.register_dataclass(cls, data_fields=names, meta_fields=[])


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers 0..n-1, int32, shape ().

    Raises:
      ValueError: an n that is not an integer of at least 1.
    """

    n: int
    shape: tuple[int, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        require_integer("n", self.n, 1, 2**31 - 1)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.int32)

    def sample(self, key: Array) -> Array:
        return jax.random.randint(key, (), 0, self.n, self.dtype)

    def contains(self, value: Array | int) -> Array:
        """Whether `value` is in the space, () bool; false where shape or dtype differ.

        An integer of Python, which has no dtype, is in it if its value is.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            return jnp.asarray(0 <= value < self.n)
        if np.shape(value) != () or jnp.result_type(value) != self.dtype:
            return jnp.asarray(False)
        return jnp.asarray((value >= 0) & (value < self.n))


@dataclasses.dataclass(frozen=True)
class Box:
    """Arrays of one shape and dtype with every element in [low, high].

    Raises:
      ValueError: bounds that are not numbers, or with nothing of the dtype from the lower to the
        upper one, or a shape that is none.
    """

    low: float
    high: float
    shape: tuple[int, ...]
    dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype(np.float32))

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "shape", _lengths(self.shape))
        for name in ("low", "high"):
            value = getattr(self, name)
            number = isinstance(value, int | float | np.number) and not np.isnan(value)
            require(name, value, number, "a number")
        holds = self.low <= self.high and self.low < np.inf and self.high > -np.inf
        if holds and self._is_whole:
            low, high = self._bounds
            holds = low <= high
        bounds = (self.low, self.high)
        require("low, high", bounds, holds, f"a range with {self.dtype}s in it")

    @property
    def _is_whole(self) -> bool:
        return np.issubdtype(self.dtype, np.integer)

    @property
    def _bounds(self) -> tuple[Any, Any]:
        """The least and the greatest element: integers if those are, else in the dtype."""
        if self._is_whole:
            ends = np.iinfo(self.dtype)
            low = ends.min if self.low < ends.min else math.ceil(self.low)
            high = ends.max if self.high > ends.max else math.floor(self.high)
            return low, high
        with np.errstate(over="ignore"):  # a bound that no float32 reaches is infinite
            low, high = np.array([self.low, self.high], self.dtype)
        return low, high

    def sample(self, key: Array) -> Array:
        """Uniform in the box.

        With one bound infinite, the distance from the other is exponential, with mean 1; with both,
        floats are standard normal. Integers are uniform over those of their dtype.
        """
        low, high = self._bounds
        if self._is_whole:
            return _whole(key, self.shape, self.dtype, low, high)
        if np.isfinite(low) and np.isfinite(high):
            # Of half the size: the whole range may be wider than the greatest float.
            half = jax.random.uniform(key, self.shape, self.dtype, low / 2, high / 2)
            return half + half
        if not np.isfinite(low) and not np.isfinite(high):
            return jax.random.normal(key, self.shape, self.dtype)
        distance = jax.random.exponential(key, self.shape, self.dtype)
        return low + distance if np.isfinite(low) else high - distance

    def contains(self, value: Array) -> Array:
        """Whether `value` is in the space, () bool; false where shape or dtype differ."""
        if value.shape != self.shape or value.dtype != self.dtype:
            return jnp.asarray(False)
        low, high = (np.array(bound, self.dtype) for bound in self._bounds)
        return jnp.all((value >= low) & (value <= high))


@dataclasses.dataclass(frozen=True)
class OneHot(Box):
    """One-hot vectors, uint8 [n].

    An environment with this observation space may offer `observed_row(state, task)`, () int32, the
    index of the 1, so that a learner need not search for it. A wrapper that changes the observation
    must change `observed_row` as well.

    Raises:
      ValueError: an n that is not an integer of at least 1.
    """

    low: float = dataclasses.field(default=0, init=False)
    high: float = dataclasses.field(default=1, init=False)
    shape: tuple[int, ...] = dataclasses.field(init=False)
    dtype: np.dtype = dataclasses.field(default=np.dtype(np.uint8), init=False)
    n: int  # length of a vector

    one_hot = True  # lets a learner detect this space without importing the class

    def __post_init__(self) -> None:
        require_integer("n", self.n, 1)
        object.__setattr__(self, "shape", (self.n,))
        super().__post_init__()

    def sample(self, key: Array) -> Array:
        index = jax.random.randint(key, (), 0, self.n)
        return jax.nn.one_hot(index, self.n, dtype=self.dtype)

    def contains(self, value: Array) -> Array:
        """Whether `value` is in the space, () bool; false where shape or dtype differ."""
        inside = super().contains(value)
        return inside & (jnp.sum(value.astype(jnp.int32)) == 1)


Space = Discrete | Box


def _lengths(shape: Any) -> tuple[int, ...]:
    """A shape as a tuple."""
    whole = isinstance(shape, list | tuple) and all(
        isinstance(length, int | np.integer) and length >= 0 for length in shape
    )
    require("shape", shape, whole, "a tuple of lengths")
    return tuple(int(length) for length in shape)


def _whole(key: Array, shape: tuple[int, ...], dtype: np.dtype, low: int, high: int) -> Array:
    """Integers, uniform from `low` to `high`, both included."""
    ends = np.iinfo(dtype)
    if (low, high) == (ends.min, ends.max):
        bits = jax.random.bits(key, shape, f"uint{ends.bits}")
        return jax.lax.bitcast_convert_type(bits, dtype)
    # The upper bound of `randint` is excluded, so it has to be a number of the dtype as well.
    lift = int(high == ends.max)
    start, end = (np.array(bound - lift, dtype) for bound in (low, high + 1))
    return jax.random.randint(key, shape, start, end, dtype) + np.array(lift, dtype)


@pytree_dataclass
class TimeStep:
    """What an agent receives. After `reset`, the reward is 0 and neither end flag is set.

    Attributes:
      observation: in the environment's `observation_space`, its dtype included.
      reward: () float32, of the step that led here.
      terminated: () bool, the task itself has ended: the value from here on is 0.
      truncated: () bool, cut off by the horizon: the value from here on is not 0.
    """

    observation: Any
    reward: Array
    terminated: Array
    truncated: Array


def first_timestep(observation: Any) -> TimeStep:
    """The time step that `reset` returns: an observation, reward 0, no end flag set."""
    no = jnp.array(False)
    return TimeStep(observation, jnp.array(0.0, jnp.float32), terminated=no, truncated=no)


def require(name: str, value: Any, holds: bool, expected: str) -> None:
    """Raises a one-line error unless `holds`.

    Args:
      name: the field or argument that is checked.
      value: its value.
      holds: whether the value is valid.
      expected: what would be valid, in words.

    Raises:
      ValueError: `holds` is false.
    """
    if not holds:
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


def require_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Checks that a value is an integer from `low` to `high`; a bool is not.

    Args:
      name: the field or argument that is checked.
      value: its value.
      low: the least valid integer.
      high: the greatest valid integer; unbounded if None.

    Raises:
      ValueError: anything else.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    within = bool(whole and value >= low and (high is None or value <= high))
    bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
    require(name, value, within, f"an integer {bounds}")


def require_number(name: str, value: Any, low: float, high: float | None = None) -> None:
    """Checks that a value is a finite number from `low` to `high`; a bool is not.

    Args:
      name: the field or argument that is checked.
      value: its value.
      low: the least valid number.
      high: the greatest valid number; unbounded if None.

    Raises:
      ValueError: anything else.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    within = bool(number and low <= value <= (np.inf if high is None else high) and value < np.inf)
    bounds = f"of at least {low:g}" if high is None else f"from {low:g} to {high:g}"
    require(name, value, within, f"a number {bounds}")


def require_action(space: Space, action: Any) -> None:
    """Checks the shape of an action, and that it is integer or float as its space is.

    Any width is accepted, and values are not compared with the bounds. Works while tracing.

    Raises:
      ValueError: an action of another shape or kind.
    """
    kind = np.integer if np.issubdtype(space.dtype, np.integer) else np.floating
    fits = np.shape(action) == space.shape and jnp.issubdtype(jnp.result_type(action), kind)
    if not fits:
        came = f"{jnp.result_type(action)} {np.shape(action)}"
        raise ValueError(f"action: got {came}, expected {space.dtype} {space.shape}")


@runtime_checkable
class Environment(Protocol):
    """The environment protocol: a frozen, hashable dataclass of static fields and pure functions.

    There is no auto-reset: the caller handles the end of an episode. Stepping from a state whose
    episode has ended is allowed, but only the shapes and dtypes of the result are specified.

    What an environment may have besides, and what uses it:
      optimal_return(task): () float, the best expected return. Evaluation, as its `oracle`.
      optimal_action(state, task): in the action space. Whoever imitates it.
      tell(task): array, what `Informed` shows a policy that is told its task.
      observed_row(state, task): () int32, which of the n observations of a `OneHot` space the agent
        is given, so that it need not be built.
      picture(state, task, pixels): uint8 [H, W, 3] of at most `pixels` along a side, in numpy or
        JAX. `render`, where it does not know the environment: a run's GIF.
    """

    @property
    def observation_space(self) -> Space:
        """Of `TimeStep.observation`."""
        ...

    @property
    def action_space(self) -> Space:
        """Of what `step` takes."""
        ...

    @property
    def max_horizon(self) -> int:
        """No episode of any task has more steps than this."""
        ...

    def sample_task(self, key: Array) -> Any:
        """A task from p(T)."""
        ...

    def reset(self, key: Array, task: Any) -> tuple[Any, TimeStep]:
        """The beginning of an episode: its state, any pytree of arrays, and what is observed."""
        ...

    def step(self, key: Array, state: Any, action: Array, task: Any) -> tuple[Any, TimeStep]:
        """What an action leads to. The state keeps the shapes and dtypes that `reset` gave it."""
        ...


@runtime_checkable
class SolvedEnvironment(Environment, Protocol):
    """An environment with an oracle: all of ours except `PointCorners` and some of `MiniGrid`.

    No adapted one has one. Evaluation needs its `optimal_return` alone.
    """

    def optimal_return(self, task: Any) -> Array:
        """() float32, the greatest expected undiscounted return of an episode on a known task."""
        ...

    def optimal_action(self, state: Any, task: Any) -> Array:
        """The action of a policy that attains `optimal_return`, in the action space."""
        ...


def provides(value: Any, protocol: type[T]) -> TypeGuard[T]:
    """Whether `value` has every public member of `protocol`.

    Members that a wrapper forwards through `__getattr__` count; `isinstance` overlooks them from
    Python 3.12 on.
    """
    return all(hasattr(value, name) for name in dir(protocol) if not name.startswith("_"))
