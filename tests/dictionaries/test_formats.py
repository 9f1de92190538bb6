"""Dictionaries as SAELens reads them: the same activations, the same reconstructions."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cotrace.dictionaries import Dictionary, load_dictionaries

RECORDED = Path(__file__).with_name("saelens.safetensors")
"""What SAELens gave: see ``saelens_recipe.py``."""


def recorded() -> tuple[dict[str, Tensor], dict[str, dict[str, object]]]:
    with safe_open(RECORDED, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["settings"])  # noqa: SIM118


TENSORS, SETTINGS = recorded()


def write(folder: Path, name: str, settings: dict[str, object] | None = None) -> Path:
    start = f"{name}.weights."
    weights = {key.removeprefix(start): value for key, value in TENSORS.items() if key.startswith(start)}
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(SETTINGS[name] if settings is None else settings))
    return folder


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_encoding_and_decoding_are_those_of_saelens(name: str, tmp_path: Path) -> None:
    dictionary = load_dictionaries(write(tmp_path / "one", name))[0]
    values = TENSORS[f"{name}.values"]
    activations = dictionary.activations(values)
    torch.testing.assert_close(activations, TENSORS[f"{name}.activations"], rtol=0, atol=1e-5)
    found = dictionary.decode(activations, values)
    torch.testing.assert_close(found, TENSORS[f"{name}.reconstruction"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_gradient_of_the_activations_is_that_of_finite_differences(name: str, tmp_path: Path) -> None:
    dictionary = load_dictionaries(write(tmp_path / "one", name))[0].to("cpu", torch.float64)
    values = TENSORS[f"{name}.values"].double()

    def total(at: Tensor) -> Tensor:
        return dictionary.encode(at).decoded(dictionary.decoder).square().sum()

    variable = values.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(variable), variable)
    along = torch.randn(values.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-6
    expected = (total(values + step * along) - total(values - step * along)) / (2 * step)
    assert float((slope * along).sum()) == pytest.approx(float(expected), rel=1e-5)
