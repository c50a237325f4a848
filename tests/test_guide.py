"""The blocks of docs/guide.md run as they stand, one after another, and those of the README."""

import re
from pathlib import Path

import jax
import numpy as np

import envs

README = Path(__file__).parent.parent / "README.md"
GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"


def run(file, blocks=slice(None), **names):
    """Runs the Python blocks of a file, one after another; returns the names they leave."""
    text = file.read_text(encoding="utf-8")
    for found in [*re.finditer(r"```python\n(.*?)```", text, re.DOTALL)][blocks]:
        line = text[: found.start(1)].count("\n")  # so that a traceback has the file's own lines
        exec(compile("\n" * line + found[1], str(file), "exec"), names)
    return names


def test_the_second_block_of_the_readme_runs():
    """The first takes as long as it says; the imports are its."""
    names = run(README, slice(1, None), jax=jax, envs=envs)
    assert np.isfinite(names["best"]).all()
    assert names["task"].exit.tolist() == [1, 3]


def test_every_block_of_the_guide_runs():
    names = run(GUIDE)
    assert names["film"].shape[0] == 13
    np.testing.assert_allclose(names["probabilities"].sum(axis=-1), 1.0, rtol=1e-5)
    assert np.isfinite(names["scores"]).all()
    assert names["scores"].shape == (3, 4)
    assert names["result"].mean[-1] > names["result"].mean[0]  # adaptation helps
