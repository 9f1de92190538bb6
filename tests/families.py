"""A tiny random decoder of every causal-LM family of the installed transformers, from one table of small sizes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TABLE_VERSION = "5.23.0"
"""The transformers that the names below are of."""
HEADS, KV_HEADS, D_HEAD = 4, 2, 8
SIZES = """
96: vocab_size vocab_size_per_layer_input unpadded_vocab_size
64: max_position_embeddings n_positions n_ctx max_seq_len max_target_positions model_max_length context_length
    original_max_position_embeddings sliding_window sliding_window_size attention_window_size
32: hidden_size n_embd d_model embedding_size word_embed_proj_dim input_embedding_size output_embedding_size
    emb_dim embedding_dim lru_width attention_hidden_size mamba_d_ssm dim_model_base query_pre_attn_scalar
    pronunciation_embed_dim shape_embed_dim ple_embed_dim
4: num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads
    encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads
    linear_num_value_heads linear_num_heads n_mamba_heads
2: num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads index_n_heads
8: head_dim dim_head d_head swa_head_dim kv_channels v_head_dim qk_nope_head_dim linear_head_dim
    linear_key_head_dim linear_value_head_dim attention_head_size attention_head_dim q_lora_rank kv_lora_rank
    global_head_dim d_rel rel_extent mamba_d_state state_size ssm_state_size hidden_size_per_layer_input
    laurel_rank adapter_rank
4: qk_rope_head_dim time_step_rank mamba_dt_rank gated_norm_rank rotary_dim
48: intermediate_size ffn_dim dim_ff dff d_inner n_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size
    intermediate_size_mlp dense_intermediate_size feed_forward_size
24: moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size
    shared_experts_intermediate_size moe_shared_expert_intermediate_size
2: num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers
    num_encoder_layers num_blocks num_layers_per_stack
4: num_experts n_routed_experts num_local_experts moe_num_experts
2: num_experts_per_tok num_experts_per_token moe_topk moe_k hc_mult hc_count
1: n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group num_expert_group
    first_k_dense_replace num_dense_layers
0: num_nextn_predict_layers
"""
"""Size: what a family's configuration may call it."""
SMALL: Mapping[str, int] = {
    name: int(size)
    for size, names in re.findall(r"^(\d+):((?:\n?[ ][\w ]+)+)", SIZES, re.MULTILINE)
    for name in names.split()
}


_LATENT = {"qk_rope_head_dim": D_HEAD, "num_key_value_heads": HEADS}
_LATENT_INDEXED = _LATENT | {"index_head_dim": 16}
_STATE_SPACE = {"mamba_n_heads": 8, "mamba_d_head": D_HEAD}
_LINEAR_THEN_FULL = {"layer_types": ["linear_attention", "full_attention"]}
_SHARED = {"attention_head_dim": 16, "attention_hidden_size": 64}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_AS_DECODER = {"is_decoder": True}
SPECIAL: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("axk1", "deepseek_v3", "longcat_flash", "youtu", "glm4_moe_lite", "minicpm3"), _LATENT),
    **dict.fromkeys(("axk2", "deepseek_v2", "deepseek_v32", "glm_moe_dsa"), _LATENT_INDEXED),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), _LINEAR_THEN_FULL),
    **{family: {"text_config": _LINEAR_THEN_FULL} for family in ("qwen3_5", "qwen3_5_moe")},
    **dict.fromkeys(
        (
            *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
            *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl"),
        ),
        _AS_DECODER,
    ),
    "bailing_hybrid": _LATENT | {"layer_group_size": 2},
    "bamba": _STATE_SPACE | {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": KV_HEADS, "clip_qkv": 8.0}},
    "dots3_note": {"text_config": _LATENT | {"per_layer_config": None}},
    "dots3_note_text": _LATENT,
    "falcon_h1": _STATE_SPACE | {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": _STATE_SPACE | {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 8)},
    "xlm": {"causal": True},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "zamba": _SHARED | {"num_hidden_layers": 4, "layer_types": ["linear_attention", "hybrid"] * 2},
    "zamba2": _SHARED | {"layers_block_type": ["mamba", "hybrid"], "mamba_headdim": D_HEAD, "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single families need beside."""


def families() -> list[str]:
    """Every family of the installed transformers that AutoModelForCausalLM knows."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(family: str) -> PreTrainedConfig:
    """The family's default configuration, made small."""
    kind = CONFIG_MAPPING[family]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(**_shrunk(kind(), SPECIAL.get(family, {})))


def tried(family: str) -> PreTrainedModel:
    """The family's tiny model; the test is skipped where an older transformers has no such family, or another form."""
    try:
        return tiny_model(family)
    except Exception as error:
        if transformers.__version__ == TABLE_VERSION:
            raise
        pytest.skip(f"transformers {transformers.__version__} cannot build {family} from this table: {error}")


def _shrunk(config: PreTrainedConfig, special: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a small configuration of the same kind, parts such as ``text_config`` included."""
    sizes: dict[str, Any] = {name: SMALL[name] for name, value in config.to_dict().items() if _is_size(name, value)}
    for name in config.sub_configs:
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            sizes[name] = _shrunk(part, special.get(name, {}))
    tokens = {name: 1 for name in ("bos_token_id", "eos_token_id", "pad_token_id") if hasattr(config, name)}
    return sizes | tokens | {name: value for name, value in special.items() if name not in config.sub_configs}


def _is_size(name: str, value: Any) -> bool:
    return name in SMALL and (value != 0 or name == "num_key_value_heads")


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A float32 model with random weights, large enough that every part matters."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model.eval()
