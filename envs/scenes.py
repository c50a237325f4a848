"""Tasks as squares and marks, drawn in numpy with the agent and its trail."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .paint import (
    AGENT,
    GOAL,
    LINE,
    OUTSIDE,
    PAPER,
    SHADE,
    START,
    TRAIL,
    WALL,
    arrow,
    blend,
    disc,
    segment,
)

__all__ = ["Scene", "background", "draw"]

_SUPERSAMPLED = 3


class Scene(NamedTuple):
    """A task as squares; places are (down, right) from the top left corner, in squares."""

    side: int
    walls: np.ndarray  # bool [side, side]
    start: np.ndarray  # (2,)
    goal: np.ndarray  # (2,)
    marks: float = 1.0  # size of the marks drawn on it, in squares
    margin: float = 0.0  # width of the band along the sides in which no goal lies


def background(scene: Scene, pixels: int) -> np.ndarray:
    """Floor, grid lines and walls: float [pixels, pixels, 3]."""
    if pixels < 32:
        raise ValueError(f"pixels: got {pixels}, expected at least 32")
    picture = np.broadcast_to(PAPER, (pixels, pixels, 3)).copy()
    unit = pixels / scene.side
    # Distances are measured in pixels from the middle of each pixel.
    middle = (np.arange(pixels) + 0.5) / unit
    within = np.clip(
        np.minimum(middle, scene.side - middle) - scene.margin, -0.5 / unit, 0.5 / unit
    )
    within = within * unit + 0.5
    blend(picture, 1 - within[:, None] * within[None], OUTSIDE)
    gap = np.abs(middle - np.round(middle)) * unit
    line = np.clip(1.1 - gap, 0, 1)
    blend(picture, np.maximum(line[:, None], line[None]), LINE)
    edge = np.clip(2 - np.minimum(middle, scene.side - middle) * unit, 0, 1)
    blend(picture, np.maximum(edge[:, None], edge[None]), SHADE)
    if scene.walls.any():
        fine = np.arange(pixels * _SUPERSAMPLED) * scene.side // (pixels * _SUPERSAMPLED)
        walls = _rounded(scene.walls[np.ix_(fine, fine)], unit * _SUPERSAMPLED)
        drop = max(1, round(0.14 * unit))
        shadow = np.pad(walls, ((drop, 0), (0, 0)), mode="edge")[:pixels]
        blend(picture, shadow, SHADE)
        blend(picture, walls, WALL)
    return picture


def _rounded(mask: np.ndarray, unit: float) -> np.ndarray:
    """How much of each pixel a supersampled mask covers, with rounded corners: [pixels, pixels].

    Blurring a mask and thresholding it moves no straight edge, only corners.
    """
    reach = max(1, round(0.16 * unit))
    soft = mask.astype(float)
    for axis in (0, 1):
        padding = [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(soft, padding, mode="edge"), axis=axis)
        later = np.take(total, np.arange(2 * reach + 1, total.shape[axis]), axis=axis)
        earlier = np.take(total, np.arange(total.shape[axis] - 2 * reach - 1), axis=axis)
        soft = (later - earlier) / (2 * reach + 1)
    side = mask.shape[0] // _SUPERSAMPLED
    blocks = (soft > 0.5).reshape(side, _SUPERSAMPLED, side, _SUPERSAMPLED)
    return blocks.mean(axis=(1, 3))


def draw(
    scene: Scene, background: np.ndarray, path: np.ndarray, length: int, heading: int | None
) -> np.ndarray:
    """The scene with the agent at the end of `path` [t, 2]; `length` places span the colours."""
    picture = background.copy()
    unit = len(picture) / scene.side
    goal, start, places = scene.goal * unit, scene.start * unit, path * unit
    mark = unit * scene.marks
    age = np.arange(len(path)) / max(length - 1, 1)
    colours = TRAIL[0] + (TRAIL[1] - TRAIL[0]) * age[:, None]
    for tail, head, colour in zip(places[:-1], places[1:], colours[1:], strict=True):
        segment(picture, tail, head, 0.11 * unit, colour)
    for radius, colour in ((0.42, GOAL), (0.29, PAPER), (0.17, GOAL)):
        disc(picture, goal, radius * mark, colour)
    disc(picture, start, 0.2 * mark, START)
    disc(picture, start, 0.11 * mark, PAPER)
    agent = np.clip(places[-1], 0.36 * mark, len(picture) - 0.36 * mark)
    if heading is None:
        disc(picture, agent, 0.36 * mark, PAPER)
        disc(picture, agent, 0.3 * mark, AGENT)
    else:
        arrow(picture, agent, heading, mark)
    return np.round(picture).astype(np.uint8)
