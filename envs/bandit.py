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
    """One bandit, as `BernoulliBandit.reset` and `BernoulliBandit.step` take it."""

    probability: Array  # [arms] float32, the probability that each arm pays
    horizon: Array  # () int32, pulls before an episode is truncated


@pytree_dataclass
class BanditState:
    """How far one episode has come."""

    steps: Array  # () int32, pulls taken


@dataclasses.dataclass(frozen=True)
class BernoulliBandit:
    """Arms that pay 0 or 1 with unseen probabilities: RL²'s bandits.

    Duan et al. 2016 (arXiv 1611.02779), section 3.1.

    Observation: uint8 [1], always 1: the one-hot code of the only state.
    Action: int32 () in 0..arms - 1, the arm to pull.
    Reward: float32 (), 1 with the arm's probability, else 0.
    Termination: never. Truncation: after `task.horizon` pulls.
    Task: `BanditTask`. State: `BanditState`.

    p(T): the probabilities independent and uniform in [0, 1].

    Raises:
      ValueError: arms or a horizon below 1, or an action that does not fit (while tracing).
    """

    arms: int = 5
    horizon: int = 10  # pulls of an episode, in the tasks that `sample_task` draws

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
        """The index of the 1 in the observation of a state, () int32."""
        del state, task
        return jnp.array(0, jnp.int32)

    def tell(self, task: BanditTask) -> Array:
        """The probabilities, float32 [arms]: what `Informed` shows a policy."""
        return task.probability

    def optimal_return(self, task: BanditTask) -> Array:
        """The expected return of always pulling the best arm, () float32."""
        return task.horizon.astype(jnp.float32) * jnp.max(task.probability)

    def optimal_action(self, state: BanditState, task: BanditTask) -> Array:
        """The arm with the greatest probability, () int32."""
        del state
        return jnp.argmax(task.probability).astype(jnp.int32)


def _observation() -> Array:
    return jnp.ones((1,), jnp.uint8)
