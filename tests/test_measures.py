"""What is reported of runs beside their adaptation tables."""

import jax
import numpy as np
import pytest

from support import measures


def sampled(lengths, steps):
    """Steps each row in turn, as a sampler does, until the episodes over have enough steps."""
    over = np.zeros(lengths.shape, bool)
    at, left = np.zeros(len(lengths), int), lengths[:, 0].copy()
    while lengths[over].sum() < steps and (at < lengths.shape[1]).any():
        for row in range(len(lengths)):
            if at[row] == lengths.shape[1]:
                continue
            left[row] -= 1
            if left[row] == 0:
                over[row, at[row]] = True
                at[row] += 1
                if at[row] < lengths.shape[1]:
                    left[row] = lengths[row, at[row]]
    return over


@pytest.mark.parametrize("steps", [1, 7, 30, 60, 10_000])
def test_episodes_count_until_those_that_are_over_have_enough_steps(steps):
    lengths = np.asarray(jax.random.randint(jax.random.key(steps), (5, 4), 1, 9))
    np.testing.assert_array_equal(measures._until(lengths, steps), sampled(lengths, steps))
