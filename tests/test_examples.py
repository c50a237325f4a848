"""The notebook runs as it stands, in a kernel of its own, and draws what it says."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
def test_quickstart_notebook_runs_and_draws(monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # as a user's kernel has it: inline
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": EXAMPLES}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
