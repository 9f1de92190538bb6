"""Several dictionaries in one layer: each splits a place of its own, and its components are named by that place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import cotrace as ct
from cotrace.components import OF_DICTIONARIES
from cotrace.dictionaries import Dictionary, describe
from cotrace.dictionaries.placed import with_dictionaries
from cotrace.errors import InputError, UnsupportedSite
from tests.dictionaries.toy import ALL, FEATURES, MODEL, TASK, by_hand, dense, dictionary

pytestmark = [
    pytest.mark.filterwarnings("ignore::cotrace.problem.spaces.PoorDictionary"),
    pytest.mark.filterwarnings("ignore::cotrace.problem._coverage.RefusedPairs"),
    pytest.mark.filterwarnings("ignore::cotrace.problem._coverage.NestedSites"),
]

ATTENTION = dictionary("blocks.1.hook_attn_out", 40)
MLP = dictionary("blocks.1.hook_mlp_out", 41, k=6)
ALONE = dictionary("blocks.2.hook_mlp_out", 42)
HELD = (ATTENTION, MLP, ALONE)
NAMES = {id(ATTENTION): "L1.attn", id(MLP): "L1.mlp", id(ALONE): "L2"}


@cache
def problem(**rest: Any) -> ct.LanguageProblem:
    options = {"sites": ["feature", "error"], "holdout": 0, "direction": "maximise"} | rest
    return ct.LanguageProblem(MODEL, TASK, dictionaries=list(HELD), **options)


@pytest.mark.parametrize("site", sorted(OF_DICTIONARIES))
def test_names_parse_and_print_as_inverses(site: ct.Site) -> None:
    one = ct.Component(site, 5, 12 if site.has_units else None, "subject")
    assert ct.Component.parse(str(one)) == one
    assert str(ct.Component.parse("L5.mlp.feature12")) == "L5.mlp.feature12"
    with pytest.raises(InputError, match="is not a component"):
        ct.Component.parse("L5.feature.mlp12")


def test_only_layers_with_several_name_the_place() -> None:
    names = problem().space.names
    starts = {name.rstrip("0123456789") for name in names}
    assert starts == {"L1.attn.feature", "L1.attn.error", "L1.mlp.feature", "L1.mlp.error", "L2.feature", "L2.error"}
    assert problem(sites=("mlp_feature",)).space.names == [name for name in names if ".mlp.feature" in name]
    wanted = ("L1.mlp.feature*", "L2.error")
    assert problem(sites=wanted).space.names == [n for n in names if ".mlp.feature" in n or n == "L2.error"]


def test_all_parts_of_both_are_both_places_swapped() -> None:
    whole = ct.LanguageProblem(MODEL, TASK, sites=["attention_output", "mlp_output"], holdout=0, direction="maximise")
    places = torch.tensor([float(c.layer == 1 or str(c) == "L2.mlp") for c in whole.space], dtype=ALL)
    ours = problem()
    ones = torch.ones(len(ours.space), dtype=ALL)
    torch.testing.assert_close(ours.effects(ones), whole.effects(places), rtol=0, atol=1e-9)
    mlps = torch.tensor([float(str(c) == "L1.mlp") for c in whole.space], dtype=ALL)
    mine = torch.tensor([float(".mlp." in name) for name in ours.space.names], dtype=ALL)
    torch.testing.assert_close(ours.effects(mine), whole.effects(mlps), rtol=0, atol=1e-9)
    assert float(ours.effects(0 * ones).abs().max()) <= 1e-12


def by_definition(z: dict[str, float], pair: ct.PromptPair) -> float:
    """The change of the log-odds of one pair, with plain hooks; what is no component goes with the error."""
    words = MODEL.require_tokenizer()
    base, other = (words(text)["input_ids"] for text in (pair.base, pair.counterfactual))
    answers = [words(answer)["input_ids"] for answer in pair.answers]
    donor: dict[int, tuple[Tensor, Tensor]] = {}

    def record(_: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        f = dense(one, read)
        donor[id(one)] = f, written - f @ one.decoder
        return written

    def blend(_: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        n, name = len(base), NAMES[id(one)]
        f = dense(one, read)[:, :n]
        e = written[:, :n] - f @ one.decoder
        g, d = (value[:, :n] for value in donor[id(one)])
        error = z[f"{name}.error"]
        share = torch.tensor([z.get(f"{name}.feature{i}", error) for i in range(FEATURES)], dtype=ALL)
        value = (f + share * (g - f)) @ one.decoder + e + error * (d - e)
        return torch.cat([value, written[:, n:]], 1)

    def odds() -> float:
        found = []
        for answer in answers:
            logits = MODEL.module(torch.tensor([base + answer])).logits[0].double().log_softmax(-1)
            found.append(sum(float(logits[len(base) + i - 1, token]) for i, token in enumerate(answer)))
        return found[1] - found[0]

    with torch.no_grad():
        plain = odds()
        with by_hand(HELD, record):
            MODEL.module(torch.tensor([other]))
        with by_hand(HELD, blend):
            return (1 if pair.target == 0 else -1) * (odds() - plain)


def test_effects_and_gradient_are_those_of_hooks_by_hand() -> None:
    ours = problem()
    draw = torch.Generator().manual_seed(3)
    z, along = (torch.rand(len(ours.space), generator=draw, dtype=ALL) for _ in range(2))
    mask = dict(zip(ours.space.names, z.tolist(), strict=True))
    expected = torch.tensor([by_definition(mask, pair) for pair in TASK.pairs], dtype=ALL)
    torch.testing.assert_close(ours.effects(z), expected)
    step = 1e-6
    slope = (ours.value(z + step * along) - ours.value(z - step * along)) / (2 * step)
    assert float((ours.gradient(z) * along).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_they_are_edited_described_and_explained_under_their_names() -> None:
    ours = problem()
    names = [next(n for n in ours.space.names if n.startswith(start)) for start in ("L1.attn.feature", "L1.mlp.error")]
    ids = torch.tensor([[3, 14, 15, 9, 26, 5]])

    def act(_: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        f = dense(one, read)
        if one is ATTENTION:
            unit = int(names[0].partition("feature")[2])
            return written - f[..., unit, None] * one.decoder[unit]
        # what is told apart stays; the error of the model's own dictionaries is what all features leave
        return f @ one.decoder if one is MLP else written

    with torch.no_grad(), by_hand(HELD, act):
        expected = MODEL.module(ids).logits
    with torch.no_grad(), ct.apply(with_dictionaries(MODEL, HELD), ct.Selection.parse(names), "zero") as edited:
        torch.testing.assert_close(edited(ids).logits, expected)
    assert [card.component for card in describe(ours.model, names, TASK)] == names[:1]
    found = ct.explain(ours, names)
    assert found.paths.arrow(*names) is not None
    assert found.paths.arrow(*names[::-1]) is None
    assert found.card(names[0]).feature is not None
    assert ct.Selection.from_dict(ct.Selection.parse(names).to_dict()).components == names


@pytest.mark.parametrize("second", ["blocks.1.hook_mlp_out", "transformer.h.1.mlp", "blocks.1.mlp.hook_in"])
def test_two_of_one_place_are_refused(second: str) -> None:
    out = "blocks.1.hook_mlp_out"
    other = dictionary(second, 43, **({"hook_out": out} if second.endswith("in") else {}))
    both: Sequence[Dictionary] = [MLP, other]
    with pytest.raises(InputError, match=r"random/41 and random/43 both write the mlp_output of layer 1") as caught:
        ct.LanguageProblem(MODEL, TASK, dictionaries=both)
    assert "\n" not in str(caught.value)


def test_a_name_without_the_place_is_refused_where_there_are_several() -> None:
    held = with_dictionaries(MODEL, HELD)
    with pytest.raises(InputError, match=r"has no L1.feature3; it has .*mlp_feature"):
        ct.LanguageProblem(MODEL, TASK, dictionaries=list(HELD), sites=["L1.feature3"])
    with pytest.raises(InputError, match=r"has no L1.feature3"):
        ct.apply(held, ct.Selection.parse(["L1.feature3"])).__enter__()
    with pytest.raises(UnsupportedSite, match=r"has no head_feature; it has attention_feature, "):
        ct.LanguageProblem(MODEL, TASK, dictionaries=list(HELD), sites=["head_feature"])
    with pytest.raises(InputError, match=r"has no L1.feature3"):
        ct.LanguageProblem(MODEL, TASK, dictionaries=list(HELD), sites=ct.ComponentSpace.parse(["L1.feature3"]))


@pytest.mark.parametrize("site", list(ct.Site))
def test_every_name_is_one_of_the_schema_of_selections(site: ct.Site) -> None:
    name = str(ct.Component(site, 5, 3 if site.has_units else None))
    pattern = ct.interchange.schema()["$defs"]["component"]["pattern"]
    assert re.search(pattern, name), name
