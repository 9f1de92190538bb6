"""Weights in 8 and 4 bits, against the same model with the weights taken back to floating point."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from cotrace.cli.console import quiet_libraries
from cotrace.editing.fold import folded
from cotrace.errors import InputError, UnsupportedSite
from cotrace.models import load_model, wrap
from cotrace.problem import LanguageProblem
from cotrace.readout.logit_parts import Writer, writer_of
from cotrace.readout.writes import Writes
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


@pytest.mark.parametrize(("quantise", "tolerance"), [("4bit", 1e-6), ("8bit", 6e-3)])
def test_what_members_write_is_that_of_the_weights_that_are_kept(folder: Path, quantise: str, tolerance: float) -> None:
    """Contributions add up to the logit difference. 8-bit projections round what heads give, all heads together, so
    that only their whole is in the sum; each by itself is as in floating point."""
    small = load_model(folder, quantise=quantise)
    same = wrap(floating(folder, quantise), small.tokenizer)
    task = tiny.task(answer_tokens=(1, 1))
    told = []
    for model in (small, same):
        problem = LanguageProblem(model, task, sites=["head_output", "mlp_neuron"], holdout=0)
        members = [problem.space[1], problem.space[20]]
        told.append(Writes(problem.training.scorer, members, Writer(model)).run())
    tables = [found.contributions for found in told]
    sums = []
    for table in tables:
        assert table is not None
        assert table.table.sum(0) == pytest.approx(table.logit_difference, abs=1e-5)
        rows = dict(zip(table.names, table.table, strict=True))
        sums.append(
            [sum(row for name, row in rows.items() if name.startswith((f"L{i}.head", f"L{i}.attn"))) for i in (0, 1)]
        )
        assert ("L0.head0" in rows) == (table is not tables[0] or quantise == "4bit")
    for own, expected in zip(*sums, strict=True):
        assert abs(expected).max() > 5 * tolerance
        assert own == pytest.approx(expected, abs=tolerance)
    for i in range(2):
        own, other = (found.member(i, torch.ones(len(task.pairs))) for found in told)
        assert (own.base, own.donor) == pytest.approx((other.base, other.donor), abs=tolerance)
        assert own.promoted[0][0] == other.promoted[0][0]


def test_an_output_head_in_8_bits_is_said_to_round(folder: Path) -> None:
    """It is left in floating point unless one asks otherwise; what members write is then left out, with the reason."""
    kept = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["none"])
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=kept)
    assert type(model.lm_head).__name__ == "Linear8bitLt"
    assert "(Linear8bitLt) is stored in fewer bits and rounds what it reads" in str(writer_of(wrap(model)))


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
