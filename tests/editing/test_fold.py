"""Folding: the saved folder, loaded by plain transformers, against the hooked model; and what cannot be folded."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import cotrace as ct
from cotrace.components import Component, Site
from cotrace.donors import Counterfactual, Vector
from cotrace.editing import folded, save
from cotrace.errors import CotraceError, OutputExists, UnsupportedSite
from cotrace.models import LanguageModel, wrap
from tests.editing.models import FAMILIES, GATED_GROUPED, ids, log_p, tiny
from tests.families import tiny_model
from tests.tiny import task

NAMES = ("L0.head1", "L1.head0", "L1.head3", "L0.neuron5", "L1.neuron40", "L0.coord3", "L1.attn", "L1.mlp")


def chosen(model: LanguageModel, *names: str) -> ct.Selection:
    """Those of the components that the model has."""
    found = [name for name in names or NAMES if Component.parse(name).site in model.sites]
    return ct.Selection.parse(found)


@pytest.mark.parametrize("donor", ["zero", "scale=0.2", "scale=-0.5"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_scores_as_the_hooked_one(family: str, donor: str, tmp_path: Path) -> None:
    model = tiny(family)
    selection = chosen(model)
    assert {member.site for member in selection.members} >= {Site.HEAD_OUTPUT, Site.MLP_NEURON}
    before = log_p(model.module, ids())
    with ct.apply(model, selection, donor) as hooked:
        expected = log_p(hooked, ids())
    save(folded(model, selection, donor), tmp_path / "edited", "card", {})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "edited").eval()
    assert (expected - before).abs().max() > 1e-2, "the edit does something"
    torch.testing.assert_close(log_p(loaded, ids()), expected, rtol=0, atol=1e-5)
    assert torch.equal(log_p(model.module, ids()), before), "the model itself is as it was"


@pytest.mark.parametrize("family", GATED_GROUPED)
def test_a_group_of_heads_folds_as_its_heads(family: str) -> None:
    model = tiny(family)
    group = folded(model, ct.Selection.parse(["L1.kv1"]), "scale=0.3")
    heads = folded(model, ct.Selection.parse(["L1.head2", "L1.head3"]), "scale=0.3")
    for name, weight in group.module.state_dict().items():
        assert torch.equal(weight, heads.module.state_dict()[name]), name


def test_by_hand_on_the_weights_of_gpt2_and_llama() -> None:
    """Conv1D keeps [in, out], Linear [out, in]; head 1 of width 8 is entries 8 .. 16 of what enters."""
    gpt2, llama = tiny("gpt2"), tiny("llama")
    conv = folded(gpt2, ct.Selection.parse(["L0.head1"]), "scale=0.2").module.transformer.h[0].attn.c_proj.weight
    expected = gpt2.module.transformer.h[0].attn.c_proj.weight.detach().clone()
    expected[8:16] *= 0.2
    torch.testing.assert_close(conv.detach(), expected)
    linear = folded(llama, ct.Selection.parse(["L0.neuron5"]), "zero").module.model.layers[0].mlp.down_proj.weight
    expected = llama.module.model.layers[0].mlp.down_proj.weight.detach().clone()
    expected[:, 5] = 0
    torch.testing.assert_close(linear.detach(), expected)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "bloom"])
def test_means_and_vectors_go_into_the_bias(family: str) -> None:
    model = tiny(family)
    selection = chosen(model, "L0.head1", "L1.head0", "L1.neuron7", "L0.coord2")
    generator = torch.Generator().manual_seed(0)
    width = {place.site: place.width for layer in model.layers for place in layer.places.values()}
    values = {str(m): torch.randn(width[m.site], generator=generator) for m in selection.members}
    for donor in (Vector(values=values), "mean=task"):
        with ct.apply(model, selection, donor, reference=task()) as hooked:
            expected = log_p(hooked, ids())
        edited = folded(model, selection, donor, reference=task())
        torch.testing.assert_close(log_p(edited.module, ids()), expected, rtol=0, atol=1e-5)


def test_a_bias_that_is_not_there_is_refused_with_the_alternative() -> None:
    with pytest.raises(UnsupportedSite, match=r"no bias.*use zero or scale"):
        folded(tiny("llama"), ct.Selection.parse(["L0.head1"]), "mean=task", reference=task())


def quantised(model: LanguageModel) -> LanguageModel:
    """The model with one projection of whole numbers, as quantising libraries make them."""

    class Int8(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.scale = linear.weight.abs().max() / 127
            self.weight = nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values @ (self.weight.float() * self.scale).T

    module = copy.deepcopy(model.module)
    attention = module.model.layers[0].self_attn
    attention.o_proj = Int8(attention.o_proj)
    return wrap(module, model.tokenizer, name="int8")


def configured(model: LanguageModel) -> LanguageModel:
    """The model with the mark that transformers puts on quantised ones."""
    module = copy.deepcopy(model.module)
    module.config.quantization_config = {"quant_method": "bitsandbytes"}
    return wrap(module, model.tokenizer, name="marked")


def shared(model: LanguageModel) -> LanguageModel:
    """Two layers that use one output projection."""
    module = copy.deepcopy(model.module)
    module.model.layers[1].self_attn.o_proj.weight = module.model.layers[0].self_attn.o_proj.weight
    return wrap(module, model.tokenizer, name="shared")


HEAD = ("L0.head1",)
REFUSED = {
    "quantised projection": (lambda: quantised(tiny("llama")), HEAD, "zero", "quantised"),
    "quantised model": (lambda: configured(tiny("llama")), HEAD, "zero", "is quantised"),
    "shared weights": (lambda: shared(tiny("llama")), HEAD, "zero", "shares its weights with"),
    "counterfactual": (lambda: tiny("llama"), HEAD, Counterfactual(), "a generated position has no pair"),
    "resample": (lambda: tiny("llama"), HEAD, "resample", "does not stand alone"),
    "noise": (lambda: tiny("llama"), HEAD, "noise=0.5", "does not stand alone"),
    "mean by position": (lambda: tiny("llama"), HEAD, "mean=position", "use donors='mean=task'"),
    "mean without a reference": (lambda: tiny("llama"), HEAD, "mean=task", "needs a reference set"),
    "position role": (lambda: tiny("llama"), ("L0.head1@last",), "zero", "position role 'last'"),
    "pattern": (lambda: tiny("llama"), ("L0.pattern1",), "zero", "rows that sum to 1"),
    "residual": (lambda: tiny("llama"), ("L0.resid",), "zero", "no single matrix"),
    "another size": (lambda: tiny("llama"), ("L9.head1",), "zero", "another architecture or size"),
    "more heads than there are": (lambda: tiny("llama"), ("L0.head7",), "zero", "another architecture or size"),
    "a site that it lacks": (lambda: tiny("llama"), ("L0.expert1",), "zero", "has no expert"),
    "factor too large": (lambda: tiny("llama"), HEAD, "scale=2.5", "outside -1 .. 2"),
    "factor not a number": (lambda: tiny("llama"), HEAD, "scale=nan", "is not finite"),
    "empty selection": (lambda: tiny("llama"), (), "zero", "is empty"),
    "vector file that is not there": (lambda: tiny("llama"), HEAD, "vector=nowhere.safetensors", "nowhere"),
    "norm behind the heads": (lambda: tiny("bitnet"), HEAD, "zero", "cannot be folded"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_folded_is_refused_in_one_line(name: str) -> None:
    make, names, donor, words = REFUSED[name]
    with pytest.raises(CotraceError, match=words) as caught:
        folded(make(), ct.Selection.parse(names), donor)
    assert "\n" not in str(caught.value)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    model = tiny("gpt2")
    edited = folded(model, ct.Selection.parse(["L1.mlp"]), "scale=0.5").module
    assert edited.lm_head.weight is edited.transformer.wte.weight
    assert edited.lm_head.weight is not model.module.lm_head.weight


def test_an_existing_folder_is_refused_and_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("before")
    with pytest.raises(OutputExists, match="full"):
        save(model, tmp_path / "full", "card", {})

    def broken(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(type(model.module), "save_pretrained", broken)
    with pytest.raises(OSError, match="no space"):
        save(model, tmp_path / "new", "card", {})
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(("family", "base"), [("olmo2", 0.0), ("glm4", 0.0), ("gemma2", 1.0)])
def test_a_norm_behind_the_mlp_takes_the_edit_in_float64_too(family: str, base: float) -> None:
    """The norm multiplies with w, in Gemma with 1 + w: that factor alone is scaled, by the closed form."""
    model = wrap(tiny_model(family).double(), name=family)
    names = {"gemma2": "post_feedforward_layernorm", "glm4": "post_mlp_layernorm"}
    norm = names.get(family, "post_feedforward_layernorm")
    before = getattr(model.module.model.layers[1], norm).weight.detach().clone()
    edited = folded(model, ct.Selection.parse(["L1.mlp"]), "scale=-0.5").module
    after = getattr(edited.model.layers[1], norm).weight.detach()
    torch.testing.assert_close(after, -0.5 * (before + base) - base, rtol=0, atol=1e-12)
