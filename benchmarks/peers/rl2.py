"""RL² on the gridworld in PyTorch, the trials of all tasks at once, for `rl2_vs_torch.py`.

Written to be fast: sequences go through `torch.nn.GRU`, whose CPU kernels take all steps at once; a
step of play is one `gru_cell` and one lookup in a table of where actions lead.

Shapes: N tasks with one trial each, T steps of a trial, L of them an episode, O squares, A actions,
I = O + A + 2 features observed, H units of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .credit import discounting
from .grids import Grids, draw_actions, outcome, picked, thresholds

__all__ = [
    "Agent",
    "Loss",
    "Settings",
    "Trials",
    "compiled",
    "improve",
    "loss_of",
    "observe",
    "play",
    "standardised",
    "update",
]


class Settings(NamedTuple):
    """Sizes and rates, as of the preset."""

    tasks: int
    episodes: int
    length: int  # steps of an episode
    epochs: int
    minibatches: int
    clip: float
    discount: float
    gae_lambda: float
    entropy: float
    value_weight: float
    learning_rate: float
    gradient_clip: float


class Trials(NamedTuple):
    """What an update learns from, (T, N, ...)."""

    observation: Tensor  # (T, N, I)
    action: Tensor  # (T, N) int64
    log_prob: Tensor  # of the actions, by the policy that played
    advantage: Tensor  # zero mean, unit standard deviation
    target: Tensor  # of the critic


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class Agent(nn.Module):
    """The network of `metajax.recurrent.GRUPolicy`, without layers before its memory."""

    def __init__(self, inputs: int, memory: int, actions: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, memory)
        self.value = nn.Linear(memory, 1)
        self.logits = nn.Linear(memory, actions)
        # metajax's unit has a second bias for the new memory alone; the other two would be twice.
        only_new = torch.cat([torch.zeros(2 * memory), torch.ones(memory)])
        self.weights[3].register_hook(lambda gradient: gradient * only_new)

    @property
    def weights(self) -> list[Tensor]:
        """Of the unit: by its input (3H, I), by what it remembers (3H, H), and their biases."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return [self.gru.get_parameter(name) for name in names]

    def load(self, params: dict[str, Any]) -> None:
        """Takes the parameters of flax's module, as tensors."""
        into, recurrent, value, logits = (params[f"Dense_{i}"] for i in range(4))
        memory = params["bias"]
        state = {
            "gru.weight_ih_l0": into["kernel"].T,
            "gru.weight_hh_l0": recurrent["kernel"].T,
            "gru.bias_ih_l0": into["bias"],
            "gru.bias_hh_l0": torch.cat([torch.zeros(2 * len(memory)), memory]),
        }
        for name, layer in (("value", value), ("logits", logits)):
            state |= {f"{name}.weight": layer["kernel"].T, f"{name}.bias": layer["bias"]}
        self.load_state_dict(state)

    def gradients(self) -> dict[str, Any]:
        """The gradients in flax's form."""
        into, recurrent, bias, later = (_gradient(weight) for weight in self.weights)

        def linear(layer: nn.Linear) -> dict[str, Tensor]:
            return {"kernel": _gradient(layer.weight).T, "bias": _gradient(layer.bias)}

        return {
            "Dense_0": {"kernel": into.T, "bias": bias},
            "Dense_1": {"kernel": recurrent.T},
            "Dense_2": linear(self.value),
            "Dense_3": linear(self.logits),
            "bias": later[2 * self.gru.hidden_size :],
        }

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences (T, N, I) -> logits (T, N, A), values (T, N)."""
        hidden, _ = self.gru(observation)
        return self.logits(hidden), self.value(hidden).squeeze(-1)


def observe(
    squares: int, actions: int, place: Tensor, action: Tensor, reward: Tensor, ended: bool
) -> Tensor:
    """(N, I): square and last action one-hot, last reward, whether an episode ended just now."""
    seen = place.new_zeros((len(place), squares + actions + 2), dtype=reward.dtype)
    seen.scatter_(1, torch.stack([place, squares + action], dim=1), 1.0)
    seen[:, -2] = reward
    seen[:, -1] = float(ended)
    return seen


@torch.no_grad()
def play(agent: Agent, tasks: Grids, uniforms: Tensor, settings: Settings) -> tuple[Trials, Tensor]:
    """A trial of each task, and its reward (N,); numbers in [0, 1), (T, N), choose the actions."""
    weights = agent.weights
    _, actions, squares = tasks.following.shape
    led, place, count = tasks.following.flatten(1), tasks.start, len(tasks.start)
    hidden = uniforms.new_zeros(count, agent.gru.hidden_size)
    seen = uniforms.new_zeros(count, squares + actions + 2)
    seen.scatter_(1, place.unsqueeze(1), 1.0)
    kept: list[list[Tensor]] = []
    for time, uniform in enumerate(uniforms.unbind()):
        hidden = torch.gru_cell(seen, hidden, *weights)
        logits = agent.logits(hidden)
        divided = thresholds(logits.unsqueeze(-1))
        action = draw_actions(divided, uniform.unsqueeze(-1)).squeeze(-1)
        chosen = logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        value = agent.value(hidden).squeeze(-1)
        place = led.gather(1, (action * squares + place).unsqueeze(1)).squeeze(1)
        reward, _ = outcome(place[None, :, None], tasks.goal, False, uniforms.dtype)
        reward = reward.flatten()
        kept.append([seen, action, chosen, value, reward])
        ended = (time + 1) % settings.length == 0
        place = tasks.start if ended else place
        seen = observe(squares, actions, place, action, reward, ended)
    stacked = [torch.stack(each) for each in zip(*kept, strict=True)]
    observation, action, log_prob, value, reward = stacked
    advantage = credit(reward, value, settings)
    trials = Trials(observation, action, log_prob, standardised(advantage), advantage + value)
    return trials, reward.sum(0)


def credit(reward: Tensor, value: Tensor, settings: Settings) -> Tensor:
    """GAE over trials, with nothing after their last step, (T, N)."""
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    error = reward + settings.discount * following - value
    rate = settings.discount * settings.gae_lambda
    return discounting(len(error), rate, error.dtype, error.device) @ error


def standardised(advantage: Tensor) -> Tensor:
    """Zero mean and unit standard deviation over all trials."""
    return (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)


def loss_of(agent: Agent, batch: Trials, settings: Settings) -> Tensor:
    """PPO's clipped loss, with the critic's error and the entropy."""
    logits, value = agent(batch.observation)
    log_probs = logits.log_softmax(-1)
    chosen = log_probs.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    ratio = torch.exp(chosen - batch.log_prob)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    gain = torch.minimum(ratio * batch.advantage, clipped * batch.advantage).mean()
    error = (value - batch.target).square().mean()
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    return settings.value_weight * error - gain - settings.entropy * entropy


Loss = Callable[[Agent, Trials, Settings], Tensor]


def compiled() -> Loss:
    """`loss_of` compiled by Inductor, backward pass too, around the unit's own kernels.

    The unit, compiled too, step after step, takes two minutes to compile and was as fast.
    """
    return torch.compile(loss_of, dynamic=False, options={"cpp.use_decompose_tanh": True})


def update(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    pool: Grids,
    settings: Settings,
    loss: Loss = loss_of,
) -> Tensor:
    """One update on tasks from `pool`; returns the mean reward of a trial, ()."""
    tasks = picked(pool, settings.tasks)
    uniforms = torch.rand(settings.episodes * settings.length, settings.tasks)
    trials, score = play(agent, tasks, uniforms, settings)
    improve(agent, optimizer, trials, settings, loss)
    return score.mean()


def improve(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    trials: Trials,
    settings: Settings,
    loss: Loss = loss_of,
) -> None:
    """The steps of PPO on the trials of an update."""
    parts = [
        Trials(*(leaf[:, part :: settings.minibatches] for leaf in trials))
        for part in range(settings.minibatches)
    ]
    for _ in range(settings.epochs):
        for batch in parts:
            optimizer.zero_grad(set_to_none=True)
            loss(agent, batch, settings).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), settings.gradient_clip)
            optimizer.step()
