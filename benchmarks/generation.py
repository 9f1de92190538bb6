"""Time per generated token: hooked against plain, and folded against plain, as ratios within one run.

python -m benchmarks.generation [--json PATH] [--device cpu] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import cotrace as ct
from cotrace import shipped
from cotrace.editing import folded

"""16 + 40 tokens fit in the 64 positions of the model that ships."""
ROWS, PROMPT, NEW, REPEATS = 4, 16, 40, 5
DONOR = "scale=0.2"


def models(device: str) -> Iterator[tuple[str, ct.models.LanguageModel]]:
    """The model that ships, and random ones of a size at which people work."""
    yield "shipped", ct.load_model(shipped.MODEL, device=device)
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=128)).eval()
    yield "gpt2-small shape", ct.wrap(gpt2.to(device), name="gpt2-small shape")
    size = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 16}
    llama = LlamaForCausalLM(LlamaConfig(**size, num_key_value_heads=4, vocab_size=8192)).eval()
    yield "llama shape, 8 layers of 512", ct.wrap(llama.to(device), name="llama shape")


def selections(model: ct.models.LanguageModel) -> Iterator[tuple[str, ct.Selection]]:
    """Ten heads over the layers, and a hundred neurons besides."""
    layers, heads = len(model.layers), model.layers[0].heads
    chosen = [f"L{i % layers}.head{(3 * i) % heads}" for i in range(10)]
    yield "10 heads", ct.Selection.parse(chosen)
    yield "10 heads, 100 neurons", ct.Selection.parse([*chosen, *(f"L{i % layers}.neuron{i}" for i in range(100))])


def seconds(model: ct.models.LanguageModel, inside: AbstractContextManager[object]) -> float:
    """Of one generation, per new token."""
    ids = torch.arange(ROWS * PROMPT, device=model.device).reshape(ROWS, PROMPT) % 700
    with inside, torch.no_grad():
        began = clock(model)
        model.module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
        )
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return (clock(model) - began) / NEW


def clock(model: ct.models.LanguageModel) -> float:
    """Processor time on one CPU thread, which other work on the machine does not touch; else the time that passed."""
    alone = model.device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def case(name: str, label: str, model: ct.models.LanguageModel, selection: ct.Selection) -> dict[str, Any]:
    """Plain, hooked and folded in turn, so that what else the machine does hits all three; medians."""
    twin = folded(model, selection, DONOR)
    for warm in (model, twin):
        seconds(warm, nullcontext())
    rounds = [
        (
            seconds(model, nullcontext()),
            seconds(model, ct.apply(model, selection, DONOR)),
            seconds(twin, nullcontext()),
        )
        for _ in range(REPEATS)
    ]
    plain, hooked, fold = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "name": name,
        "selection": label,
        "rows": ROWS,
        "new_tokens": NEW,
        "threads": torch.get_num_threads(),
        "hooked_ratio": hooked / plain,
        "hooked_ratio_best": min(row[1] for row in rounds) / min(row[0] for row in rounds),
        "folded_ratio": fold / plain,
        "plain_ms_per_token": 1e3 * plain,
    }


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases = []
    for name, model in models(arguments.device):
        for label, selection in selections(model):
            cases.append(case(name, label, model, selection))
            one = cases[-1]
            print(
                f"{name}, {label}: hooked {one['hooked_ratio']:.3f} of plain (best rounds "
                f"{one['hooked_ratio_best']:.3f}), folded {one['folded_ratio']:.3f}, "
                f"{one['plain_ms_per_token']:.2f} ms a token"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": arguments.device, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
