"""The figures of benchmarks/scaling.py."""

import pytest
import scaling


def points(seconds, memory):
    return {n: {"seconds": seconds(n), "bytes": memory(n)} for n in (1, 2, 16)}


def test_the_exponent_of_a_power_is_that_power():
    of = points(lambda n: 3.0 * n**1.5, lambda n: 100.0)
    assert scaling.exponent(of, "seconds") == pytest.approx(1.5)
    assert scaling.exponent(of, "bytes") == pytest.approx(0.0)


def test_ratios_are_of_an_update_of_a_task_and_of_a_batch():
    of = points(lambda n: 4.0 * n, lambda n: 8.0 + n)
    assert scaling.ratio(of, "time", 16, 2) == 8.0
    assert scaling.ratio(of, "time of a task", 16, 2) == 1.0
    assert scaling.ratio(of, "time of a batch", 16, 2) == pytest.approx(64 / 17 / (8 / 3))
    assert scaling.ratio(of, "memory", 16, 2) == 2.4
    assert scaling.ratio(of, "time", 16, 4) is None
