"""A figure as the bytes of a file; the same figure gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from cotrace.errors import unknown
from cotrace.report.style import styled

NO_DATES: Mapping[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as PNG."""
    return to_bytes(figure, "png", dpi)


def to_bytes(figure: Figure, form: str, dpi: int = 300) -> bytes:
    """The figure as png, as svg with its words as text and a title that is read out, or as pdf with its fonts.

    Raises UnknownName for another format.
    """
    if form not in NO_DATES:
        raise unknown("format", form, NO_DATES)
    about = dict(NO_DATES[form])
    if form != "png":
        about["Title"] = _title(figure)
    with styled(float(figure.get_figwidth())), io.BytesIO() as file:
        figure.savefig(file, format=form, dpi=dpi, metadata=about)
        return file.getvalue()


def _title(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split()) or "cotrace"
