"""Grids as a reader would write them: numpy, a square at a time, no packed words."""

from __future__ import annotations

import numpy as np

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def walls_of(words: np.ndarray, wide: int) -> np.ndarray:
    """bool [H, wide], true where a wall is, of packed rows uint32 [H, words]."""
    rows = [sum(int(word) << 32 * place for place, word in enumerate(row)) for row in words]
    return np.array([[bool(row >> column & 1) for column in range(wide)] for row in rows])


def is_wall(walls: np.ndarray, row: int, column: int) -> bool:
    inside = 0 <= row < walls.shape[0] and 0 <= column < walls.shape[1]
    return not inside or bool(walls[row, column])


def distances(walls: np.ndarray, source: tuple[int, int]) -> dict[tuple[int, int], int]:
    """The fewest moves to `source` from every square that has a path."""
    found = {} if is_wall(walls, *source) else {source: 0}
    queue = list(found)
    for row, column in queue:
        for down, right in MOVES:
            square = (row + down, column + right)
            if square not in found and not is_wall(walls, *square):
                found[square] = found[row, column] + 1
                queue.append(square)
    return found


def random_walls(seed: int, high: int, wide: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((high, wide)) < share
