"""The benchmarks' own files, where the checkout has them beside it; nothing of them is copied here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Path of a shared file or folder; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs ../shared/{name}")
        return SHARED / name

    return find


@pytest.fixture
def oracle(shared: Callable[[str], Path]) -> Callable[[str], list[dict[str, Any]]]:
    """The pairs that the paper's own code used."""

    def read(name: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(shared(f"oracle/{name}").read_text())["pairs"]
        return listed

    return read


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder with these files: name -> text, or bytes."""

    def make(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return make
