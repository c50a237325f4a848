"""The PyTorch baseline is the same algorithm as metajax, at a tiny size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import torch_maml
import torch_parity as parity


@pytest.fixture(scope="module")
def frozen() -> tuple[parity.Contest, Any, parity.Frozen]:
    """Parameters away from the near-zero head of a fresh policy, and an adaptation from them."""
    setting = torch_maml.Setting(tasks=4, episodes=6, horizon=90, inner_steps=2)
    side = parity.contest(setting)
    state = side.learner.init(jax.random.key(0))
    noise = jax.random.key(1)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(noise, p.shape), state.params)
    return side, params, parity.freeze(side, params, parity.update_keys(state, setting.tasks))


def test_meta_gradients_agree(frozen: Any) -> None:
    errors = parity.meta_gradient_errors(*frozen, chunk=3)
    assert set(errors) == {"loop", "loop, learn2learn's way", "batched", "chunked"}
    assert max(errors.values()) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_compiled_meta_gradient_agrees(frozen: Any) -> None:
    compiled = torch_maml.compiled_kernels()
    errors = parity.meta_gradient_errors(*frozen, chunk=2, compiled=compiled)
    assert errors["compiled"] < 1e-4


def test_rollouts_and_advantages_agree(frozen: Any) -> None:
    side, _, kept = frozen
    assert min(float(batch.mask.min()) for batch in kept.batches) == 0.0  # some episode ends early
    errors = parity.collection_errors(side, kept)
    assert errors.pop("advantage") < 1e-3  # through a float32 least-squares fit of each side
    assert max(errors.values()) < 1e-5
