"""Families whose attention does not go through transformers' AttentionInterface, in one table.

Their heads are read where they enter the output projection: heads side by side, in order. They have no
``attention_pattern``: their softmax weights never leave the attention module.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

OUTPUT_PROJECTIONS: Mapping[str, str] = {
    "big_bird.BigBirdAttention": "output.dense",
    "bloom.BloomAttention": "dense",
    "codegen.CodeGenAttention": "out_proj",
    "falcon.FalconAttention": "dense",
    "git.GitAttention": "output.dense",
    "gpt_neo.GPTNeoSelfAttention": "out_proj",
    "gpt_neox_japanese.GPTNeoXJapaneseAttention": "dense",
    "gptj.GPTJAttention": "out_proj",
    "megatron_bert.MegatronBertAttention": "output.dense",
    "mpt.MptAttention": "out_proj",
    "mvp.MvpAttention": "out_proj",
    "openai.Attention": "c_proj",
    "rembert.RemBertAttention": "output.dense",
    "roformer.RoFormerAttention": "output.dense",
    "trocr.TrOCRAttention": "out_proj",
    "xglm.XGLMAttention": "out_proj",
    "xlm.MultiHeadAttention": "out_lin",
}
"""``family.Class`` of the attention module -> the part of it that all heads enter side by side."""
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def output_projection(module: nn.Module) -> nn.Module | None:
    """The projection that the module's heads enter; None where the table does not list the module."""
    family = type(module).__module__.split(".")[-2:][0]
    path = OUTPUT_PROJECTIONS.get(f"{family}.{type(module).__name__}")
    return None if path is None else module.get_submodule(path)


def head_count(module: nn.Module) -> int:
    """Number of query heads that the attention module, or a part of it, says it has; 0 where none does."""
    told = (getattr(part, name) for part in module.modules() for name in HEAD_COUNTS if hasattr(part, name))
    return next((count for count in told if isinstance(count, int)), 0)
