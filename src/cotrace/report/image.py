"""A figure as the bytes of a file."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from cotrace.report.style import styled


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    with styled(), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
        return file.getvalue()
