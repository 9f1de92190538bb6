"""Our gradient, evaluation and sweep against plain hooks: ``python -m benchmarks.hooks [--json PATH]``.

The other side is what a careful researcher writes with transformers and PyTorch alone: prompts of one length in one
batch, frozen parameters, donor values cached, the output head at the last token only. Heads, log-odds of two answers of
one token; both sides must agree. One thread, in turn, processor time; a figure above 1 says that we are faster.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shapes import gpt2_small, random_model
from benchmarks.timing import Version, interleaved, write_cases
from cotrace.models import LanguageModel, load_model
from cotrace.problem import LanguageProblem
from cotrace.prompts import PromptPair, Task

WORDS, CHANGED = 8, 1
"""Words of a prompt, and which of them its counterfactual changes."""
MASKS = 8
"""Masks of an evaluation, one after the other."""
AGREE = 1e-5


def same_length(model: LanguageModel, pairs: int) -> Task:
    """Prompts of words of one token each, which differ in the second, and two answers of one token."""
    draw, words = random.Random(0), single_tokens(model)
    made = []
    for i in range(pairs):
        prompt, other, *answers = draw.sample(words, WORDS), *draw.sample(words, 3)
        changed = [*prompt[:CHANGED], other, *prompt[CHANGED + 1 :]]
        texts = {"base": " ".join(prompt), "counterfactual": " ".join(changed)}
        made.append(PromptPair(id=str(i), answers=tuple(f" {answer}" for answer in answers), **texts))
    return Task(name="hooks", pairs=tuple(made), metric="log_odds")


def single_tokens(model: LanguageModel) -> list[str]:
    """Words that are one token behind another word, and at the beginning."""
    tokenizer = model.require_tokenizer()
    pieces = (tokenizer.decode([i]).strip() for i in range(min(len(tokenizer), 2000)))
    words = dict.fromkeys(word for word in pieces if word.isascii() and word.isalnum())
    bare = len(tokenizer("").input_ids)
    return [
        w for w in words if [len(tokenizer(t).input_ids) - bare for t in (w, f"{w} {w}", f"{w} {w} {w}")] == [1, 2, 3]
    ]


class PlainHooks:
    """The same question with hooks on the matrices that read the heads' outputs."""

    def __init__(self, model: LanguageModel, problem: LanguageProblem) -> None:
        self.model, pairs = model.module, problem.training.scorer.pairs
        self.model.requires_grad_(False)
        self.base, self.donor = (
            torch.tensor([list(ids) for ids in some])
            for some in zip(*((p.prompt, p.donor) for p in pairs), strict=True)
        )
        self.answers = torch.tensor([[answer[0] for answer in pair.answers] for pair in pairs])
        self.readers = list(_readers(self.model))
        self.heads = self.model.config.num_attention_heads
        self.cache: list[Tensor] = []
        with self.hooked(lambda layer, own: self.cache.append(own) or own), torch.no_grad():
            self.log_odds(self.donor)
        self.unswapped = self.log_odds(self.base)

    @contextmanager
    def hooked(self, edit: Callable[[int, Tensor], Tensor]) -> Iterator[None]:
        """Let ``edit`` replace what each reader is given."""
        handles = [
            reader.register_forward_pre_hook(lambda _, args, layer=layer: (edit(layer, args[0]),))
            for layer, reader in enumerate(self.readers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def log_odds(self, ids: Tensor) -> Tensor:
        """Log-odds of the second answer at the last token of each row."""
        logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        found = logits.gather(1, self.answers.repeat(len(ids) // len(self.answers), 1))
        return found[:, 1] - found[:, 0]

    def effects(self, masks: Tensor) -> Tensor:
        """Change of the log-odds of every pair under masks [mask, layer, head], all in one batch."""
        copies = len(masks)

        def edit(layer: int, own: Tensor) -> Tensor:
            mine = own.reshape(copies, *self.cache[layer].shape[:2], self.heads, -1)
            donor = self.cache[layer].reshape(mine.shape[1:])
            return torch.lerp(mine, donor, masks[:, None, None, layer, :, None]).reshape(own.shape)

        with self.hooked(edit):
            return self.log_odds(self.base.repeat(copies, 1)).reshape(copies, -1) - self.unswapped

    def gradient(self, z: Tensor) -> Tensor:
        """Gradient of the mean effect."""
        z = z.clone().requires_grad_()
        return torch.autograd.grad(self.effects(z.reshape(1, -1, self.heads)).mean(), z)[0]

    @torch.no_grad()
    def evaluation(self, masks: Tensor) -> Tensor:
        """Effects of masks, one after the other."""
        return torch.cat([self.effects(z.reshape(1, -1, self.heads)) for z in masks])

    @torch.no_grad()
    def sweep(self) -> Tensor:
        """Effects of every head alone, the heads of a layer in one batch."""
        each = torch.eye(len(self.readers) * self.heads).reshape(len(self.readers), self.heads, -1, self.heads)
        return torch.cat([self.effects(masks) for masks in each])


def _readers(model: nn.Module) -> Iterator[nn.Module]:
    """The output projection of each layer's attention."""
    for name, module in model.named_modules():
        if name.endswith(("self_attn.o_proj", "attn.c_proj")):
            yield module


def measure(name: str, model: LanguageModel, pairs: int, rounds: int, cases: Sequence[str]) -> dict[str, Any]:
    """How many times as fast we are. Raises AssertionError where the two sides do not agree."""
    problem = LanguageProblem(model, same_length(model, pairs), sites=["head_output"], holdout=0, direction="maximise")
    plain, n = PlainHooks(model, problem), len(problem.space)
    z, eye = torch.full((n,), 0.5), torch.eye(n)
    masks = (torch.rand(MASKS, n, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    versions: dict[str, tuple[Version, Version, int]] = {
        "gradient": (lambda: problem.gradient(z), lambda: plain.gradient(z), rounds),
        "evaluation": (lambda: problem.effects(masks), lambda: plain.evaluation(masks), rounds),
        "one mask": (lambda: problem.effects(masks[:1]), lambda: plain.evaluation(masks[:1]), rounds),
        "sweep": (lambda: problem.effects(eye), plain.sweep, max(1, rounds // 5)),
    }
    rows = "packed" if problem.packing.packed else "plain"
    row: dict[str, Any] = {"name": name, "pairs": pairs, "tokens": plain.base.shape[1], "components": n, "rows": rows}
    for what, (ours, theirs, times) in ((case, versions[case]) for case in cases):
        check_agreement(ours(), theirs())
        seconds = interleaved({"ours": ours, "plain": theirs}, times, warmup=0, clock=time.process_time)
        row |= {what: seconds["plain"] / seconds["ours"], f"{what}_s": seconds["ours"]}
        print(f"{name}, {what}: {row[what]:.2f} times as fast, {row[f'{what}_s']:.4f} s", flush=True)
    return row


def check_agreement(ours: Tensor, theirs: Tensor) -> None:
    """Raise AssertionError where gradients, or mean effects, differ by more than rounding."""
    gap = ours - theirs if ours.ndim == 1 else (ours - theirs).mean(1)
    assert gap.abs().max() < AGREE, f"the two sides differ by {float(gap.abs().max()):.2g}"


def main() -> None:
    """Print the table; write it as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="a model, FOLDER[:GGUF] or gpt2-small (random weights); may be repeated",
    )
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cases", default="gradient,evaluation,one mask,sweep")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for name in options.model or ["gpt2-small"]:
        path, _, gguf = name.partition(":")
        model = random_model(gpt2_small()) if name == "gpt2-small" else load_model(path, gguf_file=gguf or None)
        cases.append(measure(name, model, options.pairs, options.rounds, options.cases.split(",")))
    write_cases(options.json, cases)


if __name__ == "__main__":
    main()
