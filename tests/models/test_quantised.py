"""Weights in 8 and 4 bits, against the same model with the weights taken back to floating point."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cotrace.cli.console import quiet_libraries
from cotrace.editing.fold import folded
from cotrace.errors import InputError, UnsupportedSite
from cotrace.models import load_model, wrap
from cotrace.problem import LanguageProblem
from cotrace.results import Selection
from cotrace.selfcheck import check
from tests import tiny

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore")
SITES = ["head_output", "mlp_neuron", "residual"]
WIDE = {**tiny.LLAMA, "hidden_size": 128, "intermediate_size": 128}
"""4-bit blocks have 64 numbers: narrower matrices cannot be kept so."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    quiet_libraries()
    path = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**WIDE)).save_pretrained(path)
    tiny.model("llama", torch.float32).require_tokenizer().save_pretrained(path)
    return path


def floating(folder: Path, quantise: str) -> LlamaForCausalLM:
    """The plain model with each weight replaced by what the quantised one holds of it."""
    import bitsandbytes as bnb

    plain, small = load_model(folder), load_model(folder, quantise=quantise)
    parts = dict(small.module.named_modules())
    with torch.no_grad():
        for name, part in plain.module.named_modules():
            own = parts[name]
            if isinstance(own, bnb.nn.Linear4bit):
                part.weight.copy_(bnb.functional.dequantize_4bit(own.weight.data, own.weight.quant_state))
            elif isinstance(own, bnb.nn.Linear8bitLt):
                part.weight.copy_(own.weight.data.float() * own.weight.SCB[:, None] / 127)
    return plain.module


@pytest.mark.parametrize(("quantise", "tolerance"), [("4bit", 1e-4), ("8bit", 2e-2)])
def test_effects_are_those_of_the_weights_that_are_kept(folder: Path, quantise: str, tolerance: float) -> None:
    """8-bit weights round the activations as well, so they agree less closely."""
    small = load_model(folder, quantise=quantise)
    same = wrap(floating(folder, quantise), small.tokenizer)
    problems = [LanguageProblem(model, tiny.task(4), sites=SITES, holdout=0) for model in (small, same)]
    z = torch.rand(len(problems[0].space), generator=torch.Generator().manual_seed(0))
    effects, expected = (problem.effects(z) for problem in problems)
    assert expected.abs().max() > 5e-2
    assert torch.allclose(effects, expected, atol=tolerance)
    slopes = [problem.gradient(z) for problem in problems]
    assert torch.allclose(*slopes, atol=tolerance)


@pytest.mark.parametrize("quantise", ["4bit", "8bit"])
def test_the_self_check_holds_and_weights_stay(folder: Path, quantise: str) -> None:
    small = load_model(folder, quantise=quantise)
    before = {name: weight.clone() for name, weight in small.module.state_dict().items() if hasattr(weight, "clone")}
    assert check(small).ok
    after = small.module.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_a_gradient_that_the_kernel_cuts_off_is_found_by_the_check(folder: Path) -> None:
    """On processors with bfloat16 instructions bitsandbytes packs weights so that no gradient passes them."""
    small = load_model(folder, quantise="4bit")
    parts = [part for part in small.module.modules() if hasattr(part, "support_avx512bf16_for_cpu")]
    assert parts
    for part in parts:
        part.register_forward_hook(lambda module, given, output: output.detach())
    report = check(small, sites=["mlp_neuron"])
    assert not report.ok
    assert any("gradient" in finding.name and not finding.ok for finding in report.findings)


def test_an_edit_of_quantised_weights_is_refused(folder: Path) -> None:
    small = load_model(folder, quantise="4bit")
    with pytest.raises(UnsupportedSite, match="quantised"):
        folded(small, Selection.parse(["0.1"]), "zero")


def test_an_unknown_number_of_bits(folder: Path) -> None:
    with pytest.raises(InputError, match="choose 8bit or 4bit"):
        load_model(folder, quantise="2bit")
