"""Posing: what a problem asks, settled before any pass: components, tokens, donors, and which pairs belong where."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotrace.batches import ALIGNMENTS, Align, Bos, Encoding, encode_task
from cotrace.batches.roles import ALL
from cotrace.components import HELD, Component, ComponentSpace, Site, overlap
from cotrace.dictionaries.placed import PlacedDictionary
from cotrace.donors import DonorSource, Noise, Scale
from cotrace.errors import AlignmentError, InputError, unknown
from cotrace.models import LanguageModel
from cotrace.problem.parts import judging, subset_of
from cotrace.problem.protocol import JudgePairs
from cotrace.prompts import PromptPair, Task
from cotrace.prompts.split import groups, split_ids, warn_of_repeats

HOLDERS: Mapping[Site, tuple[Site, ...]] = {site: tuple(o for o, held in HELD.items() if site in held) for site in Site}
"""Site -> the sites that hold it."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How prompts are written as tokens."""

    align: Align
    prepend_bos: Bos
    template_arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Division:
    """Which pairs searches see, which judge, and which nothing touches until the end."""

    holdout: float | int
    audit: float | int
    split_by: str | None
    seed: int
    search_pairs: int | None
    judge_pairs: JudgePairs

    @property
    def words(self) -> str:
        """The division as options, those that are not in use left out."""
        rest = {"audit": self.audit or None, "split_by": self.split_by, "search_pairs": self.search_pairs}
        rest["judge_pairs"] = self.judge_pairs
        given = {"holdout": self.holdout, "seed": self.seed} | rest
        return ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)

    def drawn(self, judged: Sequence[int], unseen: Sequence[int]) -> str:
        """Which of the unseen pairs judge, in words; empty where they all do."""
        if len(judged) == len(unseen):
            return ""
        return f"{len(judged):,} of {len(unseen):,} held-out pairs judge, whole groups drawn by seed {self.seed}"


@dataclass(frozen=True)
class Settled:
    """The usable pairs as tokens with their donor prompts, and the indices of each part among them."""

    donors: DonorSource
    encoding: Encoding
    groups: Mapping[str, str]
    """Id of a pair -> the pairs that it stays together with in a split."""
    training: Sequence[int]
    heldout: Sequence[int]
    judged: Sequence[int]
    """Of the held-out pairs those that judge."""
    audit: Sequence[int]
    subset: Sequence[int] | None
    """Of the training pairs those that searches see; None for all."""


def settle(
    model: LanguageModel, task: Task, space: ComponentSpace, source: DonorSource, writing: Writing, division: Division
) -> Settled:
    """Tokens, then the split, then what donors take from other pairs. Raises AlignmentError, InputError."""
    tokens = encoded(model, task, space, source, writing)
    ids = split_ids(
        [pair.pair for pair in tokens.pairs],
        division.holdout,
        division.seed,
        audit=division.audit,
        by=division.split_by,
    )
    if task.encoding != "text":  # there the prompt is but the first word of what is scored
        warn_of_repeats([pair.pair for pair in tokens.pairs], ids)
    source, tokens = source.settled(tokens, ids[0])
    pairs = [pair.pair for pair in tokens.pairs]
    labels = groups(pairs, division.split_by)
    training, heldout, audit = (_indices(pairs, part) for part in ids)
    subset = subset_of(training, labels, division.search_pairs, division.seed)
    units = dict(zip((pair.id for pair in pairs), labels, strict=True))
    judged = judging(heldout, labels, division.judge_pairs, division.seed)
    return Settled(source, tokens, units, training, heldout, judged, audit, subset)


def encoded(model: LanguageModel, task: Task, space: ComponentSpace, source: DonorSource, writing: Writing) -> Encoding:
    """The pairs as tokens, with the donor prompts and roles that are needed."""
    roles = dict.fromkeys(block.role for block in space.blocks)
    return encode_task(
        task,
        model.require_tokenizer(),
        paired=source.paired,
        align=writing.align,
        roles=[*roles, *([source.role] if isinstance(source, Noise) else [])],
        prepend_bos=writing.prepend_bos,
        template_arguments=writing.template_arguments,
        most_tokens=model.most_tokens,
    )


def _held_feature(model: LanguageModel, space: ComponentSpace) -> tuple[Component, Component] | None:
    """A component whose value a feature or error of the space is a part of, and that feature or error; else None."""
    found = (_inside(space, one) for one in model.dictionaries)
    return next((both for both in found if both is not None), None)


def _inside(space: ComponentSpace, one: PlacedDictionary) -> tuple[Component, Component] | None:
    """The same of one dictionary."""
    layer = [component for component in space if component.layer == one.layer]
    holders = [component for component in layer if component.site in (one.site, *HOLDERS[one.site])]
    for component in layer if holders else ():
        for outer in holders if component.site in (one.feature_site, one.error_site) else ():
            if outer.role == component.role or ALL in (outer.role, component.role):
                return outer, component
    return None


def overlap_words(model: LanguageModel, space: ComponentSpace, source: DonorSource, mode: str) -> str | None:
    """Why zeros, or squares of a factor, are to be expected where a component of the space holds another."""
    if (found := overlap(space) or _held_feature(model, space)) is None:
        return None
    outer, inner = found
    if mode == "keep":
        return (
            f"{outer} holds {inner}: in keep mode what is not kept takes the donor's value, so {inner} has effect 0 "
            f"unless {outer} is kept as well; name sites that do not hold one another, or use mode='swap'"
        )
    if isinstance(source, Scale):
        return (
            f"{outer} holds {inner}: where both are chosen the value is scaled twice, by the square of the factor; "
            "name sites that do not hold one another"
        )
    return None


def _indices(pairs: Sequence[PromptPair], part: Collection[str]) -> list[int]:
    """Which of the pairs belong to a part. Raises AlignmentError where all of the part's pairs were refused."""
    found = [i for i, pair in enumerate(pairs) if pair.id in part]
    if part and not found:
        raise AlignmentError(
            f"the donors have no values for any of {len(part)} pairs that were set aside together: use another donor "
            "source, or another holdout"
        )
    return found


def check_options(mode: str, align: str, positions: str, checkpointing: str, batch_tokens: int | None) -> None:
    """Raise UnknownName, InputError."""
    for kind, given, options in (
        ("mode", mode, ("swap", "keep")),
        ("alignment", align, ALIGNMENTS),
        ("positions", positions, ("prompt", "prompt+answer")),
        ("checkpointing", checkpointing, ("auto", "on", "off")),
    ):
        if given not in options:
            raise unknown(kind, given, options)
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch_tokens is {batch_tokens}: give at least 1")
