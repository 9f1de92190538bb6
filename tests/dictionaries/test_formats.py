"""Dictionaries as SAELens reads them: the same activations, the same reconstructions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cotrace.dictionaries import dictionary_loading, load_dictionaries, save_dictionary
from cotrace.errors import InputError, NonFiniteError

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


def test_descriptions_before_version_six_are_read_by_their_old_names(tmp_path: Path) -> None:
    old: dict[str, object] = {
        "hook_point": "blocks.1.hook_mlp_out",
        "d_in": 12,
        "d_sae": 20,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 4},
        "model_name": "gpt2-small",
    }
    now, then = (load_dictionaries(write(tmp_path / str(i), "topk", cfg))[0] for i, cfg in enumerate([None, old]))
    values = TENSORS["topk.values"]
    assert then.model_name == "gpt2-small"
    torch.testing.assert_close(then.reconstruct(values), now.reconstruct(values))


def test_scales_of_finetuned_dictionaries_are_in_their_decoder(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", "standard")
    weights = load_file(folder / "sae_weights.safetensors")
    scale = torch.linspace(0.5, 2, 20)
    save_file(weights | {"scaling_factor": scale}, folder / "sae_weights.safetensors")
    found = load_dictionaries(folder)[0]
    torch.testing.assert_close(found.decoder, weights["W_dec"] * scale[:, None])


def gemma(folder: Path, name: str = "jumprelu") -> Path:
    start = f"{name}.weights."
    folder.mkdir(parents=True)
    arrays = {k.removeprefix(start): v.numpy() for k, v in TENSORS.items() if k.startswith(start)}
    np.savez(folder / "params.npz", **arrays)
    return folder


def test_gemma_scope_is_read_from_its_npz_and_its_folders_names(tmp_path: Path) -> None:
    hooks = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
    for kind, end in hooks.items():
        folder = gemma(tmp_path / f"gemma-scope-2b-pt-{kind}" / "layer_20" / "width_16k" / "average_l0_71")
        one = load_dictionaries(folder)[0]
        assert (one.hook, one.model_name) == (f"blocks.20.{end}", "gemma-2-2b")
        values = TENSORS["jumprelu_transcoder.values"]
        raw = values @ TENSORS["jumprelu.weights.W_enc"] + TENSORS["jumprelu.weights.b_enc"]
        expected = raw.relu() * (raw > TENSORS["jumprelu.weights.threshold"])  # nothing is taken from the input
        torch.testing.assert_close(one.activations(values), expected)
    folder = gemma(tmp_path / "gemma-scope-9b-it-transcoders" / "layer_3" / "width_16k", "jumprelu_transcoder")
    one = load_dictionaries(folder)[0]
    assert (one.hook, one.hook_out, one.model_name) == (
        "blocks.3.ln2.hook_normalized",
        "blocks.3.hook_mlp_out",
        "gemma-2-9b-it",
    )
    torch.testing.assert_close(
        one.activations(TENSORS["jumprelu_transcoder.values"]), TENSORS["jumprelu_transcoder.activations"]
    )


def test_what_is_saved_is_read_as_it_was(tmp_path: Path) -> None:
    for name in ("standard", "standard_layer_norm", "topk_by_decoder_norm", "gated", "jumprelu_skip_transcoder"):
        one = load_dictionaries(write(tmp_path / "one", name))[0]
        again = load_dictionaries(save_dictionary(one, tmp_path / name))[0]
        values = TENSORS[f"{name}.values"]
        torch.testing.assert_close(again.reconstruct(values), one.reconstruct(values))
        assert (again.hook, again.hook_out, again.model_name) == (one.hook, one.hook_out, one.model_name)


def test_layers_and_hooks_choose_among_several(tmp_path: Path) -> None:
    for layer, end in ((0, "hook_mlp_out"), (3, "hook_mlp_out"), (3, "hook_resid_post")):
        cfg = json.loads(json.dumps(SETTINGS["standard"]))
        cfg["metadata"]["hook_name"] = f"blocks.{layer}.{end}"
        write(tmp_path / f"{layer}{end}", "standard", cfg)
    assert len(load_dictionaries(tmp_path)) == 3
    assert [one.hook for one in load_dictionaries(tmp_path, layers=0)] == ["blocks.0.hook_mlp_out"]
    assert len(load_dictionaries(tmp_path, hook="hook_mlp_out")) == 2
    assert len(load_dictionaries(tmp_path, hook="blocks.3.hook_resid_post")) == 1
    with pytest.raises(InputError, match=r"none is at layer 7 and hook_z; it has blocks.0.hook_mlp_out"):
        load_dictionaries(tmp_path, layers=[7], hook="hook_z")


def test_the_hub_gives_descriptions_first_and_weights_of_those_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "snapshots" / "abc"
    for layer in (4, 5):
        cfg = json.loads(json.dumps(SETTINGS["standard"]))
        cfg["metadata"]["hook_name"] = f"blocks.{layer}.hook_mlp_out"
        (root / f"layer_{layer}").parent.mkdir(parents=True, exist_ok=True)
        write(root / f"layer_{layer}", "standard", cfg)
    asked: list[str] = []

    def download(_: str, file: str, *, revision: str | None) -> str:
        asked.append(file)
        return str(root / file)

    files = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    monkeypatch.setattr(dictionary_loading.HfApi, "list_repo_files", lambda *_, **__: files)
    monkeypatch.setattr(dictionary_loading, "hf_hub_download", download)
    assert [one.hook for one in load_dictionaries("owner/name", layers=5)] == ["blocks.5.hook_mlp_out"]
    assert "layer_4/sae_weights.safetensors" not in asked
    assert [one.hook for one in load_dictionaries("owner/name/layer_4")] == ["blocks.4.hook_mlp_out"]


# ---- bad input


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path: Path) -> None:
    weights = {"W_enc": torch.zeros(3, 4)}
    torch.save(weights, tmp_path / "ae.pt")  # noqa: TID251  # what must not be read
    for given in (tmp_path, tmp_path / "ae.pt"):
        with pytest.raises(InputError, match="may be a pickle, which can run code") as caught:
            load_dictionaries(given)
    code = str(caught.value).split('python -c "')[1].split('" and')[0]
    exec(code, {})
    torch.testing.assert_close(load_file(tmp_path / "sae_weights.safetensors"), weights)


def test_an_npz_that_holds_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot read it without pickle"):
        load_dictionaries(tmp_path, hook="blocks.1.hook_mlp_out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "temporal"}, "unknown architecture of dictionary .* 'temporal': "),
        ({"architecture": "jumprelu"}, "its weights have no threshold"),
        ({"architecture": "topk"}, "does not say k"),
        ({"d_in": 13}, "d_in is 13 in its cfg.json, and 12 in its weights"),
        ({"normalize_activations": "covariance_whitening"}, "is normed by 'covariance_whitening'"),
        ({"activation_fn": "tanh-relu"}, "its activation is tanh-relu"),
        ({"hook_head_index": "3"}, "hook_head_index is '3' in its cfg.json; give a head's number from 0"),
        ({"hook_head_index": -1}, "give a head's number from 0"),
        ({"metadata": {}}, "its files do not say where it belongs; give hook"),
        ({"architecture": "transcoder"}, "must name hook_name_out"),
    ],
)
def test_a_description_that_cannot_be_is_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_dictionaries(write(tmp_path / "one", "standard", SETTINGS["standard"] | change))


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither cfg.json nor params.npz is in it"):
        load_dictionaries(tmp_path)
    with pytest.raises(InputError, match="there is no such folder, and an id of the hub is owner/name"):
        load_dictionaries("nowhere")
    folder = write(tmp_path / "one", "standard")
    (folder / "sae_weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot read it"):
        load_dictionaries(folder)
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no sae_weights.safetensors beside its cfg.json"):
        load_dictionaries(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(InputError, match="cannot read it"):
        load_dictionaries(folder)
    write(folder, "standard")
    weights = load_file(folder / "sae_weights.safetensors")
    save_file(weights | {"b_enc": torch.full((20,), torch.inf)}, folder / "sae_weights.safetensors")
    with pytest.raises(NonFiniteError, match="bias holds values that are not finite"):
        load_dictionaries(folder)
