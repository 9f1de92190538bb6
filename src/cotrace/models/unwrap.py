"""Models of other libraries: taken out of their wrapper where that is exact, else refused with the line that helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from cotrace.errors import ModelError

INSIDE: Mapping[str, str] = {
    "nnsight": "_model",
    "torch._dynamo": "_orig_mod",
    "torch.nn.parallel": "module",
    "peft": "base_model.model",
}
"""Library of the wrapper -> where it keeps the very model that runs. Of peft only adapters inside the layers (LoRA and
its kin) are part of that model."""
PROMPT_LEARNING = "is_prompt_learning"
REBUILT = ("transformer_lens",)
"""Libraries that replace a model's modules or rewrite its weights: what is inside is not the plain model any more."""
PLAIN = "AutoModelForCausalLM.from_pretrained({name!r})"


def unwrapped(model: Any) -> PreTrainedModel:
    """The Hugging Face model itself. Raises ModelError where there is none, or it is not what the wrapper runs."""
    if isinstance(model, PreTrainedModel):
        return model
    library = type(model).__module__
    if library.split(".")[0] in REBUILT:
        raise ModelError(
            f"{type(model).__name__} of {library.split('.')[0]} rebuilds the model it wraps; pass the plain one: "
            f"cotrace.wrap({PLAIN.format(name=_name(model))}, tokenizer)"
        )
    path = next((path for start, path in INSIDE.items() if library.startswith(start)), None)
    inner = None if path is None or _changes_prompts(model) else _walk(model, path)
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(f"{type(model).__name__} is not a Hugging Face model: pass a PreTrainedModel decoder")
    return inner


def _walk(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name, None)
    return model


def _changes_prompts(model: Any) -> bool:
    """Whether a peft model adds tokens of its own, which the model inside knows nothing of."""
    return bool(getattr(getattr(model, "active_peft_config", None), PROMPT_LEARNING, False))


def _name(model: Any) -> str:
    config = getattr(model, "cfg", None)
    return str(getattr(config, "model_name", None) or "MODEL")
