"""Writes docs/api.md, the reference of every public name: python scripts/api_page.py. mkdocstrings fills it in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cotrace

HEAD = """# Python reference

Every public name, from its docstring. `import cotrace as ct`; names are loaded when they are first used. Whatever
stands in no list here is private and may change without notice. This page is written by `python scripts/api_page.py`.
"""
ROOMS = ("search", "tasks", "donors", "metrics", "editing", "interchange", "report", "evaluation", "known", "errors")
"""Modules whose names are used as ``ct.ROOM.NAME``."""


def page() -> str:
    """The page."""
    top = [name for name in cotrace.__all__ if not isinstance(getattr(cotrace, name), ModuleType) and name[0] != "_"]
    return HEAD + _section("ct", "cotrace", top) + "".join(map(_room, ROOMS))


def _room(name: str) -> str:
    module = getattr(cotrace, name)
    return _section(f"ct.{name}", module.__name__, list(names_of(module)))


def names_of(module: ModuleType) -> Iterator[str]:
    """What a room exports: its list, or without one all classes and functions that it defines itself."""
    listed = getattr(module, "__all__", None)
    for name in sorted(vars(module)) if listed is None else listed:
        value = getattr(module, name)
        own = listed is not None or getattr(value, "__module__", "") == module.__name__
        if own and not name.startswith("_") and callable(value):
            yield name


def _section(title: str, path: str, names: list[str]) -> str:
    return f"\n## `{title}`\n" + "".join(f"\n::: {path}.{name}\n" for name in names)


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "api.md").write_text(page(), encoding="utf-8")
