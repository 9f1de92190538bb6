"""The self-check on models that are right, and on models and patches that are broken on purpose, one way each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import cotrace as ct
from cotrace.components import Site
from cotrace.interventions import ValuePatch
from cotrace.models import LanguageModel, wrap
from cotrace.models.hooks import Edit
from cotrace.prompts import PromptPair, Task
from cotrace.selfcheck import CheckFailed, CheckReport, check, ensure
from cotrace.selfcheck._properties import GRADIENT, in_float32
from tests import tiny
from tests.families import tiny_config, tiny_model

FRESH = ["attention_output", "residual"]


def fresh(family: str = "llama") -> LanguageModel:
    """A model of one's own to break; with a tokenizer."""
    return wrap(tiny_model(family), tiny.tokenizer(), name=family)


def broken(report: CheckReport) -> set[str]:
    return {finding.name for finding in report.failures}


def hook_layer(model: LanguageModel, change: Callable[[Tensor], Tensor]) -> None:
    """Every forward of the second layer's MLP goes through ``change``: a fault of the model itself."""
    mlp = model.module.model.layers[1].mlp
    inner = mlp.forward
    mlp.forward = lambda *args, **kwargs: change(inner(*args, **kwargs))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_right_models_pass_and_every_property_is_measured(family: str) -> None:
    report = check(tiny.model(family, torch.float32), tiny.task())
    assert report.ok
    assert report.failures == ()
    assert 0 < report.error < 1e-5
    assert report.sites == tuple(site.value for site in tiny.model(family).sites)
    names = {finding.name for finding in report.findings}
    assert len(names) == (12 if family == "gpt2" else 13)  # positions of a table have no frequencies
    assert f"tiny-{family} (float32): all properties hold" in str(report)
    assert all(name in str(report) for name in names)
    assert ct.check is check
    assert report.to_dict()["ok"] is True


def test_a_model_in_which_tokens_see_later_ones_fails() -> None:
    encoder = AutoModelForCausalLM.from_config(
        type(tiny_config("bert"))(**tiny_config("bert").to_dict() | {"is_decoder": False})
    )
    report = check(wrap(encoder.eval(), name="an encoder"), sites=FRESH)
    assert broken(report) >= {"no token sees a later one"}
    (leak,) = (finding for finding in report.failures if finding.name == "no token sees a later one")
    assert leak.error is not None
    assert leak.error > leak.tolerance
    assert "causal decoder" in leak.words


def test_a_model_whose_rows_depend_on_each_other_fails() -> None:
    model = fresh()
    hook_layer(model, lambda output: output + 0.1 * output.mean(0, keepdim=True) * (len(output) > 1))
    assert broken(check(model, sites=FRESH)) >= {"padding and batch company change nothing"}


def test_a_patch_that_lands_halfway_fails_and_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ValuePatch.edit

    def half(patch: ValuePatch, z: Tensor) -> Edit:
        return whole(patch, z * 0.5)

    monkeypatch.setattr(ValuePatch, "edit", half)
    model = fresh()
    report = check(model, sites=FRESH)
    assert broken(report) == {"mask 1 puts the donor's value", "the whole residual stream is the donor run"}
    with pytest.raises(
        CheckFailed, match=r"llama failed the self-check: mask 1 puts .* at L\d attention_output, off by"
    ):
        ensure(model, FRESH)


def test_a_patch_that_changes_something_at_mask_0_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ValuePatch.edit
    monkeypatch.setattr(ValuePatch, "edit", lambda patch, z: whole(patch, 0.01 + 0.99 * z))
    assert broken(check(fresh(), sites=FRESH)) == {"mask 0 changes nothing"}


def test_a_patch_that_does_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ValuePatch, "edit", lambda patch, z: lambda own: own)
    assert broken(check(fresh(), sites=FRESH)) >= {"mask 1 moves the logits", "mask 1 puts the donor's value"}


def test_a_hook_that_never_fires_fails() -> None:
    model = fresh()
    layer = model.layers[1]
    idle = replace(layer.places[Site.MLP_OUTPUT], module=nn.Linear(1, 1))
    model.__dict__["layers"] = (model.layers[0], replace(layer, places={**layer.places, Site.MLP_OUTPUT: idle}))
    report = check(model, sites=["mlp_output"])
    assert broken(report) == {"every hook fires"}
    assert "L1 mlp_output" in report.failures[0].words


def test_a_layer_that_cuts_the_gradient_fails() -> None:
    """Its values are right, so nothing else notices; a search would follow a gradient that is not there."""
    model = fresh()
    hook_layer(model, lambda output: output.detach())
    assert broken(check(model, sites=["mlp_neuron"])) == {GRADIENT}


def test_a_gradient_off_by_a_factor_fails() -> None:
    model = fresh()
    hook_layer(model, lambda output: output.detach() + 0.7 * (output - output.detach()))
    report = check(model, sites=["mlp_neuron"])
    assert broken(report) == {GRADIENT}
    (finding,) = (finding for finding in report.findings if finding.name == GRADIENT)
    assert 0.05 < finding.error <= 0.31


def test_padding_on_the_left_without_positions_of_its_own_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh("gpt2")
    model.require_tokenizer().pad_token = "w0"
    assert check(model, sites=FRESH).ok
    monkeypatch.setattr(LanguageModel, "takes", lambda model, argument: False)
    report = check(model, sites=FRESH)
    assert broken(report) == {"left- and right-padded rows agree"}
    assert report.failures[0].where == "padding on the left"


def test_a_layer_that_goes_wrong_in_half_precision_is_found() -> None:
    model = fresh()
    model.module.to(torch.bfloat16)
    assert check(model, sites=FRESH).ok
    hook_layer(model, lambda output: output * 30 if output.dtype == torch.bfloat16 else output)
    assert broken(check(model, sites=FRESH)) == {"half precision against float32"}


def test_the_float32_spot_check_leaves_the_very_same_weights() -> None:
    module = tiny_model("llama").to(torch.bfloat16)
    before = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in module.state_dict().items()}

    def fail_inside() -> None:
        with in_float32(module):
            assert {p.dtype for p in module.parameters()} == {torch.float32}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in module.state_dict().items()} == before


def test_pairs_that_do_not_line_up_are_counted() -> None:
    def pair(i: int, other: str) -> PromptPair:
        return PromptPair(id=f"p{i}", base="w1 w2", counterfactual=other, answers=(" w3", " w4"))

    task = Task(name="uneven", pairs=(pair(0, "w1 w5"), pair(1, "w1 w5 w6")), metric="log_odds")
    report = check(fresh(), task, sites=FRESH)
    (share,) = report.failures
    assert share.error == 0.5
    assert "p1" in share.note


def test_ensure_checks_each_site_of_a_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def counted(model: LanguageModel, *, sites: list[Site], progress: bool) -> CheckReport:
        asked.append(sites)
        return check(model, sites=sites, progress=progress)

    monkeypatch.setattr("cotrace.selfcheck._run.check", counted)
    model = fresh()
    ensure(model, ["residual"])
    ensure(model, ["residual", "mlp_output"])
    ensure(model, ["mlp_output"])
    assert asked == [[Site.RESIDUAL], [Site.MLP_OUTPUT]]


@pytest.mark.parametrize(
    ("asked", "layers"),
    [
        ({"sites": ["L0.neuron3"]}, [0]),
        ({"sites": ["L1.*"]}, [1]),
        ({"sites": ["mlp_neuron@last"], "layers": "0"}, [0]),
        ({"sites": ct.Selection.parse(["L1.neuron0"])}, [1]),
        ({"sites": ["L*.neuron2"]}, [0, 1]),
    ],
)
def test_what_is_narrowed_is_checked_in_its_layers_only(asked: Any, layers: list[int]) -> None:
    """The second layer is broken: that is found where its layer is among those asked for, and nowhere else."""
    model = fresh()
    hook_layer(model, lambda output: output.detach())
    report = check(model, **asked)
    assert broken(report) == ({GRADIENT} if 1 in layers else set())
    assert all(own == layers for own in report.layers.values())
    assert bool(report.layers) == (layers != [0, 1])
    if layers == [1]:
        assert f"{report.sites[-1]} in L1" in str(report)


def test_what_narrows_to_nothing_is_refused() -> None:
    with pytest.raises(ct.errors.InputError, match=r"has no L7\.head2; it has .* in 2 layers"):
        check(fresh(), sites=["L7.head2"])
    with pytest.raises(ct.errors.InputError, match="layers go up to 9"):
        check(fresh(), layers="8..9")
    with pytest.raises(ct.errors.AlignmentError, match="has no role 'object'"):
        check(fresh(), tiny.task(), sites=["head_output@object"])


def test_unknown_and_absent_sites_say_what_there_is() -> None:
    with pytest.raises(ct.errors.UnsupportedSite, match="has no expert; it has attention_pattern, head_output"):
        check(fresh(), sites=["expert"])
    with pytest.raises(ct.errors.UnknownName, match="did you mean 'residual'"):
        check(fresh(), sites=["residuals"])
