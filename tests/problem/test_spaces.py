"""Spaces of some components: by name, pattern, role, layer and shortlist; each against the names written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import cotrace as ct
from cotrace.errors import CotraceError, InputError
from cotrace.models import wrap
from cotrace.models.places import named_space
from cotrace.problem import LanguageProblem
from cotrace.results import Frontier, Selection
from tests import tiny
from tests.families import tiny_model

LAYERS, HEADS = 3, 4


def names(sites: Any, roles: tuple[str, ...] = ("all",), layers: Any = None, family: str = "llama") -> list[str]:
    return named_space(tiny.model(family), sites, roles, layers).names


def heads(layers: Any = range(LAYERS), units: Any = range(HEADS), role: str = "") -> list[str]:
    return [f"L{layer}.head{unit}{role}" for layer in layers for unit in units]


@pytest.mark.parametrize(
    ("sites", "right"),
    [
        (["L1.head2"], ["L1.head2"]),
        (["1.2", "L2H0", "a0.h1"], ["L0.head1", "L1.head2", "L2.head0"]),
        (["L1.head*"], heads([1])),
        ("L*.head2", heads(units=[2])),
        (["L1.*"], [*heads([1]), "L1.mlp"]),
        (["L*.*"], [*heads(), "L0.mlp", "L1.mlp", "L2.mlp"]),
        (["L*.mlp", "L2.resid"], ["L0.mlp", "L1.mlp", "L2.mlp", "L2.resid"]),
        (["head_output@last"], heads(role="@last")),
        (["head_output", "L0.head1"], heads()),
        (["L1.kv*", ct.Site.MLP_OUTPUT], ["L1.kv0", "L1.kv1", "L0.mlp", "L1.mlp", "L2.mlp"]),
        (ct.Selection.parse(["L1.head1", "L0.mlp"]), ["L1.head1", "L0.mlp"]),
        ([ct.Component.parse("L1.head1@last")], ["L1.head1@last"]),
    ],
)
def test_what_is_named_is_what_there_is(sites: Any, right: list[str]) -> None:
    assert names(sites) == right


def test_what_the_issue_asks_for() -> None:
    """One head, all of a layer, and all heads at the last position; layer by layer, roles in the order named."""
    found = names(["L1.head2", "L2.*", "head_output@last"])
    assert found == [
        *heads([0], role="@last"),
        "L1.head2",
        *heads([1], role="@last"),
        *heads([2]),
        *heads([2], role="@last"),
        "L2.mlp",
    ]


def test_the_models_own_space_takes_them_all() -> None:
    """What ``model.space`` names is the space of a problem that is asked for the same."""
    sites, some = ["L1.head2", "L2.*", "head_output@last"], tiny.model("llama")
    asked: dict[str, Any] = {"holdout": 0, "direction": "maximise"}
    assert some.space(sites, layers="1..2").names == names(sites, layers="1..2")
    assert (
        some.space(sites, layers="1..2")
        == LanguageProblem(some, tiny.task(6), sites=sites, layers="1..2", **asked).space
    )
    assert some.space(["L1.head2", "L2.head0"], roles=["last"]).names == ["L1.head2@last", "L2.head0@last"]
    assert some.space(Selection.parse(["L1.head1", "L0.mlp"])).names == ["L1.head1", "L0.mlp"]
    assert some.space("head_output", layers=range(1, 3)).names == heads([1, 2])
    for wrong, words in (
        (["L9.head1"], "llama has no L9.head1; it has 12 head_output"),
        ([3], "^model.space: sites is"),
    ):
        with pytest.raises(InputError, match=words):
            some.space(wrong)
    with pytest.raises(InputError, match="layers leave it out"):
        some.space(["L1.head2"], layers=0)


def test_names_without_a_role_are_of_each_role_that_is_asked_for() -> None:
    assert names(["L1.head2", "L0.head0@subject"], ("last", "first")) == [
        "L0.head0@subject",
        "L1.head2@last",
        "L1.head2@first",
    ]


@pytest.mark.parametrize("layers", [range(1, 3), "1..2", "1,2", [1, 2], " 1 .. 2 ", (2, 1)])
def test_layers_narrow_whatever_is_named(layers: Any) -> None:
    assert names(["head_output", "L*.mlp"], layers=layers) == [*heads([1, 2]), "L1.mlp", "L2.mlp"]
    space = tiny.model("llama").space(["head_output"])
    assert names(space, layers=layers) == heads([1, 2])


def test_one_layer_may_be_a_number() -> None:
    assert names(["head_output"], layers=0) == heads([0])
    assert names(["head_output"], layers="0,2..2") == heads([0, 2])


def test_a_layer_without_heads_of_its_own_adds_its_attention_or_its_mlp_alone() -> None:
    """A hybrid: mixers in some layers, attention in the others; what is not there is left out."""
    model = wrap(tiny_model("lfm2"), tiny.tokenizer(), name="lfm2")
    found = named_space(model, ["L*.*"], ("all",))
    attending = {layer.index for layer in model.layers if layer.heads}
    assert {one.layer for one in found if one.site is ct.Site.HEAD_OUTPUT} == attending
    assert {one.layer for one in found if one.site is ct.Site.MLP_OUTPUT} == set(range(len(model.layers)))


def frontier(sizes: list[list[str]]) -> Frontier:
    found = LanguageProblem(tiny.model("llama"), tiny.task(6), sites=["head_output"], holdout=0, direction="maximise")
    return Frontier(
        search="given",
        mode="swap",
        direction="maximise",
        metric="log_odds",
        task="t",
        space=found.space,
        selections=tuple(Selection.parse(some) for some in sizes),
        forward_equivalents=0.0,
        full_effect=0.0,
    )


def test_another_runs_frontier_is_a_shortlist() -> None:
    """The components of all its sets, and effects on them are those of the whole space."""
    short = frontier([["L0.head1"], ["L2.head0", "L1.head3"]])
    task, model = tiny.task(8), tiny.model("llama")
    asked: dict[str, Any] = {"holdout": 0, "direction": "maximise"}
    some = LanguageProblem(model, task, sites=short, **asked)
    whole = LanguageProblem(model, task, sites=["head_output"], **asked)
    assert some.space.names == ["L0.head1", "L1.head3", "L2.head0"]
    assert torch.allclose(some.effects(["L1.head3", "L0.head1"]), whole.effects(["L1.head3", "L0.head1"]), atol=1e-9)
    assert LanguageProblem(model, task, sites=short.at(1), **asked).space.names == ["L0.head1"]
    assert model.space(short).names == some.space.names
    assert model.space(short.at(1)).names == ["L0.head1"]
    assert ct.trace(model, task, sites=short, evaluation="none", **asked).sizes == [1, 2, 3]


def test_a_shortlist_of_everything_is_no_shortlist() -> None:
    with pytest.raises(InputError, match=r"hold all 12 components between them; give one of them .* sites=frontier.at"):
        names(frontier([heads()]))


@pytest.mark.parametrize(
    ("sites", "layers", "words"),
    [
        (["foo"], None, "unknown site 'foo'"),
        (["L9.head1"], None, "tiny-llama has no L9.head1; it has 12 head_output in 3 layers"),
        (["9.1"], None, "tiny-llama has no 9.1; it has 12 head_output"),
        (["L9.*"], None, "tiny-llama has no L9.*; it has layers 0 to 2"),
        (["L9.head*"], None, "tiny-llama has no L9.head*; it has 12 head_output"),
        (["L0.expert*"], None, "tiny-llama has no expert; it has attention_pattern"),
        (["L0.head"], None, "write head2 or head* behind the layer"),
        (["L0.mlp3"], None, "write mlp behind the layer"),
        (["L0.foo*"], None, "'L0.foo*' is of no site; give a site such as head_output"),
        (["head_output@"], None, "names no role behind the @"),
        (["L0.head1", "L0.head1"], None, "L0.head1 stands twice"),
        ([], None, "the component space is empty"),
        (["L1.head2"], "0", "L1.head2 is named and layers leave it out"),
        (["head_output"], "2..9", "layers go up to 9, and tiny-llama has layers 0 to 2"),
        (["head_output"], "2..1", "layers is '2..1'; give numbers from 0, such as 8..16"),
        (["head_output"], "a", "layers is 'a'; give numbers"),
        (["head_output"], -1, "layers is -1; give numbers"),
        (["head_output"], [], "layers is []; give numbers"),
    ],
)
def test_what_names_nothing_is_one_line(sites: Any, layers: Any, words: str) -> None:
    with pytest.raises(CotraceError) as caught:
        names(sites, layers=layers)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_role_that_no_pair_has_is_refused() -> None:
    with pytest.raises(CotraceError, match="has no role 'nowhere'"):
        LanguageProblem(tiny.model("llama"), tiny.task(4), sites=["head_output@nowhere"], holdout=0)


def test_a_shortlist_keeps_the_roles_of_its_members() -> None:
    pairs = tuple(replace(pair, spans={}) for pair in tiny.task(6).pairs)
    one = LanguageProblem(
        tiny.model("llama"),
        ct.Task(name="roles", pairs=pairs),
        sites=ct.Selection.parse(["L1.head2@last", "L0.head1"]),
        holdout=0,
        direction="maximise",
    )
    assert one.space.names == ["L0.head1", "L1.head2@last"]
