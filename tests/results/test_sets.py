"""Selections are sets of components, and whatever takes one takes names or a mask that say the same."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError
from cotrace.results import selection_of
from tests import tiny
from tests.problems import ClosedForm, heads, modular

ONE, OTHER = ct.Selection.parse(["L4.head0", "L4.head2", "L1.mlp"]), ct.Selection.parse(["L4.head2", "L2.mlp"])
WEIGHTS = [0.5, 2.0, 0.25, 3.0, 0.0, 1.0]


def test_a_selection_has_members_as_a_set_has() -> None:
    assert len(ONE) == 3
    assert [str(member) for member in ONE] == ONE.components
    assert "L4.head0" in ONE
    assert "4.0" in ONE
    assert ct.Component.parse("L1.mlp") in ONE
    assert "L2.mlp" not in ONE
    assert 3 not in ONE
    assert not ct.Selection(members=())


@pytest.mark.parametrize("other", [OTHER, OTHER.components, set(OTHER.components), list(OTHER)])
def test_sets_are_joined_cut_and_taken_from_each_other(other: Any) -> None:
    assert (ONE & other).components == ["L4.head2"]
    assert set((ONE | other).components) == {"L4.head0", "L4.head2", "L1.mlp", "L2.mlp"}
    assert set((ONE - other).components) == {"L4.head0", "L1.mlp"}
    assert ONE.overlap(other) == pytest.approx(1 / 4)
    assert (ONE - ONE).overlap([]) == 1.0
    assert (ONE & "L1.mlp").components == ["L1.mlp"]


def test_nothing_is_said_to_be_measured_of_a_set_that_was_made() -> None:
    measured = ct.Selection(members=ONE.members, effect=2.0, effect_heldout=1.0)
    for made in (measured & OTHER, measured | OTHER, measured - OTHER):
        assert made.effect is None
        assert made.effect_heldout is None


@pytest.mark.parametrize("use", [lambda: ONE & 3, lambda: ONE | [3], lambda: ONE - None, lambda: ONE.overlap(1.5)])
def test_what_is_no_set_is_one_line(use: Any) -> None:
    with pytest.raises(InputError, match="give component names such as"):
        use()


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (ct.Selection.parse(["L4.head0", "L4.head2"]), "L4.head0, L4.head2"),
        (ct.Selection(members=OTHER.members, effect=5.5), "L2.mlp, L4.head2: +5.50"),
        (
            ct.Selection(members=ONE.members[:1], effect=5.5, effect_heldout=5.4),
            f"{ONE.members[0]}: +5.50 (held out +5.40)",
        ),
        (ct.Selection(members=ONE.members[:1], effect=-1234.5), f"{ONE.members[0]}: -1.23e+03"),
        (ct.Selection(members=()), "no components"),
    ],
)
def test_a_selection_prints_as_its_names_and_effects(selection: ct.Selection, words: str) -> None:
    assert set(str(selection).partition(":")[0].split(", ")) == set(words.partition(":")[0].split(", "))
    assert str(selection).partition(":")[2] == words.partition(":")[2]


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_names_a_selection_and_a_mask_are_evaluated_alike(mode: Any) -> None:
    problem = ClosedForm(modular(WEIGHTS), 6, mode=mode, size=16)
    names = ["L0.head1", "L0.head3"]
    mask = torch.tensor([float(name in names) for name in problem.space.names])
    mask = mask if mode == "swap" else 1 - mask
    found = [
        ct.evaluate(problem, given)
        for given in (ct.Selection.parse(names), names, tuple(names), mask, mask.numpy(), mask.bool(), mask.tolist())
    ]
    assert {one.k for one in found} == {2}
    assert {tuple(one.components) for one in found} == {tuple(names)}
    assert ct.evaluate(problem, "L0.head1").k == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["L9.head1"], "L9.head1 is not in this component space"),
        (["L0.head1", "L0.head1"], "L0.head1 stands twice"),
        ([0.5] * 6, "the mask is no set: give [n] of 0 and 1 alone, with n = 6"),
        ([1, 0], "the mask is no set"),
        ([0] * 6, "the selection is empty"),
        ([], "there is no result to judge"),
        (3, "the set is 3; give component names"),
        (None, "the set is None; give component names"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(given: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        ct.evaluate(ClosedForm(modular(WEIGHTS), 6, size=16), given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@cache
def logits(given: Any, **options: Any) -> torch.Tensor:
    model = tiny.model("gpt2")
    ids = torch.arange(6)[None]
    with (
        torch.no_grad(),
        ct.apply(model, list(given) if isinstance(given, tuple) else given, "zero", **options) as module,
    ):
        return module(input_ids=ids).logits


def test_names_a_selection_and_a_mask_are_applied_alike() -> None:
    names, space = ("L0.head1", "L1.head3"), tiny.model("gpt2").space(["head_output"])
    right = logits(ct.Selection.parse(names))
    mask = torch.tensor([name in names for name in space.names])
    assert torch.equal(logits(names), right)
    assert torch.equal(logits(mask, space=space), right)
    assert torch.equal(logits("L0.head1"), logits(ct.Selection.parse(["L0.head1"])))
    assert not torch.allclose(right, logits("L0.head1"))
    with torch.no_grad(), ct.apply(tiny.model("gpt2"), ct.Selection.parse(names)) as module:
        assert torch.equal(module(input_ids=torch.arange(6)[None]).logits, right)


def test_a_mask_without_its_space_cannot_be_applied() -> None:
    with pytest.raises(InputError, match="a mask is read by its space: give space="):
        logits(torch.ones(12))


def test_a_mask_is_read_by_its_mode() -> None:
    mask = np.array([1, 0, 0, 1, 0, 0])
    assert selection_of("here", mask, heads(6)).components == ["L0.head0", "L0.head3"]
    assert selection_of("here", mask, heads(6), "keep").components == ["L0.head1", "L0.head2", "L1.head0", "L1.head1"]
