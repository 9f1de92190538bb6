"""How ``saelens.safetensors`` was made: `python tests/dictionaries/saelens_recipe.py`, with sae-lens 6.54.12 installed.

SAELens itself makes a small dictionary of each architecture, with each norm, of random weights, encodes random values
and decodes them. It is no dependency of the tests: only what it gave is.
"""

import json
from pathlib import Path

import torch
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import save_file

D_IN, D_SAE, D_OUT, TOKENS = 12, 20, 10, 7
HOOKS = {"z": "blocks.1.attn.hook_z", "out": "blocks.1.hook_mlp_out", "in": "blocks.1.mlp.hook_in"}
CASES = {
    "standard": {"architecture": "standard"},
    "standard_plain_input": {"architecture": "standard", "apply_b_dec_to_input": False},
    "standard_constant_norm": {"architecture": "standard", "normalize_activations": "constant_norm_rescale"},
    "standard_layer_norm": {"architecture": "standard", "normalize_activations": "layer_norm"},
    "standard_expected": {"architecture": "standard", "normalize_activations": "expected_average_only_in"},
    "gated": {"architecture": "gated"},
    "gated_layer_norm": {"architecture": "gated", "normalize_activations": "layer_norm"},
    "topk": {"architecture": "topk", "k": 4},
    "topk_by_decoder_norm": {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True},
    "topk_constant_norm": {"architecture": "topk", "k": 3, "normalize_activations": "constant_norm_rescale"},
    "jumprelu": {"architecture": "jumprelu"},
    "jumprelu_layer_norm": {"architecture": "jumprelu", "normalize_activations": "layer_norm"},
    "transcoder": {"architecture": "transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False},
    "skip_transcoder": {"architecture": "skip_transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False},
    "jumprelu_transcoder": {"architecture": "jumprelu_transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False},
    "jumprelu_skip_transcoder": {
        "architecture": "jumprelu_skip_transcoder",
        "d_out": D_OUT,
        "apply_b_dec_to_input": False,
    },
}


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    tensors, settings = {}, {}
    for name, case in CASES.items():
        both = {"hook_name": HOOKS["in"], "hook_name_out": HOOKS["out"]}
        metadata = {"model_name": "tiny-llama", "sae_lens_version": "6.54.12"}
        metadata |= both if "transcoder" in name else {"hook_name": HOOKS["out"]}
        sae = SAE.from_dict({"d_in": D_IN, "d_sae": D_SAE, **case, "metadata": SAEMetadata(**metadata).to_dict()})
        for key, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.data = (noise.abs() if key == "threshold" else noise) * 0.4
        values = torch.randn(TOKENS, D_IN, generator=draw) * torch.linspace(0.5, 2, TOKENS)[:, None]
        with torch.no_grad():
            activations = sae.encode(values)
            reconstruction = sae(values)
        state = sae.state_dict()
        sae.process_state_dict_for_saving(state)
        tensors |= {f"{name}.weights.{key}": value.clone() for key, value in state.items()}
        tensors |= {f"{name}.values": values, f"{name}.activations": activations.to_dense().clone()}
        tensors |= {f"{name}.reconstruction": reconstruction.clone()}
        settings[name] = sae.cfg.to_dict()
    save_file(tensors, Path(__file__).with_name("saelens.safetensors"), {"settings": json.dumps(settings)})


if __name__ == "__main__":
    main()
