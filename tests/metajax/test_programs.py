"""Programs of earlier starts are found by what they follow from, and by nothing else."""

import concurrent.futures
import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from metajax import evaluation, programs, source, training, updates
from metajax.mapping import Mapping, task_mesh

SETTINGS = {"updates": 12, "log_every": 4, "progress": False}


@pytest.fixture
def shelf(tmp_path):
    return programs.Shelf(tmp_path / "whole", "world", "description")


def lower(function, *args):
    """Anew: what this process has compiled, jax does not look up again."""
    anew = jax.jit(lambda *args: function(*args), donate_argnums=0, keep_unused=True)
    return anew.lower(*args)


def labels(shelf):
    return {*shelf.folder.glob("*.label")}


def keep(shelf, name, function, *args, note=None):
    """Compiles a program and waits for it to be kept."""
    before = labels(shelf)
    shelf.compile(name, lower(function, *args), note)
    wait(lambda: labels(shelf) - before)


def wait(happened):
    """A thread does it."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.smoke
def test_a_program_comes_back_with_its_note_and_does_the_same(shelf):
    state = {"x": jnp.arange(3.0), "key": jax.random.key(0)}

    def program(state, count):
        return {**state, "x": jnp.sin(state["x"]) * count}

    assert shelf.take("one", state, jnp.float32(2)) is None
    keep(shelf, "one", program, state, jnp.float32(2), note={"flops": 7.0})
    assert shelf.folder.stat().st_mode & 0o777 == 0o700
    found, note = shelf.take("one", state, jnp.float32(2))
    assert note == {"flops": 7.0}
    out = found(state, jnp.float32(2))
    np.testing.assert_allclose(out["x"], 2 * np.sin([0.0, 1.0, 2.0]), rtol=1e-6)
    assert state["x"].is_deleted()  # it was donated, as to the program that was put
    assert shelf.take("other", out, jnp.float32(2)) is None
    for field in ("world", "description"):
        assert shelf._replace(**{field: "another"}).take("one", out, jnp.float32(2)) is None


@pytest.mark.smoke
def test_a_program_of_several_devices_comes_back_for_them(shelf):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(jnp.arange(4.0), jax.NamedSharding(mesh, jax.P("i")))
    keep(shelf, "two", lambda x: x + 1, spread)
    found, _ = shelf.take("two", jax.ShapeDtypeStruct((4,), jnp.float32))
    out = found(spread)
    np.testing.assert_array_equal(out, [1.0, 2.0, 3.0, 4.0])
    assert len(out.sharding.device_set) == 2


def test_a_program_that_is_there_gets_another_label(shelf, monkeypatch):
    argument = jnp.zeros(3)
    keep(shelf, "one", jnp.cos, argument, note=1)
    edited = shelf._replace(description="edited")
    lowered = lower(jnp.cos, argument)
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    edited.compile("one", lowered, note=2)(jnp.zeros(3))
    assert edited.take("one", argument)[1] == 2
    assert shelf.take("one", argument)[1] == 1
    assert len([*shelf.folder.glob("*.program")]) == 1
    with pytest.raises(TypeError):  # to another world it is another program
        edited._replace(world="another").compile("one", lowered)


def test_programs_that_leave_different_arguments_unused_are_two(shelf):
    one, two = jnp.ones(3), jnp.zeros(3)
    for name, function in {"first": lambda a, b: a + 1, "second": lambda a, b: b + 1}.items():
        keep(shelf, name, function, one, two)
    np.testing.assert_array_equal(shelf.take("second", one, two)[0](jnp.ones(3), two), [1, 1, 1])
    np.testing.assert_array_equal(shelf.take("first", one, two)[0](one, two), [2, 2, 2])


def test_what_was_traced_before_an_edit_gets_no_label_after_it(shelf, monkeypatch, caplog):
    monkeypatch.setattr(source, "digest", lambda: "edited meanwhile")
    shelf.compile("one", lower(jnp.sin, jnp.zeros(3)))
    wait(lambda: [*shelf.folder.glob("*.program")] if shelf.folder.exists() else False)
    assert not labels(shelf)
    assert not caplog.text


@pytest.mark.smoke
def test_what_jax_had_in_its_own_cache_is_not_kept(shelf, monkeypatch):
    """XLA cannot write again what it has read: on a CPU its functions would be missing."""
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        argument = jnp.zeros(3)

        def program(x):
            return jnp.sin(x) @ jnp.full((3, 3), 1.25)

        lower(program, argument).compile()
        with programs._watching() as from_jax:
            lower(program, argument).compile()
        assert from_jax()
        monkeypatch.setattr(programs.threading, "Thread", None)
        done = shelf.compile("one", lower(program, argument))
        np.testing.assert_array_equal(done(argument), np.zeros(3))
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)
    with programs._watching() as from_jax:
        assert from_jax()  # until jax says that it looked


@pytest.mark.parametrize("kind", ["damaged", "short", "other arguments"])
def test_what_is_no_use_is_removed_with_a_warning(shelf, caplog, kind):
    argument = jnp.zeros(3)
    keep(shelf, "one", jnp.sin, argument)
    (file,) = shelf.folder.glob("*.program")
    content = bytearray(file.read_bytes())
    if kind == "damaged":
        content[len(content) // 2] ^= 1
    file.write_bytes(content[:20] if kind == "short" else content)
    wanted = jnp.zeros(4) if kind == "other arguments" else argument
    assert shelf.take("one", wanted) is None
    assert "is no use" in caplog.text
    assert not file.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"\xff\x00",
        lambda content: b"",
        lambda content: b"[]",
        lambda content: b"[" * 200_000,
        lambda content: content.replace(b'"program": "', b'"program": "../'),
        lambda content: content.replace(b'"note": 7.0', b'"note": 3.0'),
    ],
    ids=["bytes", "empty", "list", "deep", "elsewhere", "note"],
)
def test_a_label_that_makes_no_sense_is_none(shelf, damage):
    keep(shelf, "one", jnp.sin, jnp.zeros(3), note=7.0)
    (label,) = labels(shelf)
    content = label.read_bytes()
    label.write_bytes(damage(content))
    assert label.read_bytes() != content
    assert shelf.take("one", jnp.zeros(3)) is None


def test_a_program_is_taken_from_where_nothing_can_be_written(shelf, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OSError("read-only")

    keep(shelf, "one", jnp.sin, jnp.zeros(3))
    for name in ("utime", "replace"):
        monkeypatch.setattr(programs.os, name, refuse)
    assert shelf.take("one", jnp.zeros(3))
    assert not caplog.text
    shelf.compile("two", lower(jnp.cos, jnp.zeros(3)))
    wait(lambda: "is not kept (OSError: read-only)" in caplog.text)
    wait(lambda: not [*shelf.folder.glob("*.tmp")])


def test_a_folder_that_others_can_write_to_is_not_used(shelf, monkeypatch):
    keep(shelf, "one", jnp.sin, jnp.zeros(3))
    shelf.folder.chmod(0o777)
    assert shelf.take("one", jnp.zeros(3)) is None
    shelf.folder.chmod(0o700)
    assert shelf.take("one", jnp.zeros(3))
    monkeypatch.setattr(programs.os, "getuid", lambda: -1)
    assert shelf.take("one", jnp.zeros(3)) is None


def test_what_others_could_have_written_or_a_link_leads_to_is_not_used(shelf, tmp_path):
    keep(shelf, "one", jnp.sin, jnp.zeros(3))
    (file,) = shelf.folder.glob("*.program")
    file.chmod(0o666)
    assert shelf.take("one", jnp.zeros(3)) is None
    file.chmod(0o600)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert shelf.take("one", jnp.zeros(3)) is None
    (tmp_path / "elsewhere").rename(file)
    assert shelf.take("one", jnp.zeros(3))
    (tmp_path / "link").symlink_to(shelf.folder)
    assert shelf._replace(folder=tmp_path / "link").take("one", jnp.zeros(3)) is None


def test_a_program_is_compiled_where_there_can_be_no_folder_and_no_thread(
    shelf, tmp_path, monkeypatch, caplog
):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    (tmp_path / "file").write_text("")
    nowhere = programs.Shelf(tmp_path / "file")
    nowhere.compile("one", lower(jnp.sin, jnp.zeros(3)))(jnp.zeros(3))
    with monkeypatch.context() as patch:
        patch.setattr(programs.threading.Thread, "start", refuse)
        shelf.compile("two", lower(jnp.cos, jnp.zeros(3)))(jnp.zeros(3))
    assert "is not kept (RuntimeError: can't start new thread)" in caplog.text


def test_programs_of_other_options_are_two(shelf, monkeypatch):
    monkeypatch.setattr(programs, "compiler_options", lambda once: {"level": int(not once)})
    for once in (False, True):
        shelf.compile("one", lower(jnp.sin, jnp.zeros(3)), once=once)
        wait(lambda: len([*shelf.folder.glob("*.program")]) == 1 + once)  # noqa: B023


def test_those_used_least_lately_make_room_and_lose_their_labels(shelf, monkeypatch):
    argument, functions = jnp.zeros(3), {"used": jnp.sin, "old": jnp.cos, "new": jnp.tanh}
    for age, (name, function) in enumerate(functions.items()):
        before = {*shelf.folder.glob("*.program")}
        keep(shelf, name, function, argument)
        for file in {*shelf.folder.glob("*.program")} - before:
            os.utime(file, (1e9 + age, 1e9 + age))
    assert shelf.take("used", argument)
    size = max(file.stat().st_size for file in shelf.folder.glob("*.program"))
    monkeypatch.setattr(programs, "_MOST_BYTES", int(3.5 * size))
    keep(shelf, "more", jnp.arctan, argument)
    wait(lambda: len(labels(shelf)) == 3)
    left = [name for name in (*functions, "more") if shelf.take(name, argument)]
    assert left == ["used", "new", "more"]
    # One that alone is more than may be is removed, and nothing else for it.
    file = max(shelf.folder.glob("*.program"), key=lambda file: file.stat().st_mtime_ns)
    os.truncate(file, 4 * size)
    programs._make_room(shelf.folder)
    assert len(labels(shelf)) == 2


def test_labels_used_least_lately_make_room(shelf, monkeypatch):
    keep(shelf, "one", jnp.sin, jnp.zeros(3))
    (label,) = labels(shelf)
    os.utime(label, (1e9, 1e9))
    for description in ("first edit", "second edit"):
        keep(shelf._replace(description=description), "one", jnp.sin, jnp.zeros(3))
    assert shelf.take("one", jnp.zeros(3))
    oldest = min(labels(shelf), key=lambda file: file.stat().st_mtime_ns)
    monkeypatch.setattr(programs, "_MOST_LABELS", 2)
    programs._make_room(shelf.folder)
    assert len(labels(shelf)) == 2
    assert label != oldest
    assert not oldest.exists()


def test_a_second_training_does_not_trace_and_learns_the_same(shelf, tmp_path, monkeypatch):
    def training_run(name):
        folder = tmp_path / name
        state = training.train(toy.learner(work=2), run=folder, peak=1e9, shelf=shelf, **SETTINGS)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return state, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    def refuse(*_):
        raise AssertionError("traced anew")

    state, rows = training_run("first")
    wait(lambda: len(labels(shelf)) == 2)
    monkeypatch.setattr(updates, "trace", refuse)
    again, same = training_run("second")
    np.testing.assert_array_equal(state.params["w"], again.params["w"])
    for row, other in zip(rows, same, strict=True):
        assert row.keys() == other.keys()
        assert row["score_after"] == other["score_after"]
        assert other["roofline"] > 0


def test_a_second_evaluation_does_not_trace_and_scores_the_same(shelf):
    def adapt(*_):
        raise AssertionError("traced anew")

    def evaluator(learner, tasks=5):
        layout = Mapping(task_mesh(2))
        return evaluation.evaluator(
            learner, toy.problem(), tasks=tasks, mapping=layout, shelf=shelf
        )

    params = {"w": jnp.ones(2)}
    first = evaluator(toy.learner())(params)
    wait(lambda: labels(shelf))
    again = evaluator(toy.learner()._replace(adapt=adapt))(jax.device_put(params, jax.devices()[1]))
    np.testing.assert_array_equal(first.score, again.score)
    with pytest.raises(AssertionError, match="traced anew"):  # more tasks are another program
        evaluator(toy.learner()._replace(adapt=adapt), tasks=9)(params)


def test_threads_may_ask_for_the_same_program():
    class Owner:
        pass

    class Slow:  # while it is compared, the other threads go on
        def __hash__(self):
            time.sleep(0.001)
            return 7

    owner, other = Owner(), Slow()
    programs.remembered(owner, "what", (other,), object)

    def ask(_):
        return [programs.remembered(owner, "what", (other,), object) for _ in range(20)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(None not in made for made in pool.map(ask, range(4)))


@pytest.mark.slow
def test_a_process_takes_what_another_put_there(tmp_path):
    """In another process a program's functions are those of its file, and of nothing else.

    The first parameters of this one are factorised, by LAPACK.
    """
    script = """
import sys
from metajax import cli, programs
taken, take = [], programs.Shelf.take
def watched(self, name, *args):
    found = take(self, name, *args)
    taken.append(f"{name.split()[0]} {found is not None}")
    return found
programs.Shelf.take = watched
status = cli.run(sys.argv[1:])
print(*taken, sep=", ", file=sys.stderr)
sys.exit(status)
"""
    command = [sys.executable, "-c", script, "train", "bandit-10x5"]
    command += ["--algorithm", "rl2", "--tasks", "8", "--hidden", "4", "--updates", "2"]
    command += ["--log-every", "1", "--no-comparisons", "--evaluation-tasks", "2", "--quiet"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}

    def taken(seed):
        run = ["--run", str(tmp_path / seed), "--seed", seed]
        done = subprocess.run(
            [*command, *run], env=environment, capture_output=True, text=True, check=True
        )
        assert (tmp_path / seed / "metrics.jsonl").read_text().count("\n") == 2
        return done.stderr.strip().splitlines()[-1]

    # The learner, and random parameters: one program.
    assert taken("0") == "start False, updates False, evaluation False"
    assert taken("1") == "start True, updates True, evaluation True"
