"""Step for step what the `minigrid` package does, on its own levels."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import minigrid_parity as parity
import pytest

from envs.minigrid import convert

HORIZON = 60
_MADE = {name: parity.make(name) for name in parity.CASES}
_STILL = [name for name in _MADE if "Obstacles" not in name]


@pytest.mark.smoke
@hypothesis.given(seed=st.integers(0, 2**31 - 1))
@hypothesis.settings(max_examples=6)
def test_every_family_is_step_for_step_that_of_minigrid(seed):
    """Observations, headings, rewards, terminations and truncations, in one batch of all."""
    played = [parity.play(_MADE[name], HORIZON, seed, through=False) for name in _STILL]
    assert parity.mismatches(played, through=False) == []


def test_a_different_world_is_told_from_it():
    played = parity.play(_MADE["DoorKey-5x5"], HORIZON, 0, through=False)
    played.view[played.length, 0, 0, 0] += 1
    played.reward[0] = 0.1
    assert parity.mismatches([played] * len(_STILL), through=False)[:2] == [
        f"episode 0, step {played.length}: view",
        "episode 0, step 0: reward",
    ]


def test_seen_through_walls_and_among_obstacles_it_is_that_of_minigrid():
    """The balls are where `minigrid` drew them."""
    env = _MADE["Dynamic-Obstacles-6x6"]
    played = [parity.play(env, HORIZON, seed, through=True) for seed in range(40)]
    assert parity.mismatches(played, through=True, obstacles=True) == []
    assert sum(p.reward[p.length] == -1 for p in played) > 20


def test_what_a_task_cannot_hold_is_refused():
    env = parity.reference.ObstructedMaze_1Dlhb()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^box: got .*Key.* expected an empty one$"):
        convert.from_minigrid(env)
    task = parity.play(_MADE["Unlock"], 1, 0, through=False).task
    with pytest.raises(ValueError, match=r"^high: got 4, expected at least 6$"):
        convert.padded(task, 4, 11, 2)
    with pytest.raises(ValueError, match=r"^objects: got 1, expected at least 2$"):
        convert.padded(task, 6, 11, 1)
