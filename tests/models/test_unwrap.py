"""Models that are no decoder, or come inside another library's wrapper."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from cotrace.errors import InputError, ModelError
from cotrace.models import load_model, wrap
from tests.families import tiny_model


def wrapper(module: str, name: str, **attributes: Any) -> Any:
    """An object of a class that says it comes from that library."""
    return type(name, (), {"__module__": module, **attributes})()


def test_wrappers_that_run_the_very_model_are_opened() -> None:
    plain = tiny_model("gpt2")
    assert wrap(wrapper("nnsight.modeling.language", "LanguageModel", _model=plain)).module is plain
    assert wrap(torch.nn.parallel.DataParallel(plain)).module is plain
    adapters = wrapper("peft.tuners.lora", "LoraModel", model=plain)
    assert wrap(wrapper("peft.peft_model", "PeftModelForCausalLM", base_model=adapters)).module is plain


def test_torch_compile_is_opened() -> None:
    plain = tiny_model("gpt2")
    assert wrap(torch.compile(plain, backend="eager")).module is plain


def test_wrappers_that_run_another_model_are_refused_with_the_line_that_helps() -> None:
    bridge = wrapper(
        "transformer_lens.model_bridge", "TransformerBridge", cfg=wrapper("x", "Config", model_name="gpt2-medium")
    )
    with pytest.raises(ModelError, match=r"cotrace\.wrap\(AutoModelForCausalLM\.from_pretrained\('gpt2-medium'\)"):
        wrap(bridge)
    prompts = wrapper("x", "PromptConfig", is_prompt_learning=True)
    with pytest.raises(ModelError, match="not a Hugging Face model"):
        wrap(wrapper("peft.peft_model", "PeftModel", active_peft_config=prompts, base_model=tiny_model("gpt2")))
    with pytest.raises(ModelError, match="Linear is not a Hugging Face model"):
        wrap(torch.nn.Linear(2, 2))


def test_models_that_are_no_decoder_are_refused() -> None:
    sizes = {"vocab_size": 20, "num_layers": 1, "d_model": 8, "d_ff": 8, "num_heads": 2, "d_kv": 4}
    with pytest.raises(ModelError, match="not a causal decoder"):
        wrap(T5ForConditionalGeneration(T5Config(**sizes)))
    small = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ModelError, match="not a causal decoder"):
        wrap(BertModel(small))


def test_device_map_without_accelerate_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotrace.models.loading.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'cotrace\[placement\]'"):
        load_model("gpt2", device_map="auto")
