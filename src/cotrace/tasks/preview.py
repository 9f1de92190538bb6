"""The first pairs of a task as a model sees them: tokens, and how base and counterfactual line up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from cotrace.errors import AlignmentError, InputError, unknown
from cotrace.prompts.pair import PromptPair, chat_words
from cotrace.prompts.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cotrace.batches import Align, EncodedPair
    from cotrace.results.table import Table

Row = tuple[str, str, str, str]


def preview(
    task: Task, tokenizer: PreTrainedTokenizerBase | None = None, most: int = 5, *, align: str = "exact"
) -> Table:
    """The first ``most`` pairs; with a tokenizer as tokens set apart by |, chats rendered, and how they align.

    Raises InputError.
    """
    from cotrace.batches import ALIGNMENTS
    from cotrace.results.table import Table

    if align not in ALIGNMENTS:
        raise unknown("alignment", align, ALIGNMENTS)
    if most < 1:
        raise InputError(f"most is {most}: ask for at least 1 pair")
    rows = [row for pair in task.pairs[:most] for row in _rows(task, pair, tokenizer, cast("Align", align))]
    title = f"{task.name}: {len(task)} pairs, {len(task.skipped)} records skipped, {task.conventions} conventions"
    return Table(title, ("pair", "part", "tokens", "text"), rows, left=frozenset({0, 1, 3}))


def _rows(task: Task, pair: PromptPair, tokenizer: PreTrainedTokenizerBase | None, align: Align) -> Iterator[Row]:
    texts = _texts(pair)
    if tokenizer is None:
        yield from _labelled(pair, [(part, "", repr(text)) for part, text in texts.items()])
        return
    try:
        encoded = _encoded(task, pair, tokenizer, align)
    except (AlignmentError, InputError) as error:
        refused = ("refused", "", str(error).rpartition("the first: ")[2])
        yield from _labelled(pair, [*((part, "", repr(text)) for part, text in texts.items()), refused])
        return
    ids = [encoded.prompt, *([encoded.donor] if encoded.donor else []), *encoded.answers]
    tokens = [(part, str(len(row)), _show(row, tokenizer)) for part, row in zip(texts, ids, strict=True)]
    yield from _labelled(pair, [*tokens, ("alignment", "", _alignment(encoded))])


def _texts(pair: PromptPair) -> dict[str, str]:
    """Part of the pair -> its text."""
    parts = {"base": pair.base or chat_words(pair.messages)}
    if _paired(pair):
        parts["counterfactual"] = pair.counterfactual or chat_words(pair.counterfactual_messages)
    for i, answer in enumerate(pair.answers):
        parts[f"answer {i}{', target' if i == pair.target else ''}"] = answer
    return parts


def _labelled(pair: PromptPair, rows: list[tuple[str, str, str]]) -> Iterator[Row]:
    """The pair's id stands in its first row only."""
    for i, row in enumerate(rows):
        yield (pair.id if i == 0 else "", *row)


def _paired(pair: PromptPair) -> bool:
    return bool(pair.counterfactual or pair.counterfactual_messages)


def _encoded(task: Task, pair: PromptPair, tokenizer: PreTrainedTokenizerBase, align: Align) -> EncodedPair:
    from cotrace.batches.encode import encode_task

    return encode_task(replace(task, pairs=(pair,)), tokenizer, paired=_paired(pair), align=align).pairs[0]


def _show(tokens: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> str:
    return "|".join(_token(tokenizer, token) for token in tokens)


def _token(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The token's text; SentencePiece drops a leading space when it decodes one token alone."""
    space = " " if str(tokenizer.convert_ids_to_tokens(token)).startswith("\u2581") else ""
    return space + str(tokenizer.decode([token])).removeprefix(space)


def _alignment(encoded: EncodedPair) -> str:
    if not encoded.donor:
        return "no counterfactual: the donor needs none"
    donors = encoded.donor_positions
    alone = [i for i, donor in enumerate(donors) if donor < 0]
    differing = [i for i, donor in enumerate(donors) if donor >= 0 and encoded.prompt[i] != encoded.donor[donor]]
    places, kept = (", ".join(map(str, found)) or "none" for found in (differing, alone))
    if not alone and len(encoded.prompt) == len(encoded.donor):
        return f"token by token; differing positions (from 0): {places}"
    return f"{len(donors) - len(alone)} of {len(donors)} positions; differing (from 0): {places}; not patched: {kept}"
