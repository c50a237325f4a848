"""Shortest paths and optimal plans on packed grids.

A fill grows a set of squares, packed by row, by one move per iteration. Under `vmap`, fills and
plans run as many iterations as the slowest of the batch needs: use them to draw tasks and in
oracles, never in a step.

An agent without a heading moves up, right, down or left; one with a heading, () int32, one of these
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
