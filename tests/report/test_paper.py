"""Figures for papers: their numbers, sizes and bytes, by function and by name."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from cotrace import report
from cotrace.components import Site
from cotrace.errors import InputError, UnknownName
from cotrace.report.figures import Figure
from cotrace.report.page.charts import found_at
from cotrace.results import Selection
from tests.report.frontiers import SETS, frontier, space
from tests.report.judged import evaluation
from tests.report.reading import with_mark

MIXED = space("L0.head0", "L0.head1", "L1.head0", "L1.mlp", "L2.mlp")


def inputs() -> report.ReportInputs:
    one = frontier(SETS, [1.0, 2.0, 3.0])
    return report.ReportInputs((one, frontier(SETS[:1], [0.5], search="topk")), (evaluation(one, k=3),))


def test_layers_counts_the_chosen_of_each_site() -> None:
    figure = report.layers(frontier([["L0.head1", "L1.mlp", "L2.mlp"]], [1.0], space=MIXED), 3)
    (bars,) = with_mark(figure, 0, "bar")
    counts = {
        site: [row["count"] for row in bars if row["site"] == site.value]
        for site in (Site.HEAD_OUTPUT, Site.MLP_OUTPUT)
    }
    assert counts == {Site.HEAD_OUTPUT: [1, 0, 0], Site.MLP_OUTPUT: [0, 1, 1]}


def test_interactions_are_symmetric_and_signed() -> None:
    figure = report.interactions(evaluation(frontier(SETS, [1.0, 2.0, 3.0]), k=3))
    (cells,) = with_mark(figure, 0, "rect")
    names = list(dict.fromkeys(row["a"] for row in cells))
    known = {(names.index(row["a"]), names.index(row["b"])): row["value"] for row in cells}
    assert known == {(0, 1): 0.5, (1, 0): 0.5, (0, 2): -1.0, (2, 0): -1.0, (1, 2): 0.25, (2, 1): 0.25}
    with pytest.raises(InputError, match="interactions were not measured"):
        report.interactions(None)


def test_compare_follows_the_cost_at_which_sets_were_found() -> None:
    one = frontier(SETS, [1.0, 2.0, 3.0])
    found = (one.selections[0], *one.selections[1:])
    costs = (30.0, 10.0, 20.0)
    timed = [
        Selection(members=s.members, effect=s.effect, forward_equivalents=c) for s, c in zip(found, costs, strict=True)
    ]
    shown = frontier(SETS, [1.0, 2.0, 3.0])
    object.__setattr__(shown, "selections", tuple(timed))
    assert list(found_at(shown)) == [(10.0, 2.0), (20.0, 3.0)]


@pytest.mark.parametrize("kind", ["frontier", "map", "layers", "interactions", "compare"])
@pytest.mark.parametrize(("width", "inches"), [("column", 3.3), ("page", 7.0)])
def test_every_kind_has_the_width_of_a_paper(kind: str, width: str, inches: float) -> None:
    content = report.drawn(inputs(), kind, "png", width=width)
    pixels = Image.open(io.BytesIO(content)).size[0]
    assert pixels == pytest.approx(300 * inches, abs=5)


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_formats_are_the_same_bytes_twice(form: str) -> None:
    first, again = (report.drawn(inputs(), "frontier", form) for _ in range(2))
    assert first == again
    assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])
    if form == "svg":
        assert b"<title>The most that k components do" in first
        assert b"effect: change of log_odds (swap)</text>" in first  # words stay words


def test_unknown_kinds_and_formats_are_named() -> None:
    with pytest.raises(UnknownName, match="did you mean 'layers'"):
        report.draw(inputs(), "layer")
    with pytest.raises(UnknownName, match="choose one of pdf, png, svg"):
        report.drawn(inputs(), "map", "jpg")
    with pytest.raises(InputError, match="exactly 7"):
        report.draw(inputs(), "map", k=7)


def test_draw_gives_the_figure_itself() -> None:
    assert isinstance(report.draw(inputs(), "layers"), Figure)
