"""Models whose weights lie elsewhere than they compute, through accelerate, against the same model in plain memory."""

from pathlib import Path

import pytest
import torch

from cotrace.errors import InputError, ModelError
from cotrace.models import LanguageModel, load_model, wrap
from cotrace.problem import LanguageProblem
from cotrace.selfcheck import check
from tests import tiny

accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")
SITES = ["head_output", "mlp_neuron", "residual", "attention_pattern"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    model = tiny.model("llama", torch.float32)
    model.module.save_pretrained(path)
    model.require_tokenizer().save_pretrained(path)
    return path


def agrees(placed: LanguageModel, plain: LanguageModel) -> None:
    problems = [LanguageProblem(model, tiny.task(4), sites=SITES, holdout=0) for model in (placed, plain)]
    z = torch.rand(len(problems[0].space), generator=torch.Generator().manual_seed(0))
    one, other = (problem.effects(z) for problem in problems)
    assert other.abs().max() > 1e-3
    assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(*(problem.gradient(z) for problem in problems), atol=1e-5)
    assert check(placed).ok
    assert set(placed.sites) == set(plain.sites)


@pytest.mark.parametrize("own", [True, False])
def test_half_of_the_model_on_disk(folder: Path, tmp_path: Path, own: bool) -> None:
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
    places |= {"model.layers.1": "disk", "model.layers.2": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    placed = load_model(folder, device_map=places, offload_folder=tmp_path if own else None)
    assert any(parameter.is_meta for parameter in placed.module.parameters())
    agrees(placed, load_model(folder))


def test_weights_kept_beside_and_brought_in_layer_by_layer(folder: Path) -> None:
    loaded = load_model(folder)
    accelerate.cpu_offload(loaded.module, execution_device="cpu")
    assert all(parameter.is_meta for parameter in loaded.module.parameters())
    agrees(wrap(loaded.module, loaded.tokenizer), load_model(folder))


def test_unknown_device_and_missing_folder_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        load_model(folder, device="cuda:99")
    with pytest.raises(ModelError, match="no folder"):
        load_model(tmp_path / "none")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_blends_and_scores_in_float32(folder: Path, dtype: str) -> None:
    half, plain = load_model(folder, dtype=dtype), load_model(folder)
    problems = [LanguageProblem(model, tiny.task(4), sites=SITES, holdout=0) for model in (half, plain)]
    z = torch.rand(len(problems[0].space), generator=torch.Generator().manual_seed(0))
    assert problems[0].effects(z).dtype == torch.float32
    assert (problems[0].effects(z) - problems[1].effects(z)).abs().max() < (0.1 if dtype == "bfloat16" else 0.02)
    report = check(half)
    spot = next(f for f in report.findings if f.name.startswith("half precision"))
    assert report.ok
    assert spot.error is not None
    assert 1e-5 < spot.error < 0.05
    before = {name: parameter.dtype for name, parameter in half.module.named_parameters()}
    assert set(before.values()) == {half.dtype}
