"""Figures hold the numbers of the frontiers, name mode and model level, and leave the user's own style alone."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import vl_convert

from cotrace import report
from cotrace.errors import InputError
from cotrace.report.figures import Figure, entry_sizes
from cotrace.report.page import charts
from cotrace.report.page._panels import density
from tests.report.frontiers import NEURONS, SETS, frontier, space
from tests.report.reading import layers, mark, panels, texts, with_mark


def curve(figure: Figure, panel: int, search: str) -> list[tuple[float, float]]:
    """The points of a search in a panel."""
    (found,) = with_mark(figure, panel, "line")
    return [(row["k"], row["effect"]) for row in found if row["search"] == search]


def level(figure: Figure, panel: int) -> list[float]:
    """Where lines across are drawn, but for the one at 0."""
    return [row["y"] for found in with_mark(figure, panel, "rule") for row in found if row["y"] != 0]


def test_frontier_shows_both_kinds_of_pairs_and_the_model_level() -> None:
    figure = report.frontier(frontier(SETS, [1.0, 2.0, 3.0]))
    assert curve(figure, 0, "pursuit") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert curve(figure, 1, "pursuit") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert level(figure, 0) == [2.5]
    assert level(figure, 1) == [2.25]
    shown = texts(figure)
    for words in ("mode swap", "log_odds", "maximise", "model level: all swapped", "12 forward-eq.", "held-out pairs"):
        assert words in shown


def test_frontier_without_held_out_pairs_has_one_panel() -> None:
    one = frontier(SETS, [1.0, 2.0, 3.0], heldout=[None] * 3, full_effect_heldout=None, mode="keep")
    figure = report.frontier(one)
    assert len(panels(figure)) == 1
    assert "model level: all kept" in texts(figure)
    assert "faithfulness" in texts(figure)


def test_partial_frontiers_are_points_without_a_line() -> None:
    whole, partial = frontier(SETS, [1.0, 2.0, 3.0]), frontier([SETS[0], SETS[2]], [1.0, 3.0], search="pgbct")
    figure = report.frontier([whole, partial])
    filters = {mark(one): one["transform"][0]["filter"] for one in layers(panels(figure)[0]) if "transform" in one}
    assert filters["line"] == "datum.joined"
    (points,) = with_mark(figure, 0, "line")
    assert {row["search"]: row["joined"] for row in points} == {"pursuit": True, "pgbct": False}


def test_frontiers_of_different_questions_are_refused() -> None:
    one = frontier(SETS, [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="different questions"):
        report.frontier([one, replace(one, mode="keep")])
    with pytest.raises(InputError, match="at least one"):
        report.frontier([])


def test_entry_size_is_where_a_component_comes_to_stay() -> None:
    one = frontier(SETS, [1.0, 2.0, 3.0])
    assert {str(component): size for component, size in entry_sizes(one, 3).items()} == {
        "L0.head1": 3,
        "L0.head2": 2,
        "L1.head0": 2,
    }
    assert {str(component): size for component, size in entry_sizes(one, 1).items()} == {"L0.head1": 1}


def test_map_numbers_the_chosen_cells() -> None:
    figure = report.head_map(frontier(SETS, [1.0, 2.0, 3.0]), 3)
    (cells,) = with_mark(figure, 0, "rect")
    assert {(row["layer"], row["unit"]): row["came"] for row in cells} == {
        **{(layer, unit): "" for layer in range(2) for unit in range(3)},
        (0, 1): "3",
        (0, 2): "2",
        (1, 0): "2",
    }
    shades = {row["came"]: row["shade"] for row in cells}
    assert shades["2"] > shades["3"] > shades[""] == 0, "the earlier it came the stronger"
    for words in ("3 of 6 components", "+3 of +2.5", "held out +1.5 of +2.25", "head_output"):
        assert words in texts(figure)


def test_map_of_a_size_that_was_not_found_is_refused() -> None:
    with pytest.raises(InputError, match="exactly 4"):
        report.head_map(frontier(SETS, [1.0, 2.0, 3.0]), 4)


def test_map_counts_where_cells_would_be_too_small() -> None:
    chosen = ["L0.neuron3", "L1.neuron7", "L1.neuron99"]
    figure = report.head_map(frontier([chosen], [1.0], space=NEURONS), 3)
    (bars,) = with_mark(figure, 0, "bar")
    assert {row["layer"]: row["count"] for row in bars} == {0: 1, 1: 2}


def test_map_has_a_panel_for_each_site() -> None:
    mixed = space("L0.head0", "L0.head1", "L0.mlp", "L1.mlp")
    figure = report.head_map(frontier([["L0.head1", "L1.mlp"]], [1.0], space=mixed), 2)
    assert [panel["title"]["text"] for panel in panels(figure)] == ["head_output", "whole layers"]
    (cells,) = with_mark(figure, 1, "rect")
    assert {(row["layer"], row["unit"]): row["came"] for row in cells} == {(0, "mlp"): "", (1, "mlp"): "2"}


def test_figures_are_the_same_bytes_and_leave_no_colour_of_the_page_open() -> None:
    first, again = (report.to_png(report.frontier(frontier(SETS, [1.0, 2.0, 3.0]))) for _ in range(2))
    assert first == again
    assert first.startswith(b"\x89PNG")
    assert "var(--" not in texts(report.frontier(frontier(SETS, [1.0, 2.0, 3.0])))


def test_a_notebook_shows_a_figure_without_a_network() -> None:
    shown = report.frontier(frontier(SETS, [1.0, 2.0, 3.0]))._repr_mimebundle_()
    assert b64decode(shown["image/png"]).startswith(b"\x89PNG")
    assert shown["text/plain"] == "<Figure: The most that k components do>"


def test_reports_need_neither_transformers_nor_torch() -> None:
    code = (
        "import sys; from tests.report.frontiers import SETS, frontier; from cotrace import report\n"
        "print([name for name in ('altair', 'vl_convert') if name in sys.modules])\n"
        "report.to_png(report.head_map(frontier(SETS, [1.0, 2.0, 3.0]), 2))\n"
        "print([name for name in ('transformers', 'torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"


def singles(names: list[str], effects: list[float]) -> pd.DataFrame:
    """A table as ``problem.single_effects`` gives it."""
    frame = pd.DataFrame({"component": names, "effect": effects})
    frame.attrs |= {"task": "pairs", "metric": "log_odds", "mode": "keep", "exact": False}
    return frame


def test_the_map_of_single_effects_has_a_cell_for_each_and_says_which_is_largest() -> None:
    names = ["L0.head0", "L0.head1", "L1.head0", "L1.head1", "L0.mlp", "L1.mlp@last"]
    figure = report.effect_map(singles(names, [0.5, -4.0, 0.04, 1.0, 2.0, 3.0]))
    (heads,) = with_mark(figure, 0, "rect")
    cells = {(row["layer"], row["unit"]): (row["effect"], row["words"]) for row in heads}
    assert cells == {(0, 0): (0.5, "+0.50"), (0, 1): (-4.0, "-4.00"), (1, 0): (0.04, "+0.04"), (1, 1): (1.0, "+1.00")}
    assert [[row["effect"] for row in found] for i in (1, 2) for found in with_mark(figure, i, "rect")] == [
        [2.0],
        [3.0],
    ]
    shown = texts(figure)
    for words in ("L0.head1 -4", "mode keep", "to first order, by gradient", "log_odds", "whole layers at last"):
        assert words in shown


def test_where_a_layer_has_too_many_units_the_map_shows_its_largest() -> None:
    effects = [0.001 * i for i in range(200)]
    effects[150] = -9.0
    figure = report.effect_map(singles([str(one) for one in NEURONS], effects), width=5)
    (bars,) = with_mark(figure, 0, "bar")
    assert [(row["layer"], row["effect"], row["words"]) for row in bars] == [
        (0, pytest.approx(0.099), "L0.neuron99: +0.099"),
        (1, -9.0, "L1.neuron50: -9"),
    ]


@pytest.mark.parametrize("table", [pd.DataFrame({"component": ["L0.head0"]}), singles([], [])])
def test_another_table_than_that_of_single_effects_is_refused(table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"the table has no (effect|rows); give what problem.single_effects"):
        report.effect_map(table)


def ticks(spec: dict[str, Any]) -> list[str]:
    """The labels along x of a chart of the page, as they are drawn."""
    svg = vl_convert.vegalite_to_svg({**spec, "width": 300})
    axis = svg.split('aria-label="X-axis', 1)[1].split("role-axis-title", 1)[0]
    return [label for label in re.findall(r"<text[^>]*>([^<]*)</text>", axis) if label]


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_counts_are_labelled_at_whole_numbers_each_once(most: int) -> None:
    names = [f"L{layer}.head{unit}" for layer in range(2) for unit in range(4)]
    chosen = frontier([names[:most]], [1.0], space=space(*names), heldout=[None])
    expected = [str(number) for number in range(most + 1)]
    assert ticks(charts.layers(chosen, most)) == expected
    rows = [{"layer": layer, "count": count, "words": ""} for layer, count in ((0, most), (1, 0))]
    assert ticks(density([0, 1], "neuron", "", rows)) == expected
    cheap = replace(chosen, forward_equivalents=float(most))
    assert ticks(charts.cost(report.ReportInputs((cheap,)))) == expected
