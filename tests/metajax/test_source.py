"""What a kept program follows from: sources, versions, settings and a configuration."""

import json
import subprocess
import sys

import flax
import jax
import pytest

from metajax import programs, runs, source
from metajax.arguments import parse_train


def test_a_shelf_is_for_one_description_and_one_world(monkeypatch):
    def identity(described=1, **versions):
        return programs.shelf(versions, described)

    first = identity()
    assert first.folder
    assert identity() == first
    assert identity(jaxlib="2").world != first.world
    for other in (identity(flax="2"), identity(described=2)):
        assert other.world == first.world
        assert other.description != first.description
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        assert identity() != first
    with monkeypatch.context() as patch:
        patch.setattr(source, "AT_START", source.AT_START[::-1])
        assert identity() == programs.NOWHERE  # who knows which code runs
        patch.setattr(source, "digest", lambda: source.AT_START)
        assert identity().description != first.description
    with flax.config.temp_flip_flag("fix_rng_separator", True):
        assert identity() != first
    with monkeypatch.context() as patch:
        patch.setattr(programs, "_machine", lambda: ["another"])
        assert identity() != first
    with jax.enable_x64(True):
        assert identity() != first
    assert identity() == first


def test_the_sources_are_those_of_both_packages(tmp_path, monkeypatch):
    for name in ("metajax", "envs"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "a.py").write_text("x = 1")

    class Found:
        def __init__(self, name):
            self.submodule_search_locations = [str(tmp_path / name)]

    monkeypatch.setattr(source.importlib.util, "find_spec", Found)
    digests = [source.digest()]
    for name in ("metajax", "envs"):
        (tmp_path / name / "inner" / "a.py").write_text("x = 2")
        digests.append(source.digest())
        (tmp_path / name / "b.py").write_text("")
        digests.append(source.digest())
    assert len(set(digests)) == 5


@pytest.mark.parametrize("module", ["metajax", "metajax.cli"])
def test_what_a_process_runs_is_known_before_any_of_it_is_imported(module):
    code = f"import sys, {module}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    ours = [name for name in out.stdout.split() if name.startswith(("metajax.", "envs"))]
    assert ours[0] == "metajax.source"


def test_nothing_is_kept_where_jax_keeps_nothing(monkeypatch):
    assert programs.shelf({}, {}).folder
    for name, value in {
        "jax_enable_compilation_cache": False,
        "jax_compilation_cache_dir": "gs://bucket/programs",
    }.items():
        before = getattr(jax.config, name)
        try:
            jax.config.update(name, value)
            assert programs.folder("whole") is None
            assert programs.shelf({}, {}) == programs.Shelf()
        finally:
            jax.config.update(name, before)


def test_a_run_follows_from_its_configuration_but_not_from_its_seed():
    def computed(*flags):
        _, config, _ = parse_train(["sinusoid-5", *flags])
        return json.dumps(runs.computed(config))

    assert computed() == computed("--seed", "3", "--log-every", "2")
    assert computed() != computed("--tasks", "3")
    assert computed() != computed("--updates", "77")  # of a learning rate's schedule, perhaps
