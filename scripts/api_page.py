"""Writes docs/api.md, the reference of every public name: python scripts/api_page.py. mkdocstrings fills it in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cotrace
from cotrace.problem.language import SHOWN

HEAD = """# Python reference

Every public name, from its docstring. `import cotrace as ct`; names are loaded when they are first used. Whatever
stands in no list here is private and may change without notice. This page is written by `python scripts/api_page.py`.
"""

OPTIONS = {"LanguageProblem": f"    options:\n      inherited_members: [{', '.join(SHOWN)}]\n"}
"""Of a class whose methods stand in a base that is no public name."""


def page() -> str:
    """The page: the names of the package, then those of each of its rooms."""
    rooms = {name: getattr(cotrace, name) for name in cotrace.__all__}
    rooms = {name: room for name, room in rooms.items() if isinstance(room, ModuleType)}
    top = [name for name in cotrace.__all__ if name not in rooms and name[0] != "_"]
    parts = (_section(f"ct.{name}", room.__name__, list(names_of(room))) for name, room in rooms.items())
    return HEAD + _section("ct", "cotrace", top) + "".join(parts)


def names_of(module: ModuleType) -> Iterator[str]:
    """What a room exports: its list, or without one all classes and functions that it defines itself."""
    listed = getattr(module, "__all__", None)
    for name in sorted(vars(module)) if listed is None else listed:
        value = getattr(module, name)
        own = listed is not None or getattr(value, "__module__", "") == module.__name__
        if own and not name.startswith("_") and callable(value):
            yield name


def _section(title: str, path: str, names: list[str]) -> str:
    return f"\n## `{title}`\n" + "".join(f"\n::: {path}.{name}\n{OPTIONS.get(name, '')}" for name in names)


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "api.md").write_text(page(), encoding="utf-8")
