"""GGUF files: the weights that they keep, as floats, are the model that runs; what cannot be read is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from cotrace.errors import InputError, ModelError
from cotrace.models import load_model, loading, model_config
from tests.tiny import LLAMA

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""What a part of a layer is called in Hugging Face's Qwen3 -> in GGUF."""


def name_of(ours: str) -> str:
    for theirs, whole in (("token_embd", "embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")):
        if whole in ours:
            return f"{theirs}.weight"
    layer, part = ours.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"


def write(path: Path, net: Qwen3ForCausalLM, architecture: str = "qwen3", bits: bool = False) -> Path:
    """The model as a GGUF file; ``bits``: matrices in Q8_0, in blocks of 32 numbers."""
    config, file = net.config, gguf.GGUFWriter(path, architecture)
    file.add_block_count(config.num_hidden_layers)
    file.add_context_length(64)
    file.add_embedding_length(config.hidden_size)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_key_length(config.head_dim)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_freq_base(config.rope_parameters["rope_theta"])
    file.add_vocab_size(config.vocab_size)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, weight in net.state_dict().items():
        values = weight.numpy()
        if bits and blocked(values):
            file.add_tensor(name_of(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            file.add_tensor(name_of(name), values)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def blocked(values: np.ndarray) -> bool:
    return values.ndim == 2 and values.shape[1] % 32 == 0


def rounded(values: np.ndarray) -> np.ndarray:
    """What Q8_0 keeps: in each block of 32 whole multiples of (largest size / 127), that step in half precision."""
    blocks = values.reshape(-1, 32)
    step = np.abs(blocks).max(1, keepdims=True) / 127
    return (np.round(blocks / step) * step.astype(np.float16).astype(np.float32)).reshape(values.shape)


@pytest.fixture(scope="module")
def net() -> Qwen3ForCausalLM:
    """Heads of 128 numbers, which is what transformers takes Qwen3's in a GGUF file to have."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(Qwen3Config(**{**LLAMA, **heads}, initializer_range=0.3)).eval()


@pytest.mark.parametrize("bits", [False, True])
def test_the_weights_are_those_of_the_file_in_floating_point(
    tmp_path: Path, net: Qwen3ForCausalLM, bits: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "small.gguf", net, bits=bits)
    capfd.readouterr()
    loaded = load_model(tmp_path, gguf_file="small.gguf", dtype="float64")
    assert capfd.readouterr().err == "", "no bar of the loader's"
    assert (loaded.name, loaded.dtype) == ("small.gguf", torch.float64)
    own = loaded.module.state_dict()
    for name, weight in net.state_dict().items():
        kept = rounded(weight.numpy()) if bits and blocked(weight.numpy()) else weight.numpy()
        assert own[name].numpy() == pytest.approx(kept, abs=1e-6), name
    assert ("Q8_0" in loading.stored_types(path)) == bits
    assert model_config(tmp_path, gguf_file="small.gguf").num_hidden_layers == 3
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    if not bits:
        with torch.no_grad():
            assert torch.allclose(loaded.module(ids).logits.float(), net(ids).logits, atol=1e-4)


def test_what_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, net: Qwen3ForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "small.gguf", net)
    write(tmp_path / "strange.gguf", net, architecture="wavenet")
    (tmp_path / "short.gguf").write_bytes(path.read_bytes()[:200])
    (tmp_path / "text.gguf").write_text("no weights")
    refusals: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ModelError, "no GGUF file small.ggu in the folder .*: it holds .*small.gguf", {"gguf_file": "small.ggu"}),
        (ModelError, "cannot read strange.gguf: .*architecture wavenet.*safetensors", {"gguf_file": "strange.gguf"}),
        (ModelError, "cannot read short.gguf: it is damaged, cut short", {"gguf_file": "short.gguf"}),
        (ModelError, "is no GGUF file, which begins with the letters GGUF", {"gguf_file": "text.gguf"}),
        (InputError, "give one of the two", {"gguf_file": "small.gguf", "quantise": "8bit"}),
        (ModelError, "holds no config.json", {}),
    ]
    for kind, words, options in refusals:
        with pytest.raises(kind, match=words) as refused:
            load_model(tmp_path, **options)
        assert "\n" not in str(refused.value)
    with pytest.raises(ModelError, match=r"is a GGUF file: give the folder .*, and gguf_file='small.gguf'"):
        load_model(path)
    with pytest.raises(ModelError, match="it holds none; give model the folder that the file is in"):
        load_model("some/model", gguf_file="small.gguf")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs gguf and accelerate: pip install 'cotrace\[gguf\]'"):
        load_model(tmp_path, gguf_file="small.gguf")
