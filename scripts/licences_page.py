"""Writes docs/licences.md, the licences of all that cotrace needs at run time: python scripts/licences_page.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

HEAD = """# Licences

cotrace is MIT. It ships no code of others; what it installs, with all that these need in turn, is listed here by name
and licence as their own metadata say. The model and the texts that ship are cotrace's own (MIT; the English text CC0).
This page is written by `python scripts/licences_page.py`; `python scripts/release.py --build` writes an SBOM
(CycloneDX) as well.

| package | licence |
|---|---|
"""
LONGEST = 60
MACHINE = ("nvidia", "triton", "cuda")
"""Beginnings of what is installed on machines with a GPU only, under NVIDIA's and MIT's licences."""


def page() -> str:
    """The page."""
    return HEAD + "".join(f"| {name} | {licence} |\n" for name, licence in sorted(_licences()))


def _licences() -> Iterator[tuple[str, str]]:
    for found in _needed("cotrace", set()):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        if name != "cotrace" and not name.startswith(MACHINE):
            yield name, _licence(found)


def _needed(name: str, seen: set[str]) -> Iterator[Distribution]:
    """A distribution and all that it requires without an extra, each once."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    seen.add(key)
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return
    yield found
    for line in found.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from _needed(requirement.name, seen)


def _licence(found: Distribution) -> str:
    """The expression, else the classifiers, else the first line of the field."""
    if expression := found.metadata.get("License-Expression"):
        return str(expression)
    classes = [one.rpartition(" :: ")[2] for one in found.metadata.get_all("Classifier") or () if "License ::" in one]
    field = str(found.metadata.get("License") or "").strip().splitlines()
    return ", ".join(classes) or (field[0][:LONGEST] if field else "see its files")


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "licences.md").write_text(page(), encoding="utf-8")
