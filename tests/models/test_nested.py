"""An edit inside an edit: what traces a model that is edited sees the edited model, at attention too."""

from __future__ import annotations

import pytest
import torch

import cotrace as ct
from cotrace.components import Site
from cotrace.editing import apply
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from tests import tiny

HEADS = ["L0.head1", "L1.head2"]


def edited_by_hand(family: str) -> LanguageModel:
    """The same model whose heads are taken out of its weights: columns of the output projection that they write by."""
    own = tiny.model(family, seed=3)
    for layer, head in ((0, 1), (1, 2)):
        if family == "gpt2":
            own.module.transformer.h[layer].attn.c_proj.weight.data[8 * head : 8 * head + 8] = 0
        else:
            own.module.model.layers[layer].self_attn.o_proj.weight.data[:, 8 * head : 8 * head + 8] = 0
    return own


@pytest.fixture(autouse=True)
def fresh() -> None:
    tiny.model.cache_clear()


def problem(model: LanguageModel, site: str) -> LanguageProblem:
    return LanguageProblem(model, tiny.task(8), sites=[site], holdout=0)


@pytest.mark.parametrize("site", ["head_output", "attention_pattern", "mlp_output"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_problem_inside_an_edit_is_that_of_the_edited_model(family: str, site: str) -> None:
    expected = problem(edited_by_hand(family), site)
    z = torch.rand(2, len(expected.space), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = expected.effects(z), expected.gradient(z[0])
    tiny.model.cache_clear()
    model = tiny.model(family, seed=3)
    plain = problem(model, site).effects(z)
    with apply(model, ct.Selection.parse(HEADS), "zero"):
        inside = problem(model, site)
        found = inside.effects(z), inside.gradient(z[0])
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-9 if family == "gpt2" else 1e-5)
    assert not torch.allclose(found[0], plain, atol=1e-4), "the edit matters"
    assert torch.equal(problem(model, site).effects(z), plain), "and leaves nothing behind"


def test_patterns_edited_inside_edited_patterns() -> None:
    """Both edits of attention weights: the inner one starts from the outer one's."""
    model = tiny.model("gpt2", seed=3)
    seen = []

    def halved(weights: torch.Tensor) -> torch.Tensor:
        seen.append(weights)
        return weights / 2

    place = model.places(Site.ATTENTION_PATTERN)[1]
    tokens = torch.arange(6)[None]
    with torch.no_grad(), ct.models.hooked(model.module, [(place, halved)]):
        once = model.module(tokens).logits
        with ct.models.hooked(model.module, [(place, halved)]):
            model.module(tokens)
    assert torch.allclose(seen[2], seen[0] / 2)
    with torch.no_grad(), ct.models.hooked(model.module, [(place, lambda weights: weights / 4)]):
        quarter = model.module(tokens).logits
    assert not torch.allclose(once, quarter)
