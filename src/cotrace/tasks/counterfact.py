"""CounterFact: facts such as "The mother tongue of Danielle Darrieux is" -> "French".

Meng et al. 2022, *Locating and Editing Factual Associations in GPT* (arXiv 2202.05262). Read from the authors'
counterfact.json, or from the hub's table of the same 21,919 facts (one prompt a row).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cotrace.arguments import checked
from cotrace.errors import InputError
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.files import Skipped, checked_conventions, find, need_pairs, read_json
from cotrace.tasks.hub import hub_rows
from cotrace.tasks.info import TaskInfo

SOURCE = "the authors' page rome.baulab.info (counterfact.json)"
HUB = ("NeelNanda/counterfact-tracing", "9294ca79fb39be5b28cf81aef7911a9b7fb3f66a")
"""Data set and pinned revision on the hub."""
NOISE_STD = 0.6045
"""Standard deviation of the noise on the prompt's embeddings in the paper's code (Yan et al. 2026)."""


@checked("ct.tasks.counterfact")
def counterfact(
    path: str | Path | None = None, *, conventions: str = "corrected", leading_space: bool | None = None
) -> Task:
    """Facts with one answer, the true one; the donor is Gaussian noise on the prompt's embeddings.

    ``path`` is the folder with counterfact.json, or None for the hub's table. With one answer the odds are
    1 / p(answer), so the effect is p_base / p_z - 1. ``corrected`` gives the answer its leading space, ``paper`` does
    not; ``leading_space`` overrides either. Records that lack a field are listed in ``skipped``. Raises InputError.
    """
    chosen = checked_conventions(conventions)
    space = chosen == "corrected" if leading_space is None else leading_space
    records, where = _records(path)
    pairs, skipped = _pairs(records, " " if space else "")
    return Task(
        name="counterfact",
        pairs=need_pairs(pairs, skipped, where),
        metric="odds_ratio",
        score="mean" if chosen == "paper" else "sum",
        encoding="joint" if chosen == "corrected" and space else "alone",
        sites=("mlp_coordinate",),
        donors=f"noise={NOISE_STD}",
        conventions=chosen,
        source=f"CounterFact {where} (Meng et al. 2022), answers {'with' if space else 'without'} leading space",
        skipped=skipped,
    )


def _records(path: str | Path | None) -> tuple[Iterable[object], str]:
    if path is None:
        return hub_rows(*HUB, task="counterfact"), f"{HUB[0]} at {HUB[1][:12]}"
    file = find(path, ["counterfact.json"], SOURCE)
    records = read_json(file, SOURCE)
    if not isinstance(records, list):
        raise InputError(f"{file.name}: holds no list of records; get the file again from {SOURCE}")
    return records, file.name


def _pairs(records: Iterable[object], space: str) -> tuple[list[PromptPair], Skipped]:
    pairs, skipped, seen = [], [], set[str]()
    for i, record in enumerate(records):
        try:
            pair = _pair(_fields(record), i, space)
            if pair.id in seen:
                raise ValueError(f"its id {pair.id} stands twice")
            seen.add(pair.id)
            pairs.append(pair)
        except (KeyError, TypeError, ValueError) as error:
            why = f"has no {error}" if isinstance(error, KeyError) else str(error)
            skipped.append((f"record {i + 1}", why))
    return pairs, tuple(skipped)


def _fields(record: object) -> Mapping[str, Any]:
    """The fields of a record in the hub table's names, from either form."""
    record = _object(record, "it")
    if record.get("requested_rewrite") is None:
        return record
    rewrite = _object(record["requested_rewrite"], "its requested_rewrite")
    before, gap, after = _text(rewrite, "prompt").partition("{}")
    if not gap:
        raise ValueError("its prompt has no place {} for the subject")
    return {
        "id": record.get("case_id"),
        "relation_prefix": before,
        "relation_suffix": after,
        "subject": rewrite["subject"],
        "target_true": _object(rewrite["target_true"], "its target_true")["str"],
        "target_false": _object(rewrite["target_new"], "its target_new")["str"],
        "relation_id": rewrite.get("relation_id"),
    }


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is of type {type(value).__name__}, not an object")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise TypeError(f"its {name} is of type {type(fields[name]).__name__}, not text")
    text: str = fields[name]
    return text


def _pair(fields: Mapping[str, Any], index: int, space: str) -> PromptPair:
    before, subject, after = (_text(fields, name) for name in ("relation_prefix", "subject", "relation_suffix"))
    answer = _text(fields, "target_true").strip()
    if not subject or not answer:
        raise ValueError("its subject or its answer is empty")
    number, relation = fields.get("id"), fields.get("relation_id")
    return PromptPair(
        id=str(index if number is None else number),
        base=before + subject + after,
        answers=(space + answer,),
        group=None if relation is None else _text(fields, "relation_id"),
        split_group=subject,
        spans={"subject": (len(before), len(before) + len(subject))},
        subject=subject,
        meta={"false_answer": _text(fields, "target_false").strip(), "relation": before + "{}" + after},
    )


INFO = TaskInfo(
    name="counterfact",
    about="facts about a subject; what makes the true answer likely?",
    source="CounterFact, Meng et al. 2022, arXiv 2202.05262",
    licence="MIT",
    size="21919",
    metric="odds_ratio",
    data=f"the folder of counterfact.json ({SOURCE}); without it {HUB[0]} is loaded from the Hugging Face hub",
    data_use="optional",
    conventions=True,
    load=counterfact,
)
