"""Trains small dictionaries: `python -m training.dictionaries --model shipped --out DIR`.

Top-k and JumpReLU autoencoders and JumpReLU transcoders of one model, from a fixed seed, in minutes on two cores,
written as SAELens writes them. For a model that is not the one that ships they are trained on text that it writes
itself, so that no data are needed. What each is worth is printed: explained variance, active features, dead ones, and
how much of the loss that is lost without the place comes back when its reconstruction stands there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import cotrace as ct
from cotrace.dictionaries import Dictionary, save_dictionary
from cotrace.dictionaries.placed import placed
from cotrace.models import LanguageModel, tapped
from cotrace.models.hooks import PlacedDictionary
from training.corpus import documents

HOOKS = {
    "topk": ("hook_mlp_out", "hook_mlp_out"),
    "jumprelu": ("hook_resid_post", "hook_resid_post"),
    "transcoder": ("mlp.hook_in", "hook_mlp_out"),
}
"""Kind -> the ends of the places that it reads and writes."""
ROW = 64
HELD_ROWS = 64
FEWEST = 6
"""Tokens of a short document of the corpus."""
BANDWIDTH = 0.03
"""Of JumpReLU's step, in units of the activations' typical size."""
WARM = 0.2
"""Share of the steps over which the penalty comes in."""
GOES_DEAD = 200
"""Steps without activity after which a feature starts anew."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights."""

    model: str = "shipped"
    kinds: tuple[str, ...] = ("topk", "jumprelu", "transcoder")
    layers: tuple[int, ...] = ()
    """Empty: all."""
    features: int = 0
    """Of each dictionary; 0 for four times the width."""
    k: int = 8
    """Active features of a token: exactly (top-k), or what JumpReLU's penalty aims at."""
    rows: int = 3000
    """Rows of 64 tokens that activations are taken of."""
    steps: int = 2500
    batch: int = 1024
    rate: float = 2e-3
    seed: int = 0
    threads: int = 2
    out: Path = Path("dictionaries")


def main(recipe: Recipe) -> None:
    """Train all, print what each is worth, write them."""
    torch.set_num_threads(recipe.threads)
    model = ct.load_model(recipe.model)
    rows = texts(model, recipe)
    held, seen = rows[:HELD_ROWS], rows[HELD_ROWS:]
    print(f"{model.name}: {seen.numel():,} tokens; loss {loss(model, held):.3f} on {held.numel():,} held-out ones")
    for kind in recipe.kinds:
        for layer in recipe.layers or range(len(model.layers)):
            start = time.perf_counter()
            dictionary = trained(model, kind, layer, seen, recipe)
            folder = save_dictionary(dictionary, recipe.out / kind / f"layer_{layer}", trained_by="cotrace")
            words = quality(model, ct.load_dictionaries(folder)[0], held)
            print(f"{kind} layer {layer}: {words}; {time.perf_counter() - start:.0f} s", flush=True)


def texts(model: LanguageModel, recipe: Recipe) -> Tensor:
    """Rows of tokens: of the corpus for the model that ships, of the model's own writing for others."""
    if recipe.model == "shipped":
        tokenizer, ids = model.require_tokenizer(), []
        for text, _ in documents("dictionaries", recipe.rows * ROW // FEWEST):
            ids += [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]
            if len(ids) >= recipe.rows * ROW:
                break
        return torch.tensor(ids[: len(ids) // ROW * ROW]).reshape(-1, ROW)
    torch.manual_seed(recipe.seed)
    start = torch.full((recipe.rows, 1), model.module.config.bos_token_id or 0)
    options = {"max_new_tokens": ROW - 1, "min_new_tokens": ROW - 1, "do_sample": True, "top_k": 0, "pad_token_id": 0}
    return torch.cat([model.module.generate(part, **options) for part in start.split(250)])


def loss(model: LanguageModel, rows: Tensor) -> float:
    """Mean loss of the next token."""
    with torch.no_grad():
        return float(model.module(input_ids=rows, labels=rows).loss)


def hooked(model: LanguageModel, kind: str, layer: int) -> PlacedDictionary:
    """Where a dictionary of this kind reads and writes."""
    read, write = (f"blocks.{layer}.{end}" for end in HOOKS[kind])
    width = model.module.config.hidden_size
    one = torch.zeros(1, width)
    empty = Dictionary(
        name=f"{kind}/layer_{layer}",
        hook=read,
        hook_out=write,
        encoder=one,
        bias=one[0, :1],
        decoder=one,
        offset=one[0],
    )
    return placed(model, [empty])[0]


@torch.no_grad()
def values(model: LanguageModel, where: PlacedDictionary, rows: Tensor) -> tuple[Tensor, Tensor]:
    """What stands at both places [token, width], the first token of each row left out: it is like no other."""
    seen: dict[object, list[Tensor]] = {place: [] for place in where.hosts}

    def keep(place: object) -> Callable[[Tensor], Tensor]:
        def note(own: Tensor) -> Tensor:
            seen[place].append(own.reshape(len(part), ROW, -1)[:, 1:].flatten(0, 1).clone())
            return own

        return note

    for part in rows.split(256):
        with tapped(model.module, [(place, keep(place)) for place in where.hosts]):
            model.module(input_ids=part)
    return torch.cat(seen[where.read]), torch.cat(seen[where.write])


def trained(model: LanguageModel, kind: str, layer: int, rows: Tensor, recipe: Recipe) -> Dictionary:
    """One dictionary, from a seed of its own."""
    where = hooked(model, kind, layer)
    read, written = values(model, where, rows)
    torch.manual_seed(recipe.seed + 1000 * layer + list(HOOKS).index(kind))
    count = recipe.features or 4 * written.shape[1]
    given, aimed = read.std(0).norm(), written.std(0).norm()
    tied = read is written or torch.equal(read, written)
    net = Net(read / given, written / aimed, count, recipe.k, top=kind == "topk", tied=tied)
    net.fit(recipe)
    found = net.dictionary(where.dictionary, float(given), float(aimed))
    return replace(found, model_name=model.name)


class Net:
    """An encoder and a decoder in training, on values of about unit size."""

    def __init__(self, read: Tensor, written: Tensor, features: int, k: int, *, top: bool, tied: bool) -> None:
        self.read, self.written, self.k, self.top, self.tied = read, written, k, top, tied
        decoder = torch.nn.functional.normalize(torch.randn(features, written.shape[1]), dim=1)
        encoder = (
            decoder.clone() if tied else torch.nn.functional.normalize(torch.randn(features, read.shape[1]), dim=1)
        )
        self.encoder, self.decoder = encoder.requires_grad_(), decoder.requires_grad_()
        self.bias, self.offset = torch.zeros(features).requires_grad_(), written.mean(0).clone().requires_grad_()
        self.threshold = torch.full((features,), -3.0).requires_grad_()  # its logarithm
        self.silent = torch.zeros(features)

    @property
    def parts(self) -> list[Tensor]:
        return [self.encoder, self.decoder, self.bias, self.offset, *([] if self.top else [self.threshold])]

    def raw(self, read: Tensor) -> Tensor:
        """Pre-activations."""
        return (read - self.offset if self.tied else read) @ self.encoder.T + self.bias

    def fit(self, recipe: Recipe) -> None:
        """Adam on the squared error, with the number of active features held at k."""
        optimiser = torch.optim.Adam(self.parts, lr=recipe.rate, betas=(0.9, 0.999))
        for step in range(recipe.steps):
            share = step / recipe.steps
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * min(1.0, 5 * (1 - share))
            at = torch.randint(len(self.read), (recipe.batch,))
            read, written = self.read[at], self.written[at]
            raw = self.raw(read)
            active, penalty = self._top(raw) if self.top else self._jump(raw, min(1.0, share / WARM))
            missed = written - active @ self.decoder - self.offset
            total = missed.square().sum(1).mean() + penalty
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            with torch.no_grad():
                self.decoder /= self.decoder.norm(dim=1, keepdim=True)
                self._revive(active, read, missed, step)

    def _top(self, raw: Tensor) -> tuple[Tensor, float]:
        value, feature = raw.topk(self.k, 1)
        return torch.zeros_like(raw).scatter(1, feature, value.relu()), 0.0

    def _jump(self, raw: Tensor, warmth: float) -> tuple[Tensor, Tensor]:
        """JumpReLU with straight-through estimators, and the squared miss of the number active (arXiv 2407.14435)."""
        threshold = self.threshold.exp()
        active = Jump.apply(raw, threshold)
        count = Step.apply(raw, threshold).sum(1).mean()
        return active, 0.5 * warmth * (count / self.k - 1).relu().square()

    def _revive(self, active: Tensor, read: Tensor, missed: Tensor, step: int) -> None:
        """Features that have been silent for long start anew at what is missed most."""
        self.silent = torch.where((active > 0).any(0), 0.0, self.silent + 1)
        dead = torch.nonzero(self.silent > GOES_DEAD).flatten()
        if step % GOES_DEAD or not len(dead):
            return
        worst = missed.square().sum(1).topk(min(len(dead), len(missed))).indices
        dead = dead[: len(worst)]
        self.decoder[dead] = torch.nn.functional.normalize(missed[worst], dim=1)
        aim = missed[worst] if self.tied else read[worst] - self.read.mean(0)
        self.encoder[dead] = torch.nn.functional.normalize(aim, dim=1)
        self.bias[dead] = 0.0
        self.threshold.data[dead] = -3.0
        self.silent[dead] = 0.0

    @torch.no_grad()
    def dictionary(self, frame: Dictionary, given: float, aimed: float) -> Dictionary:
        """The dictionary on values as they are: activations are in units of the decoder's rows, which have length 1."""
        ratio = aimed / given
        return replace(
            frame,
            encoder=self.encoder.detach() * ratio,
            bias=self.bias.detach() * aimed,
            decoder=self.decoder.detach().clone(),
            offset=self.offset.detach() * aimed,
            shift=self.offset.detach() * aimed if self.tied else None,
            k=self.k if self.top else None,
            threshold=None if self.top else self.threshold.detach().exp() * aimed,
        )


class Step(torch.autograd.Function):
    """1 above the threshold; only the threshold is told how close values were."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, raw: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(raw, threshold)
        return (raw > threshold).to(raw)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, slope: Tensor) -> tuple[Tensor, Tensor]:
        raw, threshold = ctx.saved_tensors
        near = ((raw - threshold).abs() < BANDWIDTH / 2).to(raw) / BANDWIDTH
        return near * slope, -(near * slope).sum(0)


class Jump(torch.autograd.Function):
    """The value where it is above the threshold, else 0."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, raw: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(raw, threshold)
        return raw * (raw > threshold)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, slope: Tensor) -> tuple[Tensor, Tensor]:
        raw, threshold = ctx.saved_tensors
        near = ((raw - threshold).abs() < BANDWIDTH / 2).to(raw) / BANDWIDTH
        return slope * (raw > threshold), -(threshold * near * slope).sum(0)


def quality(model: LanguageModel, dictionary: Dictionary, rows: Tensor) -> str:
    """What it is worth on held-out text, in words."""
    where = placed(model, [dictionary])[0]
    read, written = values(model, where, rows)
    entries = where.entries(read)
    missed = (written - dictionary.reconstruct(read)).square().sum()
    explained = 1 - float(missed / (written - written.mean(0)).square().sum())
    dead = 1 - len(entries.feature.unique()) / dictionary.size
    plain, without, within = (spliced(model, where, rows, how) for how in ("own", "mean", "reconstruction"))
    return (
        f"explained variance {explained:.3f}, loss recovered {(without - within) / (without - plain):.3f} "
        f"({plain:.3f} own, {within:.3f} reconstructed, {without:.3f} mean), {len(entries.value) / len(read):.1f} of "
        f"{dictionary.size} features active, {dead:.0%} never on these tokens"
    )


def spliced(model: LanguageModel, where: PlacedDictionary, rows: Tensor, how: str) -> float:
    """The loss with the place's mean, or its reconstruction, in its stead, the first token apart."""
    mean = values(model, where, rows)[1].mean(0)
    noted: list[Tensor] = []

    def note(own: Tensor) -> Tensor:
        noted.append(own)
        return own

    def change(own: Tensor) -> Tensor:
        value = where.dictionary.reconstruct(noted[-1]) if how == "reconstruction" else mean.expand_as(own)
        return torch.cat([own[:, :1], value[:, 1:]], 1)

    if how == "own":
        return loss(model, rows)
    with tapped(model.module, [(where.read, note), (where.write, change)]):
        return loss(model, rows)


def asked(arguments: Sequence[str] | None = None) -> Recipe:
    """The recipe from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in vars(Recipe()).items():
        kind = str if isinstance(value, tuple) else type(value)
        parser.add_argument(f"--{name}", type=kind, default=None)
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    if "kinds" in given:
        given["kinds"] = tuple(given["kinds"].split(","))
    if "layers" in given:
        given["layers"] = tuple(map(int, given["layers"].split(",")))
    return Recipe(**given)


if __name__ == "__main__":
    main(asked())
