"""The registry, and how it refuses: one line that says what was wrong and what would be right."""

import dataclasses

import pytest

import envs


@pytest.mark.smoke
def test_every_id_makes_its_class_with_the_given_fields():
    classes = {"maze": envs.Maze, "gridworld": envs.Gridworld, "minigrid": envs.MiniGrid}
    classes |= {"point": envs.PointNavigation, "bandit": envs.BernoulliBandit}
    classes |= {"tabular-mdp": envs.TabularMDP, "point-corners": envs.PointCorners}
    assert set(classes) <= set(envs.registered())
    for id, cls in classes.items():
        assert envs.make(id) == cls()
        assert envs.make(id, horizon=7) == cls(horizon=7)


@pytest.mark.parametrize("id", envs.registered())
def test_every_environment_says_what_it_is_in_one_line(id):
    line = envs.registered()[id]
    assert line.endswith(".")
    assert 20 < len(line) < 100


@pytest.mark.parametrize("id", envs.registered())
def test_every_field_has_a_default_and_a_frozen_home(id):
    env = envs.make(id)
    fields = {field.name: getattr(env, field.name) for field in dataclasses.fields(env)}
    assert envs.make(id, **fields) == env


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("id", "fields", "message"),
    [
        ("mase", {}, "environment: got 'mase', expected 'maze'"),
        (
            "point-nav",
            {},
            "environment: got 'point-nav', expected 'point' or 'point-corners'",
        ),
        (
            "xyz",
            {},
            "environment: got 'xyz', expected "
            "'maze', 'maze-series', 'gridworld', 'minigrid', 'point', 'point-corners', 'bandit' "
            "or 'tabular-mdp'",
        ),
        (
            "maze",
            {"sise": 9},
            "maze: got field 'sise', expected 'size'",
        ),
        ("point", {"goal": 9}, "point: got field 'goal', expected 'horizon'"),
        ("maze", {"size": 10}, "size: got 10, expected an odd number"),
        ("maze", {"size": 3}, "size: got 3, expected an integer from 5 to 63"),
        ("maze", {"size": 65}, "size: got 65, expected an integer from 5 to 63"),
        ("maze", {"size": 9.0}, "size: got 9.0, expected an integer from 5 to 63"),
        ("maze", {"horizon": 0}, "horizon: got 0, expected an integer of at least 1"),
        ("maze", {"view": 4}, "view: got 4, expected an odd number, or 0"),
        ("maze", {"view": -1}, "view: got -1, expected an integer from 0 to 31"),
        (
            "maze",
            {"view": 0, "position": False},
            "view: got 0, expected a window where position and full are off",
        ),
        (
            "maze",
            {"view": 0, "see_exit": True},
            "see_exit: got True, expected a view to see it in",
        ),
        ("minigrid", {"family": "dorkey"}, "family: got 'dorkey', expected 'doorkey'"),
        ("minigrid", {"size": 4}, "size: got 4, expected an integer from 5 to 63"),
        ("minigrid", {"family": "memory", "size": 8}, "size: got 8, expected an odd number"),
        ("minigrid", {"family": "fourrooms", "size": 8}, "size: got 8, expected an odd number"),
        ("minigrid", {"count": 2}, "count: got 2, expected an integer from 1 to 1"),
        ("minigrid", {"view": 6}, "view: got 6, expected an odd number"),
        (
            "minigrid",
            {"full": True, "compass": True},
            "compass: got True, expected a view to tell it in",
        ),
        (
            "maze",
            {"view": 0, "occlusion": True},
            "occlusion: got True, expected a view to see it in",
        ),
        ("maze", {"smallest": 6}, "smallest: got 6, expected an odd number"),
        ("maze", {"smallest": 11}, "smallest: got 11, expected an integer from 5 to 9"),
        ("maze", {"slip": 1.5}, "slip: got 1.5, expected a number from 0 to 1"),
        ("maze", {"rewards": -1}, "rewards: got -1, expected a number of at least 0"),
        ("maze", {"rewards": float("inf")}, "rewards: got inf, expected a number of at least 0"),
        (
            "maze",
            {"shortest_horizon": 41},
            "shortest_horizon: got 41, expected an integer from 1 to 40",
        ),
        ("maze-series", {"count": 0}, "count: got 0, expected an integer of at least 1"),
        (
            "maze-series",
            {"maze": envs.Maze(slip=0.1)},
            "maze.slip: got 0.1, expected a maze without it",
        ),
        ("gridworld", {"size": 2}, "size: got 2, expected an integer from 3 to 63"),
        ("gridworld", {"horizon": -1}, "horizon: got -1, expected an integer of at least 1"),
        ("point-corners", {"horizon": 0}, "horizon: got 0, expected an integer of at least 1"),
        ("point", {"horizon": True}, "horizon: got True, expected an integer of at least 1"),
        ("bandit", {"arms": 0}, "arms: got 0, expected an integer of at least 1"),
        ("tabular-mdp", {"states": 0}, "states: got 0, expected an integer of at least 1"),
        ("tabular-mdp", {"actions": 0}, "actions: got 0, expected an integer of at least 1"),
        ("bandit", {"horizon": 0}, "horizon: got 0, expected an integer of at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(id, fields, message):
    with pytest.raises(ValueError, match="expected") as refusal:
        envs.make(id, **fields)
    assert str(refusal.value) == message
