"""Two processes of two devices each train what one process does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import optax
import problems
import pytest
import toy

import metajax as mj
from metajax import experiments, loggers, processes, runs, training

SETTINGS = {"seed": 3, "log_every": 2, "checkpoint_every": 2, "progress": False}
HALF, WHOLE, TASKS = 4, 8, 8


def learner(tasks: int = TASKS) -> mj.MetaLearner:
    mapping = mj.Mapping(mj.task_mesh(2))  # of each process
    return mj.maml(problems.quadratic(), mj.sgd(0.1), optax.adam(0.1), tasks, mapping=mapping)


def train(run: Path, updates: int, **options) -> mj.MetaState:
    return training.train(learner(), run=run, updates=updates, **SETTINGS, **options)


def evaluate(state: mj.MetaState) -> mj.Adaptation:
    mapping = mj.Mapping(mj.task_mesh(2))
    return mj.evaluate(learner(), state.params, problems.quadratic(), tasks=5, mapping=mapping)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


SCRIPT = """
import sys
import time
from pathlib import Path
from metajax import processes
processes.start("127.0.0.1:{port}", 2, int(sys.argv[1]))  # before anything computes
sys.path.insert(0, {here!r})
import test_processes
test_processes.one_of_two(Path({folder!r}), int(sys.argv[1]))
"""


def one_of_two(folder: Path, index: int) -> None:
    """What each of the two processes does; leaves what it saw in a file of its own."""
    lines: list[dict] = []
    state = train(folder / "begun-by-two", HALF, on_log=lines.append)
    train(folder / "begun-by-one", WHOLE, resume=True)
    seen = {"score": evaluate(state).score.tolist(), "lines": len(lines)}
    mj.save(folder / "saved", state.params)
    try:
        learner(tasks=6)
    except ValueError as error:
        seen["refused"] = str(error)
    try:
        train(folder / "begun-by-two", WHOLE)
    except (FileExistsError, ValueError) as error:
        seen["held"] = str(error)
    seen["alike"] = [processes.alike({"tasks": 8}), processes.alike({"tasks": 8 + index})]
    # Only one process is told to stop.
    pid = processes.greatest(os.getpid() if index == 1 else 0)
    told = []

    def tell_once(_: dict) -> None:  # twice would be to leave at once
        if not told:
            told.append(pid)
            os.kill(pid, signal.SIGTERM)

    try:
        train(folder / "stopped", 1000, on_log=tell_once)
    except training.Interrupted as stopped:
        seen["stopped"] = [stopped.update, stopped.signum]
    (folder / f"{index}.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    yield from toy.compiled_once(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder in which two processes trained, and what each of them saw."""
    folder = tmp_path_factory.mktemp("two")
    train(folder / "begun-by-one", HALF)
    here = str(Path(__file__).parent)
    script = SCRIPT.format(port=free_port(), here=here, folder=str(folder))
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(index)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return folder, [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[Path, mj.MetaState]:
    """The same in one process."""
    run = tmp_path_factory.mktemp("one")
    return run, train(run, WHOLE)


def metrics(run: Path) -> list[dict]:
    return loggers.read_metrics(run / "metrics.jsonl")


@pytest.mark.parametrize("begun", ["begun-by-two", "begun-by-one"])
def test_a_run_goes_on_from_another_number_of_processes(two, one, begun, tmp_path):
    run = Path(shutil.copytree(two[0] / begun, tmp_path / begun))
    state = train(run, WHOLE, resume=True)
    chex.assert_trees_all_close(state.params, one[1].params, rtol=1e-5)
    for line, expected in zip(metrics(run), metrics(one[0]), strict=True):
        assert line["update"] == expected["update"]
        assert line["env_steps"] == expected["env_steps"]
        np.testing.assert_allclose(line["outer_loss"], expected["outer_loss"], rtol=1e-5)


def test_every_process_evaluates_all_tasks(two):
    state, _ = training.restore(learner(), two[0] / "begun-by-two")
    for seen in two[1]:
        np.testing.assert_allclose(seen["score"], evaluate(state).score, rtol=1e-5)


def test_parameters_that_several_processes_save_are_read_by_one(two):
    state, _ = training.restore(learner(), two[0] / "begun-by-two")
    saved = mj.load(two[0] / "saved", jax.eval_shape(lambda: state.params))
    chex.assert_trees_all_equal(saved, state.params)


def test_a_signal_to_one_process_stops_all_after_the_same_update(two):
    folder, seen = two
    (update, signum), other = seen[0]["stopped"], seen[1]["stopped"]
    assert other == [update, signum]
    assert signum == signal.SIGTERM
    assert metrics(folder / "stopped")[-1]["update"] == update < 1000
    assert training.restore(learner(), folder / "stopped")[1].update == update


def test_the_first_process_alone_speaks(two):
    assert [seen["lines"] for seen in two[1]] == [HALF // SETTINGS["log_every"], 0]


def test_tasks_that_the_devices_of_all_processes_cannot_share_are_refused(two):
    for seen in two[1]:
        assert seen["refused"].startswith("tasks: 6 is not a multiple of the 4 devices")


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"coordinator: cannot listen at {address}"):
            processes.start(address, 2, 0)


def test_processes_know_whether_they_were_given_the_same(two):
    assert [seen["alike"] for seen in two[1]] == [[True, False]] * 2


def test_what_stops_the_first_process_stops_the_others(two):
    first, second = (seen["held"] for seen in two[1])
    assert "holds a run" in first
    assert second == "another process could not go on, and says why"


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(tmp_path, victim):
    run, port = tmp_path / "run", free_port()
    command = [sys.executable, "-m", "metajax", "train"]
    flags = "sinusoid-5 --tasks 8 --hidden 4 --log-every 10 --checkpoint-every 10 --updates"
    joined = f"--coordinator 127.0.0.1:{port} --processes 2 --devices 1 --run {run} --process-id"
    with contextlib.ExitStack() as stack:
        started = [
            subprocess.Popen([*command, *f"{flags} 100000 {joined} {index}".split()])
            for index in range(2)
        ]
        for process in started:
            stack.callback(process.wait)
            stack.callback(process.kill)
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "20").exists():
            assert [process.poll() for process in started] == [None, None]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        started[victim].kill()
        started[victim].wait()
        assert started[1 - victim].wait(timeout=60) not in (0, 2)
    config, _ = runs.read(run)
    alone = experiments.build(config).learner
    assert training.restore(alone, run, runs.described(run))[1].update >= 10
