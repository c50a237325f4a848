"""The command line in tests: small runs, what is in them, and what a refusal looks like."""

from __future__ import annotations

from pathlib import Path

from metajax import cli, loggers

# Sizes of no use but to run through everything quickly.
GRIDWORLD = [
    *("train", "gridworld", "--updates", "4", "--tasks", "2", "--episodes", "2", "--hidden", "4"),
    *("--log-every", "2", "--checkpoint-every", "2", "--env.size", "4", "--env.horizon", "6"),
    *("--evaluation-tasks", "4", "--evaluation-steps", "1", "--quiet"),
]
SINUSOID = [
    *("train", "sinusoid-10", "--updates", "4000", "--tasks", "4", "--hidden", "8"),
    *("--log-every", "100", "--checkpoint-every", "300", "--evaluation-tasks", "8"),
    *("--evaluation-steps", "2", "--no-comparisons", "--quiet"),
]


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metrics(run: Path) -> list[dict]:
    rows = loggers.read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in loggers.CLOCK_FIELDS} for row in rows]


def refused(capsys, *arguments: object) -> str:
    """The one line that a command line is refused with."""
    assert cli.run([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("metajax: ")
    assert "Traceback" not in err
    return err
