"""Environments as pure JAX functions: tasks are data, and whatever a task can fix is not random.

`make("maze", size=13)` builds one, `registered()` lists them; `core` defines the protocol.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from . import render as render
from . import solve as solve
from .bandit import BernoulliBandit
from .core import Box, Discrete, Environment, OneHot, SolvedEnvironment, Space, TimeStep
from .gridworld import Gridworld
from .informed import Informed
from .maze import Maze
from .maze_series import MazeSeries
from .minigrid import MiniGrid
from .point import PointNavigation
from .point_corners import PointCorners
from .tabular_mdp import TabularMDP
from .tasksets import TaskSet
from .trial import Trial

__all__ = [
    "BernoulliBandit",
    "Box",
    "Discrete",
    "Environment",
    "Gridworld",
    "Informed",
    "Maze",
    "MazeSeries",
    "MiniGrid",
    "OneHot",
    "PointCorners",
    "PointNavigation",
    "SolvedEnvironment",
    "Space",
    "TabularMDP",
    "TaskSet",
    "TimeStep",
    "Trial",
    "make",
    "registered",
    "render",
    "solve",
]

_CLASSES: dict[str, type] = {
    "maze": Maze,
    "maze-series": MazeSeries,
    "gridworld": Gridworld,
    "minigrid": MiniGrid,
    "point": PointNavigation,
    "point-corners": PointCorners,
    "bandit": BernoulliBandit,
    "tabular-mdp": TabularMDP,
}


def registered() -> dict[str, str]:
    """The id of every environment, with a description in one line."""
    return {id: (cls.__doc__ or "").partition("\n")[0] for id, cls in _CLASSES.items()}


def make(id: str, **fields: Any) -> Environment:
    """The environment `id` with the given fields; the others keep their defaults.

    Raises:
      ValueError: an unknown id (the nearest ones are named), an unknown field (the fields are
        named), or a field that the class refuses.
    """
    if id not in _CLASSES:
        near = difflib.get_close_matches(id, _CLASSES) or list(_CLASSES)
        raise ValueError(f"environment: got {id!r}, expected {_either(near)}")
    cls = _CLASSES[id]
    names = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in names:
            near = difflib.get_close_matches(name, names) or names
            raise ValueError(f"{id}: got field {name!r}, expected {_either(near)}")
    return cls(**fields)


def _either(names: list[str]) -> str:
    """'a', 'a or b', 'a, b or c', each in quotes."""
    quoted = [repr(name) for name in names]
    return " or ".join([", ".join(quoted[:-1])] * (len(quoted) > 1) + quoted[-1:])
