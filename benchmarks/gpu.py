"""The step table on an accelerator: ``python -m benchmarks.gpu [--json PATH]``.

Search step, evaluation and memory over the floor's, as in ``benchmarks.step``, in float32 and bfloat16, up to models of
8 and 32 thousand million parameters where they fit. Where there is no CUDA device it says so in one line and stops;
``--device cpu --shapes tiny`` runs the same path anywhere.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedConfig

from benchmarks.shapes import gpt2_small, llama_160m, random_model
from benchmarks.step import CASES, measure
from benchmarks.timing import write_cases

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WEIGHT_SHARE = 0.7
"""Most of the free memory that weights may take; the rest is for activations."""


def llama(width: int, layers: int, heads: int, groups: int, hidden: int, vocabulary: int) -> PreTrainedConfig:
    """A Llama of these sizes."""
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
    )


SHAPES: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "tiny": lambda: llama(32, 3, 4, 2, 48, 2000),
    "gpt2-small": gpt2_small,
    "llama-160m": llama_160m,
    "llama-8b": lambda: llama(4096, 32, 32, 8, 14336, 128_256),
    "llama-32b": lambda: llama(5120, 64, 40, 8, 27648, 152_064),
}


def parameters(config: PreTrainedConfig) -> int:
    """How many a model of this shape has, without making it."""
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    with torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(config).num_parameters())


def fits(config: PreTrainedConfig, dtype: torch.dtype, device: str) -> bool:
    """Whether the weights leave room for activations."""
    if not device.startswith("cuda"):
        return True
    return parameters(config) * dtype.itemsize <= WEIGHT_SHARE * torch.cuda.mem_get_info(device)[0]


def rows(shape: str, dtype: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of every case on one shape and type."""
    model = random_model(SHAPES[shape](), DTYPES[dtype], options.device)
    found = []
    for case in (case for case in CASES if case.name in options.cases.split(",")):
        row = measure(case, shape, model, options.pairs, options.rounds, torch.get_num_threads())
        row |= {"dtype": dtype, "device": name_of(options.device), "peak_bytes": peak_bytes(model.device)}
        found.append(row | {"tokens_per_s": row["tokens"] / row["step_s"]})
    return found


def peak_bytes(device: torch.device) -> int:
    """The most that was allocated on the device since this was asked last; 0 for main memory."""
    if device.type != "cuda":
        return 0
    found = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return found


def name_of(device: str) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def main() -> None:
    """Print the table; write it as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default=",".join(name for name in SHAPES if name != "tiny"))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("benchmarks.gpu: skipped, torch finds no CUDA device here (--device cpu --shapes tiny tries the code)")
        write_cases(options.json, [])
        return
    write_cases(options.json, table(options))


def table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure and print shape after shape."""
    cases: list[dict[str, Any]] = []
    print("case      shape       dtype       step ms  tokens/s  peak GiB   step candidates")
    for shape in options.shapes.split(","):
        for dtype in options.dtypes.split(","):
            if not fits(SHAPES[shape](), DTYPES[dtype], options.device):
                print(f"{'':9} {shape:11} {dtype:9} does not fit")
                continue
            for row in rows(shape, dtype, options):
                cases.append(row)
                print(line(row))
                sys.stdout.flush()
            gc.collect()
    return cases


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    figures = f"{1000 * row['step_s']:9.1f} {row['tokens_per_s']:9.0f} {row['peak_bytes'] / 2**30:9.2f}"
    ratios = f"{row['step_ratio']:6.2f} {row['candidate_ratio']:10.2f}"
    return f"{row['name']:9} {row['shape']:11} {row['dtype']:9} {figures} {ratios}"


if __name__ == "__main__":
    main()
