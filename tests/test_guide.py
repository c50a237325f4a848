"""The blocks of docs/guide.md run as they stand, one after another, and those of the README."""

import ast
import inspect
import re
import types
from pathlib import Path

import jax
import nbformat
import numpy as np
import pytest

import envs

README = Path(__file__).parent.parent / "README.md"
GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"
NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


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


def sources(file):
    if file.suffix == ".ipynb":
        cells = nbformat.read(file, as_version=4).cells
        return [cell.source for cell in cells if cell.cell_type == "code"]
    return re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("file", [README, GUIDE, NOTEBOOK], ids=lambda file: file.name)
def test_what_examples_take_from_modules_is_there_and_has_the_arguments(file):
    """Seen at once, where to run all of them takes minutes."""
    names, checked = {}, 0

    def found(node):
        """What a name, or a module's attribute, stands for; None for all else."""
        if isinstance(node, ast.Name):
            return names.get(node.id)
        owner = found(node.value) if isinstance(node, ast.Attribute) else None
        return getattr(owner, node.attr) if isinstance(owner, types.ModuleType) else None

    for source in sources(file):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(compile(ast.Module([node], []), str(file), "exec"), names)
        for node in ast.walk(ast.parse(source)):
            function = found(node.func if isinstance(node, ast.Call) else node)
            if isinstance(node, ast.Call) and callable(function):
                given = {each.arg: None for each in node.keywords if each.arg}
                inspect.signature(function).bind_partial(**given)
                checked += 1
    assert checked > 5


@pytest.mark.slow
def test_every_block_of_the_guide_runs():
    names = run(GUIDE)
    assert names["film"].shape[0] == 13
    np.testing.assert_allclose(names["probabilities"].sum(axis=-1), 1.0, rtol=1e-5)
    assert np.isfinite(names["scores"]).all()
    assert names["scores"].shape == (3, 4)
    assert names["result"].mean[-1] > names["result"].mean[0]  # adaptation helps
