"""Random Markov decision processes of a few states and actions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from .core import (
    Discrete,
    OneHot,
    TimeStep,
    first_timestep,
    pytree_dataclass,
    require_action,
    require_integer,
)
from .grids import mark
from .value_iteration import value_iteration

__all__ = ["TabularMDP", "TabularMDPState", "TabularMDPTask"]

Array = jax.Array


@pytree_dataclass
class TabularMDPTask:
    """One decision process, as `TabularMDP.reset` and `TabularMDP.step` take it."""

    transition: Array  # [states, actions, states] float32, the probability of each next state
    reward: Array  # [states, actions] float32, the mean reward of an action in a state
    horizon: Array  # () int32, steps before an episode is truncated


@pytree_dataclass
class TabularMDPState:
    """The state of one episode."""

    state: Array  # () int32, the state of the process
    steps: Array  # () int32, steps taken


@dataclasses.dataclass(frozen=True)
class TabularMDP:
    """A random decision process of few states, with noisy rewards: RL²'s tabular MDPs.

    Duan et al. 2016 (arXiv 1611.02779), section 3.2.

    Observation: uint8 [states], the state, one-hot.
    Action: int32 () in 0..actions - 1.
    Reward: float32 (), normal with standard deviation 1 around the task's mean for the action and
      the state it was taken in.
    Termination: never. Truncation: after `task.horizon` steps.
    Task: `TabularMDPTask`. State: `TabularMDPState`.

    p(T): each row of transitions from Dirichlet(1, ..., 1), each mean reward from N(1, 1). Episodes
    start in state 0.

    Raises:
      ValueError: states, actions or a horizon below 1, or an action that does not fit (while
        tracing).
    """

    states: int = 10
    actions: int = 5
    horizon: int = 10  # steps of an episode, in the tasks that `sample_task` draws

    def __post_init__(self) -> None:
        require_integer("states", self.states, 1)
        require_integer("actions", self.actions, 1)
        require_integer("horizon", self.horizon, 1)

    @property
    def observation_space(self) -> OneHot:
        return OneHot(self.states)

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.actions)

    @property
    def max_horizon(self) -> int:
        return self.horizon

    def sample_task(self, key: Array) -> TabularMDPTask:
        key_transition, key_reward = jax.random.split(key)
        pairs = (self.states, self.actions)
        # Normalised exponentials are distributed as Dirichlet(1, ..., 1).
        weights = jax.random.exponential(key_transition, (*pairs, self.states), jnp.float32)
        transition = weights / jnp.sum(weights, axis=-1, keepdims=True)
        reward = 1.0 + jax.random.normal(key_reward, pairs, jnp.float32)
        return TabularMDPTask(transition, reward, jnp.array(self.horizon, jnp.int32))

    def observed_row(self, state: TabularMDPState, task: TabularMDPTask) -> Array:
        """The index of the 1 in the observation of a state, () int32."""
        del task
        return state.state

    def reset(self, key: Array, task: TabularMDPTask) -> tuple[TabularMDPState, TimeStep]:
        del key, task
        start = jnp.array(0, jnp.int32)
        return TabularMDPState(start, jnp.array(0, jnp.int32)), first_timestep(self._observe(start))

    def step(
        self, key: Array, state: TabularMDPState, action: Array, task: TabularMDPTask
    ) -> tuple[TabularMDPState, TimeStep]:
        require_action(self.action_space, action)
        key_reward, key_next = jax.random.split(key)
        reward = task.reward[state.state, action] + jax.random.normal(key_reward, (), jnp.float32)
        # Scaled to the sum, which rounding leaves only near 1, so that a state of probability 0 is
        # never drawn.
        reached = jnp.cumsum(task.transition[state.state, action])
        share = jax.random.uniform(key_next, (), jnp.float32) * reached[-1]
        following = jnp.sum(reached <= share, dtype=jnp.int32)
        steps = state.steps + 1
        timestep = TimeStep(
            self._observe(following),
            reward,
            terminated=jnp.array(False),
            truncated=steps >= task.horizon,
        )
        return TabularMDPState(following, steps), timestep

    def optimal_return(self, task: TabularMDPTask) -> Array:
        """The value of the start state with the whole horizon to go, () float32."""
        return jnp.max(value_iteration(task.transition, task.reward, horizon=task.horizon)[0])

    def optimal_action(self, state: TabularMDPState, task: TabularMDPTask) -> Array:
        """The best action for the steps that remain, () int32. Each call runs value iteration."""
        left = jnp.maximum(task.horizon - state.steps, 1)  # any action, after the last step
        values = value_iteration(task.transition, task.reward, horizon=left)
        return jnp.argmax(values[state.state]).astype(jnp.int32)

    def _observe(self, state: Array) -> Array:
        return mark(state, self.states).astype(jnp.uint8)
