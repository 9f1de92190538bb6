"""GPT-2 decoders whose weights are set by hand, so that the circuit is known: which head reads what and writes where.

A feature is a direction of the residual stream and its mirror image, so that the mean is always 0; with a layer norm's
epsilon far above the variance the norm is a constant factor. What a head does is then exactly what its matrices say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from cotrace.models import LanguageModel, wrap
from cotrace.prompts import PromptPair, Task

LETTERS = 8
SEPARATOR = LETTERS
"""The word that is no letter: it carries no value and is never attended to by a match."""
WORDS = [*(f"w{i}" for i in range(LETTERS)), "and"]
LENGTH = 16
EPSILON = 1e8
SHARP = 6.0
"""Score of a match before the softmax."""


@dataclass
class Heads:
    """Matrices of every head between named features; what is not set stays 0."""

    layers: int
    heads: int
    spaces: dict[str, int] = field(default_factory=lambda: {"token": len(WORDS), "place": LENGTH})

    def __post_init__(self) -> None:
        self.spaces = self.spaces | dict.fromkeys(("previous", "hop", "out"), len(WORDS))
        self.size = sum(self.spaces.values())
        self.size += -self.size % self.heads
        self.width = 2 * self.size // self.heads
        self.parts = {name: torch.zeros(layers_heads(self), self.size, self.width) for name in "qkvo"}

    def features(self, name: str) -> range:
        """Where a space's features lie."""
        start = sum(list(self.spaces.values())[: list(self.spaces).index(name)])
        return range(start, start + self.spaces[name])

    def set(self, layer: int, head: int, part: str, space: str, matrix: Tensor) -> None:
        """A head's query, key, value (feature -> head) or output (head -> feature, transposed): adds a matrix."""
        rows = self.features(space)
        self.parts[part][layer * self.heads + head, rows.start : rows.stop, : matrix.shape[1]] += matrix

    def attend(self, at: tuple[int, int], query: str, key: str, sharp: float, shift: int = 0) -> None:
        """Attend where the key's feature is the query's, or that of ``shift`` places before."""
        size = self.spaces[query]
        self.set(*at, "q", query, sharp * self.width**0.5 * torch.diag(torch.ones(size - shift), -shift))
        self.set(*at, "k", key, torch.eye(size))
        if key == "previous":
            self.set(*at, "k", "token", -2.0 * torch.eye(len(WORDS))[[SEPARATOR]].T @ torch.ones(1, len(WORDS)))

    def move(self, at: tuple[int, int], source: str, target: str, strength: float = 1.0) -> None:
        """Carry the letters of one space into another."""
        letters = torch.eye(len(WORDS))
        letters[SEPARATOR, SEPARATOR] = 0.0
        self.set(*at, "v", source, letters)
        self.set(*at, "o", target, strength * letters)


def layers_heads(heads: Heads) -> int:
    return heads.layers * heads.heads


def background(heads: Heads, free: list[tuple[int, int]], strength: float = 0.02) -> None:
    """Heads that look everywhere and say a little: what a search must not be misled by."""
    draw = torch.Generator().manual_seed(0)
    for at in free:
        heads.set(*at, "v", "token", torch.randn(len(WORDS), len(WORDS), generator=draw))
        heads.set(*at, "o", "out", strength * torch.randn(len(WORDS), len(WORDS), generator=draw))


def mirrored(matrix: Tensor) -> Tensor:
    """Rows by feature -> rows by direction: each feature and its mirror image."""
    return torch.cat([matrix, -matrix])


def build(heads: Heads) -> LanguageModel:
    """The decoder with these heads; its MLPs write nothing."""
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_positions=LENGTH,
        n_embd=2 * heads.size,
        n_layer=heads.layers,
        n_head=heads.heads,
        layer_norm_epsilon=EPSILON,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    module = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        _fill(module, heads)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="and"))
    words.pre_tokenizer = WhitespaceSplit()
    return wrap(module, PreTrainedTokenizerFast(tokenizer_object=words), name="handmade")


def _fill(module: GPT2LMHeadModel, heads: Heads) -> None:
    one = torch.eye(heads.size)
    module.transformer.wte.weight.copy_(mirrored(one[:, heads.features("token")]).T)
    module.transformer.wpe.weight.copy_(mirrored(one[:, heads.features("place")]).T)
    module.lm_head.weight.copy_(mirrored(one[:, heads.features("out")]).T / 2)
    for norm in [module.transformer.ln_f, *(block.ln_1 for block in module.transformer.h)]:
        norm.weight.fill_(EPSILON**0.5)
    for layer, block in enumerate(module.transformer.h):
        own = slice(layer * heads.heads, (layer + 1) * heads.heads)
        into = [mirrored(heads.parts[part][own].transpose(0, 1).flatten(1)) / 2 for part in "qkv"]
        block.attn.c_attn.weight.copy_(torch.cat(into, 1))
        block.attn.c_proj.weight.copy_(mirrored(heads.parts["o"][own].transpose(0, 1).flatten(1)).T)


@dataclass(frozen=True)
class Planted:
    """A decoder, its pairs, and the set of heads that does it."""

    model: LanguageModel
    task: Task
    circuit: tuple[str, ...]
    donors: str
    mode: str
    others: tuple[str, ...] = ()
    """Heads with a part of their own in it: a backup, an inhibitor."""


def induction() -> Planted:
    """A previous-token head in layer 0, an induction head in layer 1: ``a b c d a`` goes on with ``b``.

    The counterfactual has ``a`` and ``c`` exchanged, so that ``d`` follows; either head alone moves the answer, and
    only both together keep it.
    """
    heads = Heads(2, 4)
    heads.attend((0, 2), "place", "place", SHARP, shift=1)
    heads.move((0, 2), "token", "previous")
    heads.attend((1, 1), "token", "previous", SHARP)
    heads.move((1, 1), "token", "out", 4.0)
    background(heads, [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (1, 3)])

    def pair(a: str, b: str, c: str, d: str) -> tuple[str, str, str, str]:
        return f"and {a} {b} {c} {d} {a}", f"and {c} {b} {a} {d} {a}", b, d

    return Planted(build(heads), pairs("induction", pair), ("L0.head2", "L1.head1"), "counterfactual", "keep")


def two_hops() -> Planted:
    """``a b and c d and b e and a`` goes on with ``e``: a to b, b to e. A backup head takes over the first hop."""
    heads = Heads(4, 3)
    heads.attend((0, 1), "place", "place", SHARP, shift=1)
    heads.move((0, 1), "token", "previous")
    for at in ((1, 0), (2, 2)):
        heads.attend(at, "token", "previous", SHARP)
        heads.move(at, "token", "hop")
    # Where something stands in ``hop`` already the backup looks at the first separator, which says nothing.
    column = torch.zeros(len(WORDS), heads.width)
    column[:, -1] = heads.width**0.5 * 3 * SHARP
    heads.set(2, 2, "q", "hop", column)
    rest = torch.zeros(len(WORDS), heads.width)
    rest[SEPARATOR, -1] = 1.0
    heads.set(2, 2, "k", "token", rest)
    heads.attend((3, 1), "hop", "previous", SHARP)
    heads.move((3, 1), "token", "out", 4.0)
    background(heads, [(0, 0), (0, 2), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 2)])

    def pair(a: str, b: str, c: str, d: str, e: str) -> tuple[str, str, str, str]:
        words = f"and {a} {b} and {c} {d} and {b} {e} and"
        return f"{words} {a}", f"{words} {c}", e, d

    circuit = ("L0.head1", "L1.head0", "L3.head1")
    return Planted(build(heads), pairs("two hops", pair), circuit, "zero", "keep", ("L2.head2",))


def inhibited() -> Planted:
    """Two heads copy the word at place 1, each half; a head of the next layer takes nine tenths of it back."""
    heads = Heads(2, 4)
    for at in ((0, 0), (0, 3)):
        everywhere = torch.zeros(LENGTH, heads.width)
        everywhere[:, 1] = SHARP * heads.width**0.5
        heads.set(*at, "q", "place", everywhere)
        heads.set(*at, "k", "place", torch.eye(LENGTH))
        heads.move(at, "token", "out", 1.0)
    heads.attend((1, 2), "place", "place", SHARP)
    heads.move((1, 2), "out", "out", -0.9)
    background(heads, [(0, 1), (0, 2), (1, 0), (1, 1), (1, 3)])

    def pair(a: str, b: str, c: str, d: str) -> tuple[str, str, str, str]:
        return f"{c} {a} {b} {d}", f"{c} {b} {a} {d}", a, b

    circuit = ("L0.head0", "L0.head3")
    return Planted(build(heads), pairs("inhibited copy", pair), circuit, "counterfactual", "keep", ("L1.head2",))


def pairs(name: str, pair: Callable[..., tuple[str, str, str, str]], count: int = 12) -> Task:
    """Pairs on letters drawn at random: base, counterfactual, the base's answer, the other answer."""
    draw = Random(name)
    made = []
    for i in range(count):
        letters = draw.sample(WORDS[:LETTERS], pair.__code__.co_argcount)
        base, other, right, wrong = pair(*letters)
        made.append(
            PromptPair(id=f"p{i}", base=base, counterfactual=other, answers=(f" {right}", f" {wrong}"), target=0)
        )
    return Task(name=name, pairs=tuple(made), metric="log_odds")


PLANTED: dict[str, Callable[[], Planted]] = {
    "induction": induction,
    "two hops": two_hops,
    "inhibited copy": inhibited,
}
