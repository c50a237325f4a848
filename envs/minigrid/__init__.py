"""MiniGrid's world as pure functions: levels are tasks, thousands of them step in one program.

`MiniGrid(family="doorkey", size=8)` draws the levels of a family; `levels` has the families.
"""

from .environment import MiniGrid
from .levels import FAMILIES
from .world import NOWHERE, MiniGridState, MiniGridTask

__all__ = ["FAMILIES", "NOWHERE", "MiniGrid", "MiniGridState", "MiniGridTask"]
