"""Run folders: creating, overwriting and reading them."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import __version__, configs, presets
from .files import lock, write_whole

__all__ = [
    "ADAPTATION",
    "CONFIG",
    "EXTENDED",
    "MULTITASK",
    "RunError",
    "create",
    "described",
    "extend",
    "holding",
    "read",
    "reserve",
]

CONFIG = "config.json"
EXTENDED = "extended_to"  # in it: updates, where those are more than the run began with
ADAPTATION = "adaptation.json"
MULTITASK = "multitask"  # the folder of the multi-task policy's run, inside the run

_PICTURES = ("learning.png", "adaptation.png", "agent.png", "agent.gif")
_OWNED = (
    *(CONFIG, ADAPTATION, "metrics.jsonl", "checkpoints", "checkpoints-refused", MULTITASK),
    *_PICTURES,
)
_COLUMNS = ("steps", "mean", "ci95")  # of a report, a row for each inner step
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunError(ValueError):
    """A folder that cannot be used as asked; the message is one line."""


def reserve(config: configs.TrainConfig) -> Path:
    """Makes runs/PRESET-ALGORITHM-TIME, with a number behind where another run has that."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = config.preset.replace(":", ".")  # not all file systems take a colon
    base = Path("runs") / f"{name}-{config.algorithm}-{now}"
    base.parent.mkdir(exist_ok=True)
    for path in (base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise RunError(f"--run: expected a folder; {base} and all that are numbered exist")


@contextlib.contextmanager
def holding(run: Path) -> Iterator[None]:
    """Makes the folder where it is missing, and keeps other processes from training in it.

    Raises:
        RunError: another one is.
    """
    run.mkdir(parents=True, exist_ok=True)
    try:
        held = lock(run)
    except BlockingIOError:
        raise RunError(f"another process is training in {run}") from None
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


def check_free(run: Path, overwrite: bool) -> None:
    """Raises RunError where a new run may not be written to `run`."""
    from .checkpoints import unfit

    if why := unfit(run):
        raise RunError(f"--run: {why}")
    if not run.exists():
        return
    if not run.is_dir():
        raise RunError(f"--run: {run} is a file")
    if not any(run.iterdir()):
        return
    if not (run / CONFIG).is_file():
        raise RunError(f"--run: {run} holds something else than a run (it has no {CONFIG})")
    if not overwrite:
        raise RunError(
            f"--run: {run} exists; --overwrite replaces it, "
            f"`metajax train --resume {run}` goes on with it"
        )


def create(run: Path, config: configs.TrainConfig, overwrite: bool) -> None:
    """Makes a run folder that holds its configuration and nothing else of a run.

    If a run is overwritten, the files that make up a run are removed, and no others: call this
    while `holding` it.

    Raises:
        RunError: see `check_free`.
    """
    check_free(run, overwrite)
    run.mkdir(parents=True, exist_ok=True)
    # What makes it a run goes last: whatever stops this, it can be overwritten still.
    for path in sorted((run / name for name in _OWNED), key=lambda path: path.name == CONFIG):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    content = {
        "config": dataclasses.asdict(config),
        "versions": versions(),
        "device": device(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(run / CONFIG, content)


def read(run: Path) -> tuple[configs.TrainConfig, dict[str, Any]]:
    """The configuration of a run folder, and all of its `config.json`.

    Raises:
        RunError: it is not a run folder, or was written by a version that differs too much.
    """
    try:
        content = json.loads((run / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "config" not in content:
            raise ValueError("it holds no config")
        kinds = {EXTENDED: int, "versions": dict, "device": dict}
        for name, kind in kinds.items():
            if type(content.get(name, kind())) is not kind:
                raise ValueError(f"{name}: expected {kind.__name__}, got {content[name]!r}")
        return presets.from_json(content["config"]), content
    except (FileNotFoundError, NotADirectoryError):
        what = f"has no {CONFIG}" if run.exists() else "does not exist"
        if (run / "checkpoints").is_dir():
            what += "; `metajax.load` reads what was trained in Python"
        raise RunError(f"{run} is not a run folder (it {what})") from None
    except json.JSONDecodeError:
        raise RunError(f"{run / CONFIG} is damaged (it is not JSON)") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{run / CONFIG} cannot be used ({error})") from None


def extend(run: Path, updates: int) -> None:
    """Has a run go on to so many updates, for good. What it was begun with stays as it is.

    Its outer rate stays what it was at the end of the run as it began.
    """
    content = read(run)[1]
    if content.get(EXTENDED, 0) < updates:
        write_json(run / CONFIG, {**content, EXTENDED: updates})
        (run / ADAPTATION).unlink(missing_ok=True)  # of fewer updates


def read_report(run: Path) -> dict[str, Any] | None:
    """The content of `adaptation.json`, None where there is none that can be used."""
    try:
        report = json.loads((run / ADAPTATION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    needed = {"algorithm", "tasks", "steps", "mean", "ci95", "oracle"}
    if not isinstance(report, dict) or not needed <= report.keys():
        return None
    lengths = [len(report[name]) if isinstance(report[name], list) else 0 for name in _COLUMNS]
    return report if lengths[0] and len(set(lengths)) == 1 else None


def described(run: Path, row: str = "") -> dict[str, Any]:
    """What must agree for a checkpoint to belong to a run: all but where it is computed.

    As it was written when the run began: fields that came later do not count.

    Args:
        run: the folder.
        row: which of the run's learners, where it is not the one that the algorithm names.

    Raises:
        RunError: see `read`.
    """
    stored = read(run)[1]["config"]
    kept = {name: value for name, value in stored.items() if name != "devices"}
    return {**kept, "row": row}


def computed(config: configs.TrainConfig, row: str = "") -> dict[str, Any]:
    """What determines the programs of a run: not its seed, nor what is logged or evaluated when.

    Args:
        config: of the run.
        row: as in `described`.
    """
    content = dataclasses.asdict(config)
    looked_at = ("log_every", "checkpoint_every", "evaluation_tasks", "evaluation_steps")
    for name in ("seed", "comparisons", *looked_at):
        del content[name]
    return {**content, "row": row}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    others = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version(), "metajax": __version__, **others}


def device() -> dict[str, Any]:
    """What the default backend computes on."""
    import jax

    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content`, as a whole or not at all."""
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
