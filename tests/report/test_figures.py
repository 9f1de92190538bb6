"""Figures hold the numbers of the frontiers, name mode and model level, and leave the user's own style alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from cotrace import report
from cotrace.errors import InputError
from cotrace.report.maps import entry_sizes
from tests.report.frontiers import NEURONS, SETS, frontier, space


def texts(figure: Figure) -> str:
    """Everything that is written in a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def curve(figure: Figure, panel: int, label: str) -> list[tuple[float, float]]:
    """The points of a search in a panel."""
    line = next(line for line in figure.axes[panel].lines if str(line.get_label()).startswith(label))
    return [(float(k), float(effect)) for k, effect in line.get_xydata()]


def test_frontier_shows_both_kinds_of_pairs_and_the_model_level() -> None:
    figure = report.frontier(frontier(SETS, [1.0, 2.0, 3.0]))
    assert curve(figure, 0, "pursuit") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert curve(figure, 1, "pursuit") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert {y for _, y in curve(figure, 0, "model level")} == {2.5}
    assert {y for _, y in curve(figure, 1, "model level")} == {2.25}
    shown = texts(figure)
    for words in ("mode swap", "log_odds", "maximise", "model level: all swapped", "12 forward-eq.", "held-out pairs"):
        assert words in shown


def test_frontier_without_held_out_pairs_has_one_panel() -> None:
    one = frontier(SETS, [1.0, 2.0, 3.0], heldout=[None] * 3, full_effect_heldout=None, mode="keep")
    figure = report.frontier(one)
    assert len(figure.axes) == 1
    assert "model level: all kept" in texts(figure)
    assert "faithfulness" in texts(figure)


def test_partial_frontiers_are_points_without_a_line() -> None:
    whole, partial = frontier(SETS, [1.0, 2.0, 3.0]), frontier([SETS[0], SETS[2]], [1.0, 3.0], search="pgbct")
    axes = report.frontier([whole, partial]).axes[0]
    styles = {str(line.get_label()).split()[0]: line.get_linestyle() for line in axes.lines}
    assert styles["pursuit"] == "-"
    assert styles["pgbct"] == "None"


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
    axes = figure.axes[0]
    cells = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert cells == {(0, 1): "3", (0, 2): "2", (1, 0): "2"}
    came = axes.images[1].get_array()
    assert came is not None
    assert came.shape == (2, 3)
    assert came.mask.sum() == 3 if hasattr(came, "mask") else True
    for words in ("3 of 6 components", "+3 of +2.5", "held out +1.5 of +2.25", "head_output"):
        assert words in texts(figure)


def test_map_of_a_size_that_was_not_found_is_refused() -> None:
    with pytest.raises(InputError, match="exactly 4"):
        report.head_map(frontier(SETS, [1.0, 2.0, 3.0]), 4)


def test_map_counts_where_cells_would_be_too_small() -> None:
    chosen = ["L0.neuron3", "L1.neuron7", "L1.neuron99"]
    axes = report.head_map(frontier([chosen], [1.0], space=NEURONS), 3).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [1, 2]  # type: ignore[attr-defined]


def test_map_has_a_panel_for_each_site() -> None:
    mixed = space("L0.head0", "L0.head1", "L0.mlp", "L1.mlp")
    figure = report.head_map(frontier([["L0.head1", "L1.mlp"]], [1.0], space=mixed), 2)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["head_output", "mlp_output"]


def test_figures_are_the_same_bytes_and_leave_the_style_alone() -> None:
    before = dict(mpl.rcParams)
    first, again = (report.to_png(report.frontier(frontier(SETS, [1.0, 2.0, 3.0]))) for _ in range(2))
    assert first == again
    assert first.startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before


def test_report_needs_neither_transformers_nor_pyplot() -> None:
    code = (
        "import sys; from tests.report.frontiers import SETS, frontier; from cotrace import report\n"
        "report.to_png(report.head_map(frontier(SETS, [1.0, 2.0, 3.0]), 2))\n"
        "print([name for name in ('transformers', 'torch', 'matplotlib.pyplot', 'altair') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
