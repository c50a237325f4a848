"""Arms that pay 0 or 1."""

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

__all__ = ["BanditState", "BanditTask", "BernoulliBandit"]

Array = jax.Array


@pytree_dataclass
class BanditTask:
    """One bandit: what `BernoulliBandit.reset` and `BernoulliBandit.step` are told."""

    probability: Array  # [arms] float32, of each arm that it pays
    horizon: Array  # () int32, pulls before an episode is truncated


@pytree_dataclass
class BanditState:
    """How much of one episode is over."""

    steps: Array  # () int32, pulls taken


@dataclasses.dataclass(frozen=True)
class BernoulliBandit:
    """Arms that pay 0 or 1 with unseen probabilities: RL²'s bandits.

    Duan et al. 2016 (arXiv 1611.02779), section 3.1.

    Observation: uint8 (1,), always 1: which of one state it is in, one-hot.
    Action: int32 () in 0..arms - 1, the arm to pull.
    Reward: float32 (), 1 with the arm's probability, else 0.
    Termination: never. Truncation: after `task.horizon` pulls.
    Task: `BanditTask`. State: `BanditState`.

    p(T): the probabilities independent and uniform in [0, 1].

    Raises:
      ValueError: arms or a horizon below 1.
    """

    arms: int = 5
    horizon: int = 10  # pulls of an episode, of the tasks that `sample_task` draws

    def __post_init__(self) -> None:
        require_integer("arms", self.arms, 1)
        require_integer("horizon", self.horizon, 1)

    @property
    def observation_space(self) -> OneHot:
        return OneHot(1)

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.arms)

    @property
    def max_horizon(self) -> int:
        return self.horizon

    def sample_task(self, key: Array) -> BanditTask:
        probability = jax.random.uniform(key, (self.arms,), jnp.float32)
        return BanditTask(probability, jnp.array(self.horizon, jnp.int32))

    def reset(self, key: Array, task: BanditTask) -> tuple[BanditState, TimeStep]:
        del key, task
        return BanditState(jnp.array(0, jnp.int32)), first_timestep(_observation())

    def step(
        self, key: Array, state: BanditState, action: Array, task: BanditTask
    ) -> tuple[BanditState, TimeStep]:
        require_action(self.action_space, action)
        steps = state.steps + 1
        pays = jax.random.uniform(key, (), jnp.float32) < task.probability[action]
        timestep = TimeStep(
            _observation(),
            pays.astype(jnp.float32),
            terminated=jnp.array(False),
            truncated=steps >= task.horizon,
        )
        return BanditState(steps), timestep

    def observed_row(self, state: BanditState, task: BanditTask) -> Array:
        """Which element of the observation in a state is 1, () int32."""
        del state, task
        return jnp.array(0, jnp.int32)

    def tell(self, task: BanditTask) -> Array:
        """The probabilities, float32 [arms]: what `Informed` shows a policy."""
        return task.probability

    def optimal_return(self, task: BanditTask) -> Array:
        """The expectation of pulling the best arm every time."""
        return task.horizon.astype(jnp.float32) * jnp.max(task.probability)

    def optimal_action(self, state: BanditState, task: BanditTask) -> Array:
        """The best arm."""
        del state
        return jnp.argmax(task.probability).astype(jnp.int32)


def _observation() -> Array:
    return jnp.ones((1,), jnp.uint8)
