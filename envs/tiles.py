"""Tiles, painted once in numpy, and pictures of whole grids made of them in pure JAX.

`picture` gathers one tile per square, so it can be batched and compiled like a step.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .paint import (
    AGENT,
    GOAL,
    LINE,
    PAPER,
    SHADE,
    START,
    WALL,
    arrow,
    blend,
    disc,
    rectangle,
    segment,
)

__all__ = ["COLOURS", "LEAST", "TILES", "picture", "tile_of"]

Array = jax.Array

LEAST = 4
"""The least side of a tile in pixels."""

# The colours of objects, in MiniGrid's order.
COLOURS = {
    "red": np.array([219, 68, 64], float),
    "green": np.array([35, 150, 102], float),
    "blue": np.array([54, 110, 204], float),
    "purple": np.array([136, 82, 184], float),
    "yellow": np.array([229, 172, 36], float),
    "grey": np.array([136, 140, 152], float),
}
_INK = np.array([47, 57, 78], float)


def _floor(tile: np.ndarray) -> None:
    side = float(len(tile))
    for low, high in (((0, 0), (1, side)), ((0, 0), (side, 1))):
        rectangle(tile, low, high, LINE)


def _square(tile: np.ndarray, inset: float, colour: np.ndarray) -> None:
    low, high = inset * len(tile), (1 - inset) * len(tile)
    rectangle(tile, (low, low), (high, high), colour)


def _wall(tile: np.ndarray) -> None:
    blend(tile, np.ones(tile.shape[:2]), WALL)


def _rings(tile: np.ndarray, rings: tuple[tuple[float, np.ndarray], ...]) -> None:
    _floor(tile)
    middle = np.full(2, len(tile) / 2)
    for radius, colour in rings:
        disc(tile, middle, radius * len(tile), colour)


def _target(tile: np.ndarray) -> None:
    _rings(tile, ((0.42, GOAL), (0.29, PAPER), (0.17, GOAL)))


def _start(tile: np.ndarray) -> None:
    _rings(tile, ((0.2, START), (0.11, PAPER)))


def _goal(tile: np.ndarray) -> None:
    blend(tile, np.full(tile.shape[:2], 0.75), GOAL)


def _lava(tile: np.ndarray) -> None:
    side = float(len(tile))
    blend(tile, np.ones(tile.shape[:2]), np.array([241, 120, 46], float))
    for height in (0.3, 0.55, 0.8):
        crest = [(height + 0.06 * (-1) ** k, k / 4) for k in range(5)]
        for tail, head in itertools.pairwise(crest):
            segment(tile, np.array(tail) * side, np.array(head) * side, 0.035 * side, _INK)


def _painted_floor(tile: np.ndarray, colour: np.ndarray) -> None:
    _floor(tile)
    blend(tile, np.full(tile.shape[:2], 0.35), colour)


def _ball(tile: np.ndarray, colour: np.ndarray) -> None:
    _rings(tile, ((0.31, colour),))


def _box(tile: np.ndarray, colour: np.ndarray) -> None:
    _floor(tile)
    side = len(tile)
    for inset, paint in ((0.14, colour), (0.26, PAPER)):
        _square(tile, inset, paint)
    rectangle(tile, (0.45 * side, 0.14 * side), (0.55 * side, 0.86 * side), colour)


def _key(tile: np.ndarray, colour: np.ndarray) -> None:
    _floor(tile)
    side = len(tile)
    for tail, head in (
        ((0.3, 0.5), (0.84, 0.5)),
        ((0.62, 0.5), (0.62, 0.68)),
        ((0.8, 0.5), (0.8, 0.68)),
    ):
        segment(tile, np.array(tail) * side, np.array(head) * side, 0.06 * side, colour)
    disc(tile, np.array([0.27, 0.5]) * side, 0.18 * side, colour)
    disc(tile, np.array([0.27, 0.5]) * side, 0.08 * side, PAPER)


def _open_door(tile: np.ndarray, colour: np.ndarray) -> None:
    _floor(tile)
    side = float(len(tile))
    rectangle(tile, (0, 0), (side, 0.26 * side), colour)
    rectangle(tile, (0.08 * side, 0.08 * side), (0.92 * side, 0.18 * side), PAPER)


def _closed_door(tile: np.ndarray, colour: np.ndarray) -> None:
    side = len(tile)
    for inset, paint in ((0.0, colour), (0.08, PAPER), (0.15, colour), (0.21, PAPER)):
        _square(tile, inset, paint)
    disc(tile, np.array([0.5, 0.7]) * side, 0.08 * side, colour)


def _locked_door(tile: np.ndarray, colour: np.ndarray) -> None:
    side = len(tile)
    blend(tile, np.ones(tile.shape[:2]), colour)
    _square(tile, 0.1, 0.45 * colour)
    disc(tile, np.array([0.42, 0.5]) * side, 0.12 * side, colour)
    segment(tile, np.array([0.42, 0.5]) * side, np.array([0.68, 0.5]) * side, 0.05 * side, colour)


def _unseen(tile: np.ndarray) -> None:
    blend(tile, np.ones(tile.shape[:2]), SHADE)


_PLAIN: dict[str, Callable[[np.ndarray], None]] = {
    "unseen": _unseen,
    "floor": _floor,
    "wall": _wall,
    "start": _start,
    "target": _target,
    "goal": _goal,
    "lava": _lava,
}
_COLOURED: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "painted floor": _painted_floor,
    "ball": _ball,
    "box": _box,
    "key": _key,
    "open door": _open_door,
    "closed door": _closed_door,
    "locked door": _locked_door,
}

TILES = (*_PLAIN, *(f"{colour} {thing}" for thing in _COLOURED for colour in COLOURS))
"""The name of every tile, at its index."""


def tile_of(thing: str) -> int:
    """The index of a tile; for a coloured thing, that of its first colour, which the others follow.

    Raises:
      KeyError: an unknown thing.
    """
    name = f"{next(iter(COLOURS))} {thing}" if thing in _COLOURED else thing
    return {name: index for index, name in enumerate(TILES)}[name]


def picture(tiles: Array, agent: Array, heading: Array | None, pixels: int) -> Array:
    """A picture of a grid of tiles with the agent on it, in pure JAX.

    Args:
      tiles: int32 [H, W], the index of each square's tile.
      agent: (2,) int32, the row and column of the agent.
      heading: () int32, up, right, down or left; None for an agent without one.
      pixels: side of a square, at least 4.

    Returns:
      uint8 [H * pixels, W * pixels, 3].

    Raises:
      ValueError: too few pixels.
    """
    if pixels < LEAST:
        raise ValueError(f"pixels: got {pixels}, expected at least {LEAST} a square")
    high, wide = tiles.shape
    squares = jnp.asarray(_atlas(pixels))[tiles]
    sprite = jnp.asarray(_agents(pixels))[jnp.int32(4) if heading is None else heading]
    cover = sprite[..., 3:]
    there = squares[agent[0], agent[1]].astype(jnp.float32)
    covered = there * (1 - cover) + sprite[..., :3] * cover
    squares = squares.at[agent[0], agent[1]].set(jnp.round(covered).astype(jnp.uint8))
    return squares.transpose(0, 2, 1, 3, 4).reshape(high * pixels, wide * pixels, 3)


@functools.cache
def _atlas(pixels: int) -> np.ndarray:
    """Every tile, uint8 [tiles, pixels, pixels, 3]."""
    painted = []
    for paint in _PLAIN.values():
        painted.append(_blank(pixels))
        paint(painted[-1])
    for paint_in in _COLOURED.values():
        for colour in COLOURS.values():
            painted.append(_blank(pixels))
            paint_in(painted[-1], colour)
    return np.round(np.stack(painted)).astype(np.uint8)


@functools.cache
def _agents(pixels: int) -> np.ndarray:
    """The agent facing up, right, down, left, and without heading: float32 [5, pixels, pixels, 4].

    The last channel is how much of a pixel the agent covers.
    """
    sprites = []
    for heading in range(5):
        # Painting over two backgrounds shows how much of them a sprite lets through.
        over = []
        for background in (0.0, 255.0):
            tile = np.full((pixels, pixels, 3), background)
            _agent(tile, heading)
            over.append(tile)
        cover = 1 - (over[1] - over[0]).mean(-1, keepdims=True) / 255
        colour = np.where(cover > 0, over[0] / np.maximum(cover, 1e-6), 0)
        sprites.append(np.concatenate([colour, cover], axis=-1))
    return np.stack(sprites).astype(np.float32)


def _agent(tile: np.ndarray, heading: int) -> None:
    side = len(tile)
    middle = np.full(2, side / 2)
    if heading == 4:
        disc(tile, middle, 0.36 * side, PAPER)
        disc(tile, middle, 0.3 * side, AGENT)
        return
    arrow(tile, middle, heading, side)


def _blank(pixels: int) -> np.ndarray:
    return np.broadcast_to(PAPER, (pixels, pixels, 3)).copy()
