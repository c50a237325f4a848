"""The table of rooms in docs/design.md: every module has one, and imports from below alone."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("metajax", "envs")  # the table's columns
DOORS = {"__init__", "__main__"}  # import what they offer


def places(package):
    """Module or folder -> (floor, place on it)."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    found = {}
    for number, *cells in re.findall(r"(?m)^\| (\d) \| (.*?) ?\| (.*?) ?\|$", text):
        names = re.findall(r"`(\w+)(?:\.py|/)`", cells[PACKAGES.index(package)])
        found |= {name: (int(number), place) for place, name in enumerate(names)}
    return found


def imported(file, package):
    """Modules and folders of the package that a file imports."""
    depth = len(file.relative_to(ROOT / package).parts)  # dots that lead to the package's top
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = (node.module or "").split(".")
        if node.level == depth or (not node.level and module[0] == package):
            within = module if node.level else module[1:]
            yield from within[:1] if within[:1] not in ([], [""]) else [a.name for a in node.names]


def meets(file, package):
    """Whether a file imports the package by its name, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        if any(name.partition(".")[0] == package for name in names):
            return True
    return False


def test_the_packages_meet_on_the_top_floor_alone():
    assert not [file for file in (ROOT / "envs").rglob("*.py") if meets(file, "metajax")]
    rooms = {name: floor for name, (floor, _) in places("metajax").items()}
    meeting = [file.stem for file in (ROOT / "metajax").rglob("*.py") if meets(file, "envs")]
    assert meeting
    assert not [name for name in meeting if rooms[name] < max(rooms.values())]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_its_own_package_by_name(package):
    files = [file for file in (ROOT / package).rglob("*.py") if file.stem not in DOORS]
    assert not [file.name for file in files if meets(file, package)]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_imports_from_lower_floors_and_from_those_before_it(package):
    known = places(package)
    wrong = []
    for file in sorted((ROOT / package).rglob("*.py")):
        name = file.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if name in DOORS:
            continue
        assert name in known, f"{file.name} has no room"
        for other in imported(file, package):
            if other in known and other != name and known[other] >= known[name]:
                wrong.append(f"{name} imports {other}")
    assert not wrong
    there = {path.name.removesuffix(".py") for path in (ROOT / package).iterdir()}
    assert set(known) <= there
