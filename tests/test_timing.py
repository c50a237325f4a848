"""In which order benchmarks/ calls what it times."""

from rich.console import Console

from support import timing


def sides():
    calls = []
    return calls, {name: lambda name=name: calls.append(name) for name in "ab"}


def test_sides_take_turns_and_the_last_of_their_calls_is_timed():
    calls, named = sides()
    seconds = timing.in_turn(named, rounds=2, before=1)
    assert calls == [*"aabbaabb"]
    assert {name: len(of_side) for name, of_side in seconds.items()} == {"a": 2, "b": 2}


def test_every_other_pair_of_a_race_is_in_reverse():
    calls, named = sides()
    seconds = timing.race(named, 3, 2, Console(quiet=True))
    assert calls == [*"aabbbbaaaabb"]
    assert [len(run) for run in seconds["b"]] == [2, 2, 2]
