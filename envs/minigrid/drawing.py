"""How MiniGrid's grids are drawn: as tiles, and as text."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ..tiles import COLOURS, picture, tile_of
from . import world
from .view import full_grid
from .world import MiniGridState, MiniGridTask

__all__ = ["as_text", "as_tiles"]

_LETTERS = {world.GOAL: "X", world.KEY: "K", world.BALL: "B", world.BOX: "O", world.FLOOR: "."}
_DOORS = {world.OPEN: "_", world.CLOSED: "D", world.LOCKED: "L"}
_HEADINGS = {world.EAST: ">", world.SOUTH: "v", world.WEST: "<", world.NORTH: "^"}


def as_tiles(state: MiniGridState, task: MiniGridTask, wide: int, pixels: int) -> jax.Array:
    """A picture of a grid of `wide` columns, in pure JAX.

    Args:
      state: of an episode.
      task: of that state.
      wide: columns of the grid.
      pixels: side of a square, at least `tiles.LEAST`.

    Returns:
      uint8 [H * pixels, wide * pixels, 3].
    """
    image = full_grid(state, task, wide).transpose(1, 0, 2).astype(jnp.int32)
    tiles = jnp.asarray(_tiles())[image[..., 0], image[..., 1], image[..., 2]]
    return picture(tiles, state.position, (state.heading + 1) & 3, pixels)


def as_text(state: MiniGridState, task: MiniGridTask, wide: int) -> str:
    """A grid of `wide` columns for a terminal, two columns a square.

    The letters are those that `render.text` names.
    """
    colours = [name[0] if name != "grey" else "G" for name in COLOURS]

    def drawn(square: np.ndarray) -> str:
        kind, colour, door = square.tolist()
        if kind == world.WALL:
            return "██"
        if kind == world.AGENT:
            return "@" + _HEADINGS[door]
        if kind == world.LAVA:
            return "~~"
        letter = _DOORS[door] if kind == world.DOOR else _LETTERS.get(kind)
        if letter is None:
            return "  "
        return letter + (" " if kind == world.GOAL else colours[colour])

    image = np.asarray(full_grid(state, task, wide)).transpose(1, 0, 2)
    return "\n".join("".join(map(drawn, row)).rstrip() for row in image)


@functools.cache
def _tiles() -> np.ndarray:
    """The tile of each of MiniGrid's (kind, colour, state), int32 [kinds, colours, states]."""
    tiles = np.full((world.AGENT + 1, len(COLOURS), 4), tile_of("floor"), np.int32)
    for kind, thing in ((0, "unseen"), (world.WALL, "wall"), (world.GOAL, "goal")):
        tiles[kind] = tile_of(thing)
    tiles[world.LAVA] = tile_of("lava")
    colour = np.arange(len(COLOURS))[:, None]
    for kind, thing in (
        (world.FLOOR, "painted floor"),
        (world.KEY, "key"),
        (world.BALL, "ball"),
        (world.BOX, "box"),
    ):
        tiles[kind] = tile_of(thing) + colour
    for state, thing in (
        (world.OPEN, "open door"),
        (world.CLOSED, "closed door"),
        (world.LOCKED, "locked door"),
    ):
        tiles[world.DOOR, :, state] = tile_of(thing) + colour[:, 0]
    return tiles
