"""The command line: `metajax list | plan | train | evaluate | render`.

Arguments are checked before anything is compiled or written; what is wrong with them is one line
on stderr and exit status 2. 1 is a failure that is not the arguments' fault, 130 and 143 are Ctrl-C
and SIGTERM, after saving.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from . import __version__
from .arguments import (
    EvaluateOptions,
    RenderOptions,
    UsageError,
    check_file,
    checking,
    parse,
    parse_plan,
    parse_train,
)
from .checks import require_integer
from .compiling import keep_programs
from .loggers import MetricsError

__all__ = ["main", "run"]

_MOST_DEVICES = 1024  # of a process; jax makes any number of them on a CPU, or dies of it

USAGE = """\
usage: metajax COMMAND ...

  list                        the presets, the environments and the algorithms
  plan [PRESET] [--flags]     what that takes: memory, operations, the time of an update
  train [PRESET] [--flags]    meta-train (default: maze), judge on held-out tasks, print the table
  train --resume RUN          go on exactly where RUN stopped, or to more --updates
  evaluate RUN [--flags]      adapt the newest checkpoint to fresh tasks: a table, or --json
  render RUN                  a GIF and PNGs: the agent before and after adaptation, the curves

`metajax COMMAND --help` has every flag of a command, `metajax train PRESET --help` of a preset.
PRESET may be MODULE:NAME, a configuration of your own: see docs/guide.md.
"""


def main() -> NoReturn:
    """The entry point of `metajax`."""
    logging.basicConfig(format="metajax: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):  # not closed; what it has no letter for is "?"
        sys.stdout.reconfigure(errors="replace")
    # Our own messages on checkpoints are better than Orbax's, which come with tracebacks.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stdout.flush()
        # An ordinary exit would wait for the chunk that the device still computes.
        os._exit(130)
    except Exception:
        if not _one_of_several():
            raise
        traceback.print_exc()
        status = 1
    if status == 1 and _one_of_several():
        sys.stdout.flush()
        # An ordinary exit would wait for the others, who wait for what this one was to compute.
        os._exit(1)
    sys.exit(status)


def _one_of_several() -> bool:
    from . import processes

    return processes.several()


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C where there is nothing to save.
    """
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "plan": _plan,
        "train": _train,
        "evaluate": _evaluate,
        "render": _render,
    }
    command, *rest = [*arguments] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        print(f"metajax {__version__}")
        return 0
    try:
        if command not in commands:
            raise UsageError(f"command: expected one of {', '.join(commands)}, got {command!r}")
        status = commands[command](rest)
        if sys.stdout is not None:  # closed
            sys.stdout.flush()  # here, where an error of it has a name
        return status
    except (UsageError, MetricsError) as error:
        _say(str(error))
        return 2
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except BrokenPipeError:  # whoever read the output has read enough
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    except OSError as error:
        _say(f"failed: {error}")
        return 1
    except RuntimeError as error:  # jax's, of any other kind than that of memory, is a bug of ours
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _say(f"failed: out of memory ({str(error).splitlines()[0]}); `metajax plan` says what fits")
        return 1


def _say(text: str) -> None:
    print(f"metajax: {text}", file=sys.stderr, flush=True)


def _use_devices(devices: int | None) -> None:
    """All cores as JAX devices where the CPU computes, or as many as asked for."""
    import jax

    if devices is not None and not 1 <= devices <= _MOST_DEVICES:
        raise UsageError(f"devices: expected 1 to {_MOST_DEVICES}, got {devices}")
    if devices is None:
        if getattr(jax.config, "jax_num_cpu_devices") > 0:  # noqa: B009 (the environment decided)
            return
        if hasattr(os, "sched_getaffinity"):
            devices = len(os.sched_getaffinity(0))
        else:
            devices = os.cpu_count() or 1
    # It is too late where a backend has started: in a notebook, or a test.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", devices)


def _start_backend() -> None:
    import jax

    from .checks import require_jit

    require_jit("metajax")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split()) or "its devices cannot be used"
        raise UsageError(
            f"jax found no device (JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}): {reason}"
        ) from None


def _list(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments:
        raise UsageError(f"list takes no arguments, got {arguments[0]!r}")
    import envs

    from . import catalogue, presets

    sections = {
        "presets": {name: presets.describe(name) for name in presets.PRESETS},
        "environments": envs.registered(),
        "algorithms": catalogue.ALGORITHMS,
    }
    width = max(len(name) for lines in sections.values() for name in lines)
    for title, lines in sections.items():
        print(title)
        for name, line in lines.items():
            print(f"  {name:<{width}}  {line}")
    return 0


def _plan(arguments: list[str]) -> int:
    options, config = parse_plan(arguments)
    from . import plan, tuning

    with checking():
        _use_devices(config.devices)
        _start_backend()
        keep_programs()
        print(plan.plan(config, options.memory), flush=True)
        if options.tune:
            free = None if options.memory is None else round(options.memory * 2**30)
            print(f"  {'tuned':<13}{tuning.tune(config, tuning.memory(), free)}")
    return 0


def _train(arguments: list[str]) -> int:
    options, config, stored = parse_train(arguments)
    from . import experiments, presets, processes, runs, training

    folder = options.resume or options.run
    with contextlib.ExitStack() as stack, checking():
        if stored is None and folder and not options.joins:
            runs.check_free(folder, options.overwrite)
        _use_devices(config.devices)
        keep_programs()
        if options.joins:
            processes.start(options.coordinator, options.processes, options.process_id)
        with processes.together():
            _start_backend()
            if stored is None:
                experiments.check_held_out(config)
            if options.tune:
                config = _tuned(config)
            experiment = experiments.build(config, begun=stored is not None)
            if stored is None and not presets.is_ours(config.preset):
                training.trace(experiment.learner)  # or a mistake in it costs the run before
            folder = folder or runs.reserve(config)
        updates = config.updates if stored is None else stored[runs.EXTENDED]
        with processes.together():
            if not processes.alike([dataclasses.asdict(config), updates]):  # or they wait forever
                raise UsageError(
                    "several processes: expected the same settings, and the same command on each"
                )
            if processes.first():
                stack.enter_context(runs.holding(folder))
                if stored is None:
                    runs.create(folder, config, options.overwrite)
                elif updates != config.updates:
                    experiments.check_resumable(experiment, folder)
                    runs.extend(folder, updates)
        held = stack.pop_all()
    with held:
        return _train_in(folder, config, experiment, stored, updates, options.quiet)


def _train_in(
    folder: Path, config: Any, experiment: Any, stored: Any, updates: int, quiet: bool
) -> int:
    """Trains in a run folder, from where it is, and judges the result."""
    from . import processes, training

    if processes.first():
        _note_changes(stored)
    try:
        with processes.losing():
            _train_learners(folder, config, experiment, updates, quiet)
            return _finish(folder, config, experiment)
    except training.Interrupted as stopped:
        if processes.first():
            _say(f"{stopped}; go on with: metajax train --resume {quote(str(folder))}")
        return 128 + stopped.signum
    except KeyboardInterrupt:
        _say(f"stopped; go on with: metajax train --resume {quote(str(folder))}")
        raise
    except processes.Refused as refused:
        raise UsageError(str(refused)) from None
    except processes.Lost as lost:
        _say(f"{lost}; go on with: metajax train --resume {quote(str(folder))}")
        return 1


def _tuned(config: Any) -> Any:
    """The configuration with the tile, or chunk, that is fastest on this machine."""
    from . import tuning

    tuned = tuning.tune(config, tuning.memory())
    _say(f"tuned: {tuned}")
    if tuned.best == tuned.planned:
        return config
    return dataclasses.replace(config, **{tuned.field: tuned.best})


def _train_learners(folder: Path, config: Any, experiment: Any, updates: int, quiet: bool) -> None:
    from . import checkpoints, experiments, roofline, runs, training

    peak = roofline.matrix_rate(experiment.mapping.mesh)
    learners = {"": (experiment.learner, folder, f"{config.preset}, {config.algorithm}")}
    if config.comparisons and experiment.multitask is not experiment.learner:
        learners[runs.MULTITASK] = (
            experiment.multitask, folder / runs.MULTITASK, "for comparison: multi-task policy",
        )  # fmt: skip
    for row, (learner, where, title) in learners.items():
        with checking(checkpoints.CheckpointError, training.TooLargeError):
            training.train(
                learner,
                updates=updates,
                seed=config.seed,
                run=where,
                resume=True,  # a new run has nothing yet
                config=runs.described(folder, row),
                log_every=config.log_every,
                checkpoint_every=config.checkpoint_every,
                progress=False if quiet else None,
                title=title,
                peak=peak,
                shelf=experiments.shelf(config, row),
            )


def _note_changes(stored: dict[str, Any] | None) -> None:
    """Says what differs from where a run was started: its numbers may differ in the last digits."""
    from . import runs

    if stored is None:
        return
    now = {**runs.versions(), **{f"device {k}": v for k, v in runs.device().items()}}
    device = {f"device {k}": v for k, v in stored.get("device", {}).items()}
    then = {**stored.get("versions", {}), **device}
    changes = [f"{k} {then.get(k)} is now {v}" for k, v in now.items() if then.get(k) != v]
    if changes:
        _say(f"goes on elsewhere than it started: {', '.join(changes)}")


def _finish(folder: Path, config: Any, experiment: Any) -> int:
    """Judges a trained run, and leaves the results in its folder and on screen."""
    from . import judging, processes, runs

    rows, params = judging.rows(folder, config, experiment)
    with processes.together():
        if processes.first():
            report = judging.report(config, rows)
            runs.write_json(folder / runs.ADAPTATION, report)
            try:
                judging.print_table(config, rows)
            finally:  # drawn even where nobody reads the table
                from . import render  # matplotlib's settings are the user's, the table needs none

                render.draw_curves(folder, config, report)
                render.draw_agent(folder, config, experiment, params)
            print(f"everything is in {folder}")
    return 0


def _open(folder: Path, devices: int | None) -> tuple[Any, Any]:
    """The configuration of a run folder and what it describes."""
    from . import experiments, runs

    with checking():
        config, _ = runs.read(folder)
        if devices is not None:
            config = dataclasses.replace(config, devices=devices)
        _use_devices(config.devices)
        keep_programs()
        _start_backend()
        return config, experiments.build(config, begun=True)


def _evaluate(arguments: list[str]) -> int:
    options = parse(EvaluateOptions, arguments, "evaluate", "Adapts a run to fresh tasks.")
    for name, least in (("tasks", 1), ("steps", 0)):
        value = getattr(options, name)
        if value is not None:
            with checking():
                require_integer(f"--{name}", value, least)
    if options.scores is not None:
        check_file("--scores", options.scores, ".npz")
    config, experiment = _open(options.run, options.devices)
    from . import judging, scores

    rows, _ = judging.rows(options.run, config, experiment, options.tasks, options.steps)
    try:
        if options.json:
            print(json.dumps(judging.report(config, rows), allow_nan=False))
        else:
            judging.print_table(config, rows)
    finally:  # saved even where nobody reads the table, and shown where it cannot be saved
        if options.scores is not None:
            scores.save(options.scores, rows)
    return 0


def _render(arguments: list[str]) -> int:
    options = parse(RenderOptions, arguments, "render", "Draws a run: its curves, and its agent.")
    config, experiment = _open(options.run, options.devices)
    from . import checkpoints, judging, render, runs, training

    with checking(checkpoints.CheckpointError):
        state, _ = training.restore(experiment.learner, options.run, runs.described(options.run))
    report = runs.read_report(options.run)
    if report is None:
        rows, _ = judging.rows(options.run, config, experiment)
        report = judging.report(config, rows)
    written = render.draw_curves(options.run, config, report)
    written += render.draw_agent(options.run, config, experiment, state.params)
    for path in written:
        print(path)
    return 0
