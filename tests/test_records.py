"""Which records benchmarks/ may go on from: those of the same sources."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import records


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "__file__", str(tmp_path / "benchmarks" / "records.py"))
    for folder in ("metajax", "benchmarks"):
        (tmp_path / folder).mkdir()
    git("init", "-q", at=tmp_path)
    return tmp_path


def git(*arguments, at):
    name = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    subprocess.run(["git", "-C", str(at), *name, *arguments], check=True)


def keep(repository, file, text):
    (repository / file).write_text(text)
    git("add", ".", at=repository)
    git("commit", "-q", "-m", "-", at=repository)
    return records.commit()


def test_sources_are_the_same_until_code_changes(repository):
    assert records.commit() is None  # nothing is kept yet
    first = keep(repository, "metajax/one.py", "1")
    assert records.same_sources(first)
    words = keep(repository, "README.md", "words")
    assert words != first
    assert records.same_sources(first)
    (repository / "benchmarks" / "two.py").write_text("2")
    assert records.same_sources(first)  # git does not know it
    changed = keep(repository, "metajax/one.py", "2")
    assert records.same_sources(changed)
    for other in (first, words, None, f"{changed}+", "0" * 10):
        assert not records.same_sources(other)
    (repository / "metajax" / "one.py").write_text("3")
    assert records.commit() == f"{changed}+"
    assert not records.same_sources(changed)
