"""All tasks by name, and a preview of one before anything is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cotrace.errors import AlignmentError, InputError, unknown
from cotrace.prompts.pair import PromptPair, chat_words
from cotrace.prompts.task import Task
from cotrace.tasks import facts, generated, ioi, mib, texts, winograd
from cotrace.tasks._files import TaskInfo

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cotrace.batches import Align, EncodedPair
    from cotrace.results.table import Table

_INFOS = (
    *(winograd.WINOBIAS_INFO, winograd.WINOGENDER_INFO, facts.PROFESSIONS_INFO, facts.INFO, ioi.IOI_INFO),
    *(generated.GREATER_THAN_INFO, generated.AGREEMENT_INFO, generated.BINDING_INFO, facts.FACTUAL_GENDER_INFO),
    *(texts.INFO, mib.INFO, ioi.AUTO_CIRCUIT_INFO, *texts.INFOS),
)
TASKS: Mapping[str, TaskInfo] = {info.name: info for info in _INFOS}
"""Name -> what is known of the task."""
FORMATS = {".json": "auto_circuit"} | dict.fromkeys((".jsonl", ".ndjson", ".csv", ".tsv"), "jsonl")
"""Ending of a file's name -> the task that reads it."""


def named(name: str) -> TaskInfo:
    """The task of that name. Raises UnknownName with the close match and the list."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def load(
    name_or_path: str | Path,
    data: str | Path | None = None,
    split: str | None = None,
    conventions: str | None = None,
    **options: Any,
) -> Task:
    """The task of that name or of a file (JSON Lines, CSV, TSV, auto-circuit's JSON); ``data`` is a benchmark's folder.

    ``options`` are the task function's own. One that it does not have is refused, never passed over. Raises InputError.

    Args:
        name_or_path: Name of a task, or a file.
        split: The benchmark's own part; None for its first.
        conventions: ``corrected`` or ``paper``; None for the task's default.
    """
    name = str(name_or_path)
    if is_file(name):
        if data is not None:
            raise InputError(f"task {name} is a file of your own, which takes no data folder; leave one of the two out")
        name, data = _format(Path(name)), name
    if name not in TASKS and (Path(name).suffix or len(Path(name).parts) > 1):
        raise InputError(f"there is no file {name}; give one that is there, or the name of a task ({', '.join(TASKS)})")
    info = named(name)
    given = {"split": split, "conventions": conventions, **options}
    chosen = {option: value for option, value in given.items() if value is not None}
    _check(info, data, chosen)
    return info.load(**chosen) if data is None else info.load(data, **chosen)


def is_file(name: str) -> bool:
    """Whether this names a file, or a folder, rather than a task."""
    path = Path(name)
    return name not in TASKS and (path.suffix.lower() in FORMATS or path.exists())


def _format(path: Path) -> str:
    """The task that reads a file. Raises InputError where none does."""
    if path.suffix.lower() in FORMATS:
        return FORMATS[path.suffix.lower()]
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, not a task; name the task whose data it holds, with --task NAME --data {path}"
        )
    raise InputError(
        f"{path} is no format of pairs: they are read from JSON Lines (.jsonl), CSV (.csv), TSV (.tsv) and "
        f"auto-circuit's JSON (.json); write it as one of these. A neutral text is read with --task text --data {path}"
    )


def _check(info: TaskInfo, data: str | Path | None, chosen: Mapping[str, Any]) -> None:
    if data is None and info.needs_data:
        raise InputError(f"task {info.name} needs data: give data=PATH, {info.data}")
    if data is not None and info.data_use == "none":
        raise InputError(f"task {info.name} takes no data; leave data=PATH out")
    if "split" in chosen and info.splits and chosen["split"] not in info.splits:
        raise unknown("split", chosen["split"], info.splits)
    has = [name for name in signature(info.load).parameters if name not in ("path", "model")]
    for option in chosen:
        if option not in has:
            raise InputError(f"task {info.name} has no option {option!r}; it has {', '.join(has) or 'none'}")


Row = tuple[str, str, str, str]


def preview(
    task: Task, tokenizer: PreTrainedTokenizerBase | None = None, most: int = 5, *, align: str = "exact"
) -> Table:
    """The first ``most`` pairs; with a tokenizer as tokens set apart by |, chats rendered, and how they align.

    Raises InputError.

    Args:
        task: The task.
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
    """Label rows: the pair's id is in its first row only."""
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
