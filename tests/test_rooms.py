"""The house: files do not import each other in circles, and have names of their own; CONTRIBUTING maps the folders."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cotrace

PACKAGE = Path(cotrace.__file__).parent
MAP = PACKAGE.parents[1] / "CONTRIBUTING.md"
MOST_FILES = 210


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(source: str) -> Iterator[str]:
    """Modules of the package that a text imports anywhere: at the top, in functions, for types."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            inner = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name if name in FILES else node.module for name in inner)


def graph(sources: dict[str, str]) -> TopologicalSorter[str]:
    return TopologicalSorter({name: set(imported(source)) - {name} for name, source in sources.items()})


SOURCES = {name: path.read_text("utf-8") for name, path in FILES.items()}


def test_files_do_not_import_each_other_in_circles() -> None:
    order = list(graph(SOURCES).static_order())
    assert set(order) == set(FILES)


def test_a_circle_would_be_found_inside_a_function_too() -> None:
    lower = SOURCES | {"cotrace.errors": "def f():\n    from cotrace.results.selection import Selection\n"}
    with pytest.raises(CycleError):
        list(graph(lower).static_order())


def test_files_have_names_of_their_own() -> None:
    names = Counter(path.name for path in FILES.values() if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_files_are_few() -> None:
    assert len(FILES) <= MOST_FILES


def test_files_with_an_underscore_are_their_rooms_own() -> None:
    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    private = {name for name in FILES if name.rsplit(".", 1)[-1].startswith("_") and not name.endswith("__")}
    users = [(name, one) for name, source in SOURCES.items() for one in imported(source) if one in private]
    assert private
    assert [pair for pair in users if room(pair[0]) != room(pair[1])] == []


def test_the_map_is_the_list_of_rooms() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", MAP.read_text("utf-8"), flags=re.MULTILINE)
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    single = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    assert sorted(rows) == sorted(folders | single)
