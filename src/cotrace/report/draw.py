"""One figure of a run by its name, as the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from cotrace.errors import unknown
from cotrace.report.comparison import compare
from cotrace.report.frontiers import frontier
from cotrace.report.image import to_bytes
from cotrace.report.layers import layers
from cotrace.report.maps import head_map
from cotrace.report.matrix import interactions
from cotrace.report.page import Material
from cotrace.report.style import COLUMN, PAGE

WIDTHS: Mapping[str, float] = {"column": COLUMN, "page": PAGE}

KINDS: Mapping[str, Callable[[Material, int, float], Figure]] = {
    "frontier": lambda material, k, width: frontier(material.first, width=width),
    "map": lambda material, k, width: head_map(material.first, k, width=width),
    "layers": lambda material, k, width: layers(material.first, k, width=width),
    "interactions": lambda material, k, width: interactions(material.judged, width=width),
    "compare": lambda material, k, width: compare(material.frontiers, width=width),
}


def draw(material: Material, kind: str, *, k: int | None = None, width: str = "page") -> Figure:
    """The figure of that name; ``k`` defaults to the size that was judged. Raises InputError, UnknownName."""
    if kind not in KINDS:
        raise unknown("kind of figure", kind, KINDS)
    if width not in WIDTHS:
        raise unknown("width", width, WIDTHS)
    return KINDS[kind](material, material.chosen.k if k is None else k, WIDTHS[width])


def drawn(material: Material, kind: str, form: str, *, k: int | None = None, width: str = "page") -> bytes:
    """The same as the bytes of a file: png, svg or pdf. Raises InputError, UnknownName."""
    return to_bytes(draw(material, kind, k=k, width=width), form)
