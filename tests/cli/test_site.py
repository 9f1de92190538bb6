"""The documentation site: built strictly, its reference has every public name, every page is in it."""

from __future__ import annotations

import ast
import inspect
import os
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import cotrace
from cotrace.donors import Donors, DonorSource
from cotrace.problem.protocol import Problem
from cotrace.search import Search

ROOT = Path(__file__).parents[2]
SECTIONS = ["Tutorial", "How to", "Reference", "Explanation", "Appendix"]
GENERATED = {"api.md", "coverage.md", "json.md", "licences.md"}
MOST_NAMES, MOST_WORDS = 250, 20_000
"""Words in all pages written by hand together; bars of tables are not words."""
PROTOCOLS = (Problem, Search, DonorSource, Donors)
"""Their methods are explained here once, for all that follow them."""


def test_the_reference_is_what_its_script_writes_and_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    assert page == runpy.run_path(str(ROOT / "scripts" / "api_page.py"))["page"]()
    for name in cotrace.__all__:
        assert inspect.ismodule(getattr(cotrace, name)) or f"::: cotrace.{name}\n" in page
    stub = (ROOT / "src" / "cotrace" / "__init__.pyi").read_text()
    assert set(re.findall(r" as (\w+)$", stub, re.MULTILINE)) == set(cotrace.__all__) - {"__version__"}


def public() -> dict[str, Any]:
    """Path in the reference -> the object."""
    found = {}
    for path in re.findall(r"^::: cotrace\.([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE):
        value: Any = cotrace
        for part in path.split("."):
            value = getattr(value, part)
        found[path] = value
    return found


def test_there_are_few_public_names() -> None:
    names = public()
    assert len(names) <= MOST_NAMES, f"{len(names)} public names"


def test_what_is_in_the_reference_says_what_it_is() -> None:
    """Every name has a docstring whose first line is a sentence."""
    for path, value in public().items():
        doc = inspect.getdoc(value) or ""
        assert doc.splitlines()[:1], path
        assert len(doc.splitlines()[0].split()) > 2, path


def test_every_parameter_of_a_public_name_is_explained() -> None:
    """In its docstring, in that of its class, under the field, or in the protocol that a method follows."""
    silent = [f"{path}: {name}" for path, value in public().items() for name in unexplained(value)]
    assert silent == []


def unexplained(value: Any) -> Iterator[str]:
    """Parameters of a function, or of a class and its public methods, about which nothing is said."""
    if not inspect.isclass(value):
        yield from (name for name in parameters(value) if not says(inspect.getdoc(value), name))
        return
    doc = f"{inspect.getdoc(value)}\n{inspect.getdoc(value.__init__)}"
    fields = documented_fields(value)
    if not issubclass(value, Enum):
        yield from (name for name in parameters(value) if name not in fields and not says(doc, name))
    for method, function in list(vars(value).items()):
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function) and not method.startswith("_") and method not in value.__annotations__:
            told = "\n".join([doc, *(inspect.getdoc(getattr(one, method, None)) or "" for one in (value, *PROTOCOLS))])
            yield from (f"{method}({name})" for name in parameters(function) if not says(told, name))


def says(doc: str | None, name: str) -> bool:
    return re.search(rf"(?<!\w){name}(?!\w)", doc or "") is not None


def parameters(function: Any) -> list[str]:
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:
        return []
    return [name for name in names if name not in {"self", "cls", "args", "kwargs"} and not name.startswith("_")]


def documented_fields(value: type) -> set[str]:
    """Fields with a docstring below them, those of the bases among them."""
    found = set()
    for base in value.__mro__:
        if base.__module__.startswith("cotrace"):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
            found |= {
                one.target.id
                for one, doc in pairwise(body)
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and is_text(doc)
            }
    return found


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


FRAGMENTS = ("What", "Of", "Those", "That", "Such", "They", "As", "These", "Who")
"""Words with which no docstring begins: it says what a thing is or does."""


def test_docstrings_say_what_a_thing_is_or_does() -> None:
    poor = [
        f"{path.relative_to(ROOT)}:{doc.lineno}: {doc.value.value.splitlines()[0]}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for doc in docstrings(ast.parse(path.read_text()))
        if opens_badly(doc.value.value)
    ]
    assert poor == []


def docstrings(tree: ast.Module) -> Iterator[Any]:
    """Of modules, classes and functions, and those under fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield from filter(is_text, node.body)


def opens_badly(doc: str) -> bool:
    return doc.split(maxsplit=1)[0].rstrip(",") in FRAGMENTS


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    """A link, an anchor or a name that leads nowhere fails; the site loads nothing from elsewhere."""
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in ("LanguageProblem", "LanguageProblem.effects", "trace", "search.Pursuit", "tasks.winobias"):
        assert f'id="cotrace.{name}"' in reference
    home = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="https?://[^"]+\.(?:js|css|woff2?)"', home)


def test_every_page_is_in_the_site() -> None:
    """Pages by the order of the site: tutorial, how to, reference, explanation, and generated tables at the end."""
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = re.findall(r"- ([\w-]+\.md)", text)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert re.findall(r"^  - ([A-Z][\w ]+):", text, re.MULTILINE) == SECTIONS
    assert re.findall(r"([\w-]+\.md)", text.partition("Appendix:")[2]) == ["coverage.md", "licences.md"]


def test_pages_are_short_and_say_when_a_script_wrote_them() -> None:
    pages = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    for name in GENERATED:
        assert re.search(r"[Gg]enerated by|written by `python", pages[name]), name
    words = sum(bool(re.search(r"\w", word)) for name in pages.keys() - GENERATED for word in pages[name].split())
    assert words <= MOST_WORDS, f"{words} words in pages written by hand"
