"""The example notebooks: they run from beginning to end, and what is stored of them is their own and clean."""

from __future__ import annotations

import time
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import cotrace

FOLDER = Path(__file__).parents[2] / "examples"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
LIMIT_S = 180
"""A notebook takes well under a minute on an idle core; a busy machine is no failure."""


def outputs(book: Any) -> list[Any]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_three_are_there() -> None:
    assert {book.stem for book in BOOKS} >= {"quickstart", "bias_audit", "facts_with_noise"}


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_whole_and_clean(path: Path) -> None:
    """Run in order, without errors, warnings or paths of the machine that ran it, small enough for a repository."""
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(book) if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [place for place in ("/tmp/", "/root/", "/home/", "/work/") if place in path.read_text()]
    assert path.stat().st_size < 400_000
    assert "does not show" in book.cells[-1].source.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh kernel, with the same kinds of output in every cell as are stored."""
    monkeypatch.setenv("PYTHONPATH", str(Path(cotrace.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    stored, book = (nbformat.read(path, as_version=4) for _ in range(2))
    began = time.perf_counter()
    NotebookClient(book, timeout=LIMIT_S, kernel_name="python3").execute()
    assert time.perf_counter() - began < LIMIT_S
    assert kinds(book) == kinds(stored)


def kinds(book: Any) -> list[list[tuple[str, tuple[str, ...]]]]:
    """What the outputs of each cell are, without what they say.

    What is printed comes in as many pieces as the kernel happened to send, so pieces in a row count as one.
    """
    cells = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
    return [[kind for kind, _ in groupby(kind_of(output) for output in cell)] for cell in cells]


def kind_of(output: Any) -> tuple[str, tuple[str, ...]]:
    return output.output_type, tuple(sorted(output.get("data", {})))
