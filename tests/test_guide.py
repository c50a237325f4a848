"""The blocks of docs/guide.md run as they stand, one after another."""

import re
from pathlib import Path

import numpy as np

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"


def test_every_block_of_the_guide_runs():
    text = GUIDE.read_text(encoding="utf-8")
    names = {}
    for found in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        line = text[: found.start(1)].count("\n")  # so that a traceback has the guide's own lines
        exec(compile("\n" * line + found[1], str(GUIDE), "exec"), names)
    assert np.isfinite(names["scores"]).all()
    assert names["scores"].shape == (3, 4)
    assert names["result"].mean[-1] > names["result"].mean[0]  # adaptation helps
