"""What the command line was given: a flag per field, and one line for what is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from .catalogue import ALGORITHMS

__all__ = [
    "EvaluateOptions",
    "PlanOptions",
    "RenderOptions",
    "TrainOptions",
    "UsageError",
    "check_file",
    "checking",
    "parse",
    "parse_plan",
    "parse_train",
]


class UsageError(ValueError):
    """Something is wrong with the arguments; the message is one line."""


@dataclasses.dataclass
class PlanOptions:
    memory: float | None = None
    """GiB of memory per device; by default what is free here."""
    tune: bool = False
    """Also time a few updates with other tiles (on an accelerator, chunks); remembers them."""


@dataclasses.dataclass
class TrainOptions:
    run: Path | None = None
    """Folder to write; runs/PRESET-ALGORITHM-TIME by default."""
    overwrite: bool = False
    """Replace the run that is there."""
    resume: Path | None = None
    """Go on with this run; its own settings hold."""
    quiet: bool = False
    """No progress."""
    tune: bool = False
    """Time tiles (on an accelerator, chunks) first, once per program; take the fastest."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes that train one run."""
    processes: int | None = None
    """How many processes train it."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    distributed: bool = False
    """One of several processes that a cluster started (SLURM, Open MPI, Kubernetes, Cloud TPU)."""

    @property
    def joins(self) -> bool:
        """Whether this is one of several processes."""
        return self.distributed or self.coordinator is not None


@dataclasses.dataclass
class EvaluateOptions:
    run: tyro.conf.Positional[Path]
    """A run folder."""
    tasks: int | None = None
    """Held-out tasks; by default as in the run's own evaluation."""
    steps: int | None = None
    """Inner steps, in RL² episodes before a trial's last; by default as in the run's own
    evaluation."""
    json: bool = False
    """Print one JSON object instead of the table."""
    scores: Path | None = None
    """Also write the score of each task, of each row of the table, to this .npz file."""
    devices: int | None = None
    """Devices that share the tasks; as in training by default."""


@dataclasses.dataclass
class RenderOptions:
    run: tyro.conf.Positional[Path]
    """A run folder."""
    devices: int | None = None
    """Devices that share the tasks; as in training by default."""


@contextlib.contextmanager
def checking(*kinds: type[Exception]) -> Iterator[None]:
    """Around what checks arguments: these errors, all that it may raise by default, are usage."""
    try:
        yield
    except kinds or (ValueError, OSError) as error:  # noqa: B030
        text = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        raise UsageError(" ".join(text.split())) from None


def check_file(flag: str, path: Path, suffix: str) -> None:
    """Raises UsageError unless a file of that name could be written to `path`."""
    if path.suffix != suffix or path.is_dir():
        raise UsageError(f"{flag}: expected the name of an {suffix} file, got {path}")
    if not path.parent.is_dir():
        raise UsageError(f"{flag}: expected an {suffix} file in a folder that exists, got {path}")


def parse(what: Any, arguments: list[str], command: str, description: str) -> Any:
    """tyro, with its boxed errors as one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                what, args=arguments, prog=f"metajax {command}", description=description
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(errors.getvalue())) from None


# What Python and tyro say of a value that cannot be read, and we.
_UNREADABLE = {
    r"invalid literal for int\(\) with base 10: ('.*')": r"expected an integer, got \1",
    r"could not convert string to float: ('.*')": r"expected a number, got \1",
    r"no type matching \{None\}\|INT could be .* from \[(.*)\]\.?": r"expected an integer, got \1",
    r"no type matching \{None\}\|FLOAT could be .* from \[(.*)\]\.?": r"expected a number, got \1",
    r"Could not find valid parse for arguments: \[(.*)\]": r"cannot be read, got \1",
}


def _one_line(box: str) -> str:
    """The message in one of tyro's boxes, and the flags that it says may have been meant.

    A box has a title, then sections between rules: the message, hints, where to find help. It is
    drawn with dashes and spaces where the terminal has no better.
    """
    sections: list[list[str]] = [[]]
    for line in (line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:]):
        if line.strip("-"):
            sections[-1].append(line)
        else:
            sections.append([])
    message, *hints = [section for section in sections if section] or [[box.strip()]]
    text = " ".join(message).removeprefix("Error parsing ").removeprefix("config.")
    for theirs, ours in _UNREADABLE.items():
        text = re.sub(theirs, ours, text)
    for hint in hints:
        if hint[0].startswith("Perhaps you meant"):
            near = [line.split()[0].rstrip(",") for line in hint if line.startswith("--")]
            odd = next((word for word in text.split() if word.startswith("--")), "")
            near.sort(
                key=lambda flag: difflib.SequenceMatcher(None, odd, flag).ratio(), reverse=True
            )
            text += f"; nearest: {', '.join(near)}"
    return text


def _preset(arguments: list[str]) -> tuple[list[str], Any]:
    """The preset's name where there is one, taken from `arguments`, and its configuration."""
    import envs

    from . import presets, runs

    named = [arguments.pop(0)] if arguments and not arguments[0].startswith("-") else []
    if named and arguments and arguments[0] in ALGORITHMS:
        raise UsageError(f"unexpected {arguments[0]}; as an algorithm: --algorithm {arguments[0]}")
    for name in (each for each in named if not presets.is_ours(each)):
        is_run = False
        with contextlib.suppress(OSError):  # a name that no file can have
            is_run = (Path(name) / runs.CONFIG).is_file()
        if is_run:
            raise UsageError(f"preset: {name} is a run; --resume {name} goes on with it")
        if name in envs.registered():
            every = ", ".join(presets.PRESETS)
            raise UsageError(
                f"preset: {name} is an environment without one, for Python; presets: {every}"
            )
    name = named[0] if named else next(iter(presets.PRESETS))
    with checking():
        return named, presets.preset(name, _value_of("--algorithm", arguments))


def parse_plan(arguments: list[str]) -> tuple[PlanOptions, Any]:
    """The options, and the configuration as `parse_train` reads it."""
    _, default = _preset(arguments)
    description = "Says what training takes, before it runs; compiles, and writes nothing."
    options, config = _parse_config("plan [PRESET]", PlanOptions, default, arguments, description)
    if options.memory is not None and not 0 < options.memory < 2**30:
        raise UsageError(f"--memory: expected above 0 and below 2^30 GiB, got {options.memory}")
    return options, config


def parse_train(arguments: list[str]) -> tuple[TrainOptions, Any, dict[str, Any] | None]:
    """The options, the configuration, and the `config.json` of the run that is resumed.

    The latter with the updates to go on to as `runs.EXTENDED`.
    """
    from . import presets, runs

    named, default = _preset(arguments)
    stored = None
    resumed = _value_of("--resume", arguments)
    if resumed is not None:
        with checking():
            default, stored = runs.read(Path(resumed))
    description = "Meta-trains, evaluates on held-out tasks and writes a run folder. Presets: "
    description += f"{', '.join(presets.PRESETS)}, or MODULE:NAME for your own. "
    description += f"These are the flags of {default.preset}."
    options, config = _parse_config("train [PRESET]", TrainOptions, default, arguments, description)
    if stored is not None:
        more = stored.get(runs.EXTENDED, default.updates)
        if _value_of("--updates", arguments) is not None:
            more = _check_extension(options.resume, config.updates, default, more)
            config = dataclasses.replace(config, updates=default.updates)
        _check_resume(options, config, default, named)
        stored = {**stored, runs.EXTENDED: more}
    _check_processes(options)
    return options, config, stored


def _value_of(flag: str, arguments: list[str]) -> str | None:
    given = [each for each in arguments if each == flag or each.startswith(f"{flag}=")]
    if len(given) > 1:  # this would be the first, tyro takes the last
        raise UsageError(f"{flag}: expected once, got {len(given)} times")
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and index + 1 < len(arguments):
            value = arguments[index + 1]
            return None if value.startswith("--") else value  # what is missing, tyro says
    return None


def _parse_config(
    command: str, own: Any, default: Any, arguments: list[str], description: str
) -> tuple[Any, Any]:
    """A flag per field of the preset, beside the command's `own` options."""
    kind = type(default)
    values = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    # The preset is the positional argument, so its field is no flag.
    hidden = [("preset", tyro.conf.Suppress[str])]
    flags = dataclasses.make_dataclass(kind.__name__, hidden, bases=(kind,), frozen=True)
    both = dataclasses.make_dataclass(
        own.__name__,
        [("config", Annotated[flags, tyro.conf.arg(name="")], flags(**values))],
        bases=(own,),
    )
    parsed = parse(both, arguments, command, description)
    options = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(own)}
    config = {name: getattr(parsed.config, name) for name in values}
    return own(**options), kind(**config)


def _check_resume(options: TrainOptions, config: Any, stored: Any, named: list[str]) -> None:
    """Raises UsageError where a flag contradicts the run; where it runs, it may choose anew."""
    where = options.resume
    assert where is not None
    if options.run is not None and options.run.absolute() != where.absolute():
        raise UsageError(f"--run: {options.run} contradicts --resume {where}")
    for flag in ("overwrite", "tune"):
        if getattr(options, flag):
            raise UsageError(f"--{flag} contradicts --resume {where}")
    if named and named[0] != stored.preset:
        raise UsageError(f"preset: {named[0]} contradicts {where}, which is of {stored.preset}")
    given, kept = _flat(dataclasses.asdict(config)), _flat(dataclasses.asdict(stored))
    for flag, value in given.items():
        if value != kept[flag] and flag != "devices":
            shown = flag.replace("_", "-")
            raise UsageError(f"--{shown}: {value} contradicts {where}, which has {kept[flag]}")


def _check_extension(where: Any, updates: int, stored: Any, planned: int) -> int:
    """The updates to go on to; raises UsageError where a run cannot."""
    if updates < planned:
        raise UsageError(f"--updates: {updates} contradicts {where}, which has {planned}")
    if updates > planned and not stored.final_rate:
        raise UsageError(f"--updates: {where} cannot go on, its rate is 0 after {stored.updates}")
    return updates


def _check_processes(options: TrainOptions) -> None:
    """Raises UsageError where it is not told who trains."""
    three = {name: getattr(options, name) for name in ("coordinator", "processes", "process_id")}
    flags = {f"--{name.replace('_', '-')}": value for name, value in three.items()}
    given = [flag for flag, value in flags.items() if value is not None]
    if options.distributed and given:
        raise UsageError(f"{given[0]} contradicts --distributed: the cluster knows")
    if 0 < len(given) < len(flags):
        missing = ", ".join(flag for flag in flags if flag not in given)
        raise UsageError(f"{given[0]}: expected {missing} beside it")
    if options.joins and options.tune:  # each would time for itself, and choose its own
        raise UsageError("--tune: one process times; `metajax plan --tune` says what to ask for")
    if options.joins and options.run is None and options.resume is None:
        raise UsageError("--run: expected a folder, the same for all processes")
    if options.coordinator is None or options.processes is None or options.process_id is None:
        return
    if options.processes < 1:
        raise UsageError(f"--processes: expected at least 1, got {options.processes}")
    if not 0 <= options.process_id < options.processes:
        last = options.processes - 1
        raise UsageError(f"--process-id: expected 0 to {last}, got {options.process_id}")
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"--coordinator: expected HOST:PORT, got {options.coordinator!r}")


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """{"env": {"size": 9}} -> {"env.size": 9}."""
    out = {}
    for name, value in content.items():
        if isinstance(value, dict):
            out |= {f"{name}.{inner}": leaf for inner, leaf in _flat(value).items()}
        else:
            out[name] = value
    return out
