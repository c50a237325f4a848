"""Shortest paths and best plans on packed grids.

The fills grow a set of squares by a move a trip, a row of squares to a machine word. Under `vmap` a
fill makes as many trips as the longest of the batch needs, and so does a plan; they are meant for
drawing tasks and for oracles, never for a step.

An agent without a heading moves up, right, down or left; one with a heading () int32, one of the
directions, turns left (0), turns right (1) or moves forward (2).
"""

from .distances import UNREACHABLE, distances, maze_distances, shortest_path
from .fills import (
    direction_to,
    distance,
    far_half,
    heading_action,
    heading_distance,
    solvable,
)
from .plans import heading_plan, plan

__all__ = [
    "UNREACHABLE",
    "direction_to",
    "distance",
    "distances",
    "far_half",
    "heading_action",
    "heading_distance",
    "heading_plan",
    "maze_distances",
    "plan",
    "shortest_path",
    "solvable",
]
