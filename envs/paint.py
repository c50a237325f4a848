"""Colours, and anti-aliased shapes painted into float pictures, in numpy."""

from __future__ import annotations

import numpy as np

__all__ = [
    "AGENT",
    "GOAL",
    "LINE",
    "OUTSIDE",
    "PAPER",
    "SHADE",
    "START",
    "TRAIL",
    "WALL",
    "arrow",
    "blend",
    "disc",
    "rectangle",
    "segment",
]

PAPER = np.array([251, 248, 242], float)
LINE = np.array([226, 219, 206], float)
OUTSIDE = np.array([242, 237, 228], float)
SHADE = np.array([221, 214, 202], float)
WALL = np.array([47, 57, 78], float)
GOAL = np.array([35, 150, 102], float)
AGENT = np.array([236, 90, 56], float)
START = np.array([128, 132, 146], float)
TRAIL = np.array([[190, 213, 240], [37, 92, 184]], float)  # the oldest part, the newest part


def disc(picture: np.ndarray, centre: np.ndarray, radius: float, colour: np.ndarray) -> None:
    """Paints a disc, in place.

    Args:
      picture: float [H, W, 3].
      centre: (down, right) in pixels.
      radius: in pixels.
      colour: (3,), 0 to 255.
    """
    segment(picture, centre, centre, radius, colour)


def arrow(picture: np.ndarray, centre: np.ndarray, heading: int, side: float) -> None:
    """Paints the agent as an arrow head, in place.

    Args:
      picture: float [H, W, 3].
      centre: (down, right) in pixels, the middle of its square.
      heading: where it points: 0 up, 1 right, 2 down, 3 left.
      side: of its square, in pixels.
    """
    ahead = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)][heading], float) * side
    aside = np.array([ahead[1], -ahead[0]])
    # Segments across it, from its tip to its base.
    for colour, width in ((PAPER, 0.16), (AGENT, 0.1)):
        for share in np.linspace(0, 1, 2 * round(side)):
            middle = centre + (0.26 - 0.5 * share) * ahead
            half = 0.27 * share * aside
            segment(picture, middle - half, middle + half, width * side, colour)


def segment(
    picture: np.ndarray, tail: np.ndarray, head: np.ndarray, radius: float, colour: np.ndarray
) -> None:
    """Paints all within `radius` of a line segment, in place; nothing if an end is not finite.

    Args:
      picture: float [H, W, 3].
      tail: (down, right) in pixels, one end.
      head: (down, right) in pixels, the other end.
      radius: in pixels.
      colour: (3,), 0 to 255.
    """
    if not np.isfinite([tail, head]).all():  # the agent's parameters diverged
        return
    low = np.floor(np.minimum(tail, head) - radius - 1).astype(int).clip(0, len(picture))
    high = np.ceil(np.maximum(tail, head) + radius + 1).astype(int).clip(0, len(picture))
    if (low >= high).any():
        return
    rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]] + 0.5
    offset = np.stack([rows - tail[0], columns - tail[1]], axis=-1)
    along = head - tail
    share = np.clip(offset @ along / max(float(along @ along), 1e-9), 0, 1)
    distance = np.linalg.norm(offset - share[..., None] * along, axis=-1)
    part = picture[low[0] : high[0], low[1] : high[1]]
    blend(part, np.clip(radius - distance + 0.5, 0, 1), colour)


def blend(picture: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Blends `colour` into `picture`, in place, with opacity `cover` [H, W] from 0 to 1."""
    picture += cover[..., None] * (colour - picture)


def rectangle(
    picture: np.ndarray, low: tuple[float, float], high: tuple[float, float], colour: np.ndarray
) -> None:
    """Paints a rectangle, in place.

    Args:
      picture: float [H, W, 3].
      low: (down, right) in pixels, the top left corner.
      high: (down, right) in pixels, the bottom right corner.
      colour: (3,), 0 to 255.
    """
    cover = np.ones(picture.shape[:2])
    for axis in (0, 1):
        edge = np.arange(picture.shape[axis])
        along = np.clip(np.minimum(edge + 1, high[axis]) - np.maximum(edge, low[axis]), 0, 1)
        cover *= np.expand_dims(along, 1 - axis)
    blend(picture, cover, colour)
