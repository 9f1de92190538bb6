"""What stands in a figure: its panels, their marks with rows, and everything that is written."""

from __future__ import annotations

from typing import Any

from cotrace.report.figures import Figure

Row = dict[str, Any]


def panels(figure: Figure) -> list[Row]:
    """The panels, row by row."""
    return [panel for row in figure.to_dict()["vconcat"] for panel in row["hconcat"]]


def layers(panel: Row) -> list[Row]:
    """Its layers, or itself where it has none."""
    found: list[Row] = panel.get("layer", [panel])
    return found


def rows(figure: Figure, layer: Row, panel: Row | None = None) -> list[Row]:
    """The data of a layer: its own, its panel's, or those that it names."""
    data = layer.get("data") or (panel or {}).get("data") or {}
    found: list[Row] = data["values"] if "values" in data else figure.to_dict()["datasets"][data["name"]]
    return found


def mark(layer: Row) -> str:
    """The kind of a layer's mark."""
    return str(layer["mark"]["type"])


def with_mark(figure: Figure, panel: int, kind: str) -> list[list[Row]]:
    """The rows of each layer of that kind of mark."""
    own = panels(figure)[panel]
    return [rows(figure, layer, own) for layer in layers(own) if mark(layer) == kind]


def texts(figure: Figure) -> str:
    """Everything in the specification, words and all."""
    from cotrace.report import to_bytes

    return to_bytes(figure, "svg").decode()
