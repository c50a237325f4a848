"""MiniGrid's world as pure functions: levels are tasks, and thousands step in one program.

`MiniGrid(family="doorkey", size=8)` draws levels of a family; `levels` defines the families.
"""

from .environment import MiniGrid
from .levels import FAMILIES
from .world import NOWHERE, MiniGridState, MiniGridTask

__all__ = ["FAMILIES", "NOWHERE", "MiniGrid", "MiniGridState", "MiniGridTask"]
