"""Prompts in auto-circuit's JSON: {"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}.

The format of Miller, Chughtai and Saunders 2024, *Transformer Circuit Faithfulness Metrics are not Robust*
(arXiv 2407.08734), in which several circuit papers' data are passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotrace.arguments import checked
from cotrace.errors import InputError, unknown
from cotrace.json_file import parse_json, read_text, shortened
from cotrace.prompts.jsonl import ARRAY
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.files import need_pairs
from cotrace.tasks.info import TaskInfo

SEVERAL = ("refuse", "first")
FIELDS = ("clean", "corrupt", "answers", "wrong_answers")
EXAMPLE = '{"prompts": [{"clean": "A b", "corrupt": "A c", "answers": [" d"], "wrong_answers": [" e"]}]}'


@checked("ct.tasks.auto_circuit")
def auto_circuit(path: str | Path, *, several: str = "refuse", metric: str = "log_odds") -> Task:
    """Task from such a file: ``clean`` is the base prompt, ``corrupt`` its counterfactual.

    The right answer is the target, the wrong ones are the others. cotrace's odds have one target: a prompt with
    ``several`` right answers is listed in ``skipped`` (``refuse``), or keeps its ``first`` right answer and has the
    rest in ``meta``. Raises InputError.
    """
    if several not in SEVERAL:
        raise unknown("value of several", several, SEVERAL)
    path = Path(path)
    prompts = _prompts(parse_json(read_text(path), path.name), path)
    pairs, skipped = [], []
    for i, prompt in enumerate(prompts, start=1):
        right = _answers(prompt, "answers", f"{path.name}: prompts[{i - 1}]")
        if len(right) > 1 and several == "refuse":
            skipped.append((f"prompt {i}", f"it has {len(right)} right answers; several='first' takes the first"))
        else:
            pairs.append(_pair(prompt, right, i, f"{path.name}: prompts[{i - 1}]"))
    found = need_pairs(pairs, tuple(skipped), path.name)
    return Task(name=path.stem, pairs=found, metric=metric, source=path.name, skipped=tuple(skipped))


def _prompts(data: object, path: Path) -> list[Mapping[str, Any]]:
    where = path.name
    prompts = data.get("prompts") if isinstance(data, Mapping) else None
    records = [one for one in data if isinstance(one, Mapping)] if isinstance(data, list) else []
    if any("requested_rewrite" in record for record in records):
        raise InputError(
            f"{where}: is CounterFact; named counterfact.json it is read with --task counterfact --data {path} "
            "(ct.tasks.counterfact)"
        )
    if isinstance(data, list) and not any("clean" in record for record in records):
        raise InputError(f"{where}: holds {ARRAY}, and name the file .jsonl")
    if isinstance(data, Mapping) and "base" in data:
        raise InputError(f"{where}: is one pair; put it on one line, each pair on its own, and name the file .jsonl")
    if isinstance(data, Mapping) and "nodes" in data:
        raise InputError(f"{where}: is a circuit, not pairs; cotrace evaluate RUN --selection FILE judges it")
    if not isinstance(prompts, list):
        raise InputError(f"{where}: holds no list 'prompts'; auto-circuit's format is {EXAMPLE}")
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, Mapping):
            raise InputError(f"{where}: prompts[{i}] is a {type(prompt).__name__}, not an object with 'clean'")
    return prompts


def _pair(prompt: Mapping[str, Any], right: tuple[str, ...], number: int, where: str) -> PromptPair:
    wrong = _answers(prompt, "wrong_answers", where) if "wrong_answers" in prompt else ()
    if right[0] in wrong:
        raise InputError(f"{where}: {shortened(right[0])} is both a right and a wrong answer; take it out of one")
    rest = {"right_answers": list(right)} if len(right) > 1 else {}
    extra = {str(name): value for name, value in prompt.items() if name not in FIELDS}
    return PromptPair(
        id=str(number),
        base=_text(prompt, "clean", where),
        counterfactual=_text(prompt, "corrupt", where),
        answers=(right[0], *wrong),
        target=0,
        meta=extra | rest,
    )


def _text(prompt: Mapping[str, Any], name: str, where: str) -> str:
    value = prompt.get(name)
    if not isinstance(value, str) or not value:
        what = "missing" if name not in prompt else f"{shortened(value)}"
        raise InputError(f"{where}: '{name}' is {what}; it must be a text that is not empty (token ids are not read)")
    return value


def _answers(prompt: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = prompt.get(name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        what = "missing" if name not in prompt else shortened(value)
        raise InputError(f"{where}: '{name}' is {what}; it must be a list of texts, such as [\" Paris\"]")
    return tuple(dict.fromkeys(texts))


INFO = TaskInfo(
    name="auto_circuit",
    about="prompts of your own in auto-circuit's JSON, or one of its data sets",
    source="yours; the format of Miller et al. 2024, arXiv 2407.08734",
    licence="yours",
    size="as many as the file has",
    metric="log_odds",
    data="a JSON file with 'prompts' (docs/interchange.md)",
    data_use="needed",
    load=auto_circuit,
)
