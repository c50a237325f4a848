"""Which records benchmarks/ may go on from: those of the same sources."""

import subprocess

import pytest

from support import records


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(
        records, "__file__", str(tmp_path / "benchmarks" / "support" / "records.py")
    )
    for folder in ("metajax", "benchmarks/support"):
        (tmp_path / folder).mkdir(parents=True)
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
    packaged = keep(repository, "benchmarks/support/three.py", "3")
    assert not records.same_sources(first)
    changed = keep(repository, "metajax/one.py", "2")
    assert records.same_sources(changed)
    for other in (first, words, packaged, None, f"{changed}+", "0" * 10):
        assert not records.same_sources(other)
    (repository / "metajax" / "one.py").write_text("3")
    assert records.commit() == f"{changed}+"
    assert not records.same_sources(changed)
