"""What features do in a set: against forward passes with hooks by hand, and against the value they are parts of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import cotrace as ct
from cotrace.dictionaries import Dictionary
from cotrace.errors import InputError
from cotrace.readout.logit_parts import Writer
from cotrace.readout.paths import before
from cotrace.readout.writes import Writes
from tests.dictionaries.toy import ALL, FEATURES, MODEL, TASK, by_hand, dense, dictionary

pytestmark = [
    pytest.mark.filterwarnings("ignore::cotrace.problem.spaces.PoorDictionary"),
    pytest.mark.filterwarnings("ignore::cotrace.problem._coverage.RefusedPairs"),
]

LOW = dictionary("blocks.0.hook_mlp_out", 30)
MIDDLE = dictionary("blocks.1.mlp.hook_in", 31, hook_out="blocks.1.hook_mlp_out")
HIGH = dictionary("blocks.2.hook_attn_out", 32, k=8)
HELD = (LOW, MIDDLE, HIGH)


@cache
def problem(**rest: Any) -> ct.LanguageProblem:
    options = {"sites": ["feature", "error"], "holdout": 0, "direction": "maximise"} | rest
    return ct.LanguageProblem(MODEL, TASK, dictionaries=list(HELD), **options)


@cache
def told(layer: int) -> Tensor:
    """1 for the features that are components; the others go with the error."""
    names = set(problem().space.names)
    return torch.tensor([float(f"L{layer}.feature{unit}" in names) for unit in range(FEATURES)], dtype=ALL)


Value = dict[str, Tensor]
"""Component -> its value at every position of a prompt."""
Put = Callable[[str], Tensor | None]
"""Component -> the value that it is to take; None for its own."""


def nothing(_: str) -> None:
    """All take their own."""


def run(ids: Sequence[int], put: Put = nothing) -> tuple[Tensor, Value]:
    """Log-probabilities of a run in which components take other values, and the values that all had before."""
    seen: Value = {}
    components = [told(layer) for layer in range(3)]

    def act(layer: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        f = dense(one, read) * components[layer]
        error, changed = written - f @ one.decoder, f.clone()
        for unit in range(FEATURES):
            name = f"L{layer}.feature{unit}"
            seen[name] = f[0, :, unit, None]
            if (value := put(name)) is not None:
                changed[0, : len(value), unit] = value[:, 0]
        seen[f"L{layer}.error"] = error[0]
        if (value := put(f"L{layer}.error")) is not None:
            error = torch.cat([value[None], error[:, len(value) :]], 1)
        return changed @ one.decoder + error

    with torch.no_grad(), by_hand(HELD, act):
        return MODEL.module(torch.tensor([list(ids)])).logits[0].double().log_softmax(-1), seen


def encoded(pair: ct.PromptPair) -> tuple[list[int], list[int], list[list[int]]]:
    words = MODEL.require_tokenizer()
    base, other = (words(text)["input_ids"] for text in (pair.base, pair.counterfactual))
    return base, other, [words(answer)["input_ids"] for answer in pair.answers]


def log_odds(pair: ct.PromptPair, putting: Callable[[list[int]], Put]) -> float:
    """What is put where is told by the tokens of prompt and answer."""
    base, _, answers = encoded(pair)
    found = []
    for answer in answers:
        logits, _ = run([*base, *answer], putting([*base, *answer]))
        found.append(sum(float(logits[len(base) + i - 1, token]) for i, token in enumerate(answer)))
    return (1 if pair.target == 0 else -1) * (found[1] - found[0])


def swapped(pair: ct.PromptPair, names: Sequence[str]) -> Put:
    """The donor's values, at the prompt's positions."""
    donor = run(encoded(pair)[1])[1]
    return lambda name: donor[name] if name in names else None


def through(pair: ct.PromptPair, source: str, target: str) -> Callable[[list[int]], Put]:
    """The target held, answers included, at what it is when the source is swapped."""

    def putting(ids: list[int]) -> Put:
        held = run(ids, swapped(pair, [source]))[1][target]
        return lambda name: held if name == target else None

    return putting


MEMBERS = ("L0.feature3", "L0.error", "L1.feature5", "L2.feature7", "L2.error")


@cache
def explained() -> ct.readout.Explanation:
    names = [name for name in MEMBERS if name in problem().space.names]
    assert len(names) == len(MEMBERS)
    return ct.explain(problem(), names)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("L0.feature3", "L1.feature5"),
        ("L0.feature3", "L2.feature7"),
        ("L0.error", "L1.feature5"),
        ("L0.error", "L2.error"),
        ("L1.feature5", "L2.error"),
    ],
)
def test_what_one_does_through_another_is_that_of_hooks_by_hand(source: str, target: str) -> None:
    expected = [
        log_odds(pair, through(pair, source, target)) - log_odds(pair, lambda _: nothing) for pair in TASK.pairs
    ]
    arrow = explained().paths.arrow(source, target)
    assert arrow is not None
    assert arrow.effect == pytest.approx(sum(expected) / len(expected), abs=1e-9)


def test_some_arrow_between_features_is_not_zero() -> None:
    effects = [arrow.effect for arrow in explained().paths.arrows if ".feature" in arrow.source + arrow.target]
    assert max(map(abs, effects)) > 1e-4


def test_what_members_read_is_what_the_dictionary_makes_of_the_run() -> None:
    ours = problem()
    for which in ("base", "donor"):
        found = ours.activations(list(MEMBERS), run=which)
        for pair in TASK.pairs:
            base, other, _ = encoded(pair)
            expected = run(base if which == "base" else other)[1]
            for name in MEMBERS:
                torch.testing.assert_close(found[pair.id][name], expected[name])


def test_under_a_set_of_lower_layers_features_are_read_and_under_one_of_their_own_refused() -> None:
    ours = problem()
    found = ours.activations(["L2.feature7"], run=["L0.feature3", "L0.error"])
    for pair in TASK.pairs:
        expected = run(encoded(pair)[0], swapped(pair, ["L0.feature3", "L0.error"]))[1]
        torch.testing.assert_close(found[pair.id]["L2.feature7"], expected["L2.feature7"])
    with pytest.raises(InputError, match=r"the set swaps L2.error, after which the value is no sum of L2.feature7"):
        ours.activations(["L2.feature7"], run=["L2.error"])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_what_features_and_error_write_is_what_their_place_writes(layer: int) -> None:
    """Their parts add up to the place's own part in the logit difference, of the base run and of the donor's."""
    site = "attention_output" if layer == 2 else "mlp_output"
    ours = problem(sites=("feature", "error", site))
    mine = [c for c in ours.space if c.layer == layer and c.site.value in ("feature", "error")]
    place = [c for c in ours.space if c.layer == layer and c.site.value == site]
    found = Writes(ours.training.scorer, [*mine, *place], Writer(ours.model)).run()
    base, donor = found._own
    torch.testing.assert_close(base[:-1].sum(0), base[-1])
    torch.testing.assert_close(donor[:-1].sum(0), donor[-1])
    assert float((donor[-1] - base[-1]).abs().min()) > 1e-6
    assert float(base[:-2].abs().max(0).values.min()) > 1e-6


def test_order_within_a_layer_is_that_of_the_places_that_features_are_parts_of() -> None:
    parse, hosts = ct.Component.parse, {1: ct.Site.ATTENTION_OUTPUT, 2: ct.Site.MLP_OUTPUT}
    for first, other, expected in (
        ("L1.head0", "L1.feature3", True),
        ("L1.feature3", "L1.mlp", True),
        ("L1.feature3", "L1.head0", False),
        ("L1.feature3", "L1.error", False),
        ("L2.neuron4", "L2.feature3", True),
        ("L2.attn", "L2.error", True),
        ("L2.feature3", "L2.attn", False),
        ("L2.feature3", "L2.resid", True),
        ("L2.feature3", "L1.feature3", False),
    ):
        assert before(parse(first), parse(other), hosts) is expected, (first, other)
