"""lm-evaluation-harness, an optional extra: its tasks before and after an edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from cotrace.donors import DonorSource
from cotrace.editing.apply import apply
from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.prompts import Task
from cotrace.results import Selection
from cotrace.results.outcomes import Outcome
from cotrace.statistics import Interval

NORMAL_95 = 1.96


def harness(
    model: LanguageModel,
    selection: Selection | Sequence[str],
    donor: str | DonorSource = "zero",
    *,
    tasks: Sequence[str],
    limit: int | None = None,
    batch_size: int = 8,
    reference: Task | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """Every metric that the harness reports for these tasks, before and after, with its own standard errors.

    ``options`` go to ``lm_eval.simple_evaluate``. Raises InputError where lm-eval is not installed.
    """
    evaluate = _evaluator()
    asked = {"tasks": list(tasks), "limit": limit, "batch_size": batch_size, **(options or {})}
    before = evaluate(model, asked)
    with apply(model, selection, donor, reference=reference):
        after = evaluate(model, asked)
    return list(outcomes(before, after))


def installed() -> tuple[ModuleType, ModuleType]:
    """The harness and its backend for Hugging Face. Raises InputError where they are not installed."""
    try:
        return import_module("lm_eval"), import_module("lm_eval.models.huggingface")
    except ImportError:
        raise InputError("lm-evaluation-harness is not installed: pip install 'cotrace[harness]'") from None


def _evaluator() -> Any:
    lm_eval, backend = installed()

    def evaluate(model: LanguageModel, asked: Mapping[str, Any]) -> Any:
        wrapped = backend.HFLM(
            pretrained=model.module, tokenizer=model.require_tokenizer(), batch_size=asked["batch_size"]
        )
        return lm_eval.simple_evaluate(model=wrapped, **asked)

    return evaluate


def outcomes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Outcome]:
    """The harness's results, task by task; entries are named ``metric,filter`` and have a ``metric_stderr,filter``."""
    for task, measured in before["results"].items():
        count = before.get("n-samples", {}).get(task, {}).get("effective", 0)
        for key, value in measured.items():
            name, metric, _ = key.partition(",")  # what has no filter is no metric, such as the count of samples
            counted = metric and isinstance(value, float | int) and key in after["results"][task]
            if not counted or name.endswith("_stderr"):
                continue
            yield Outcome(
                task=task,
                metric=name,
                pairs=int(count),
                before=float(value),
                after=float(after["results"][task][key]),
                before_interval=_interval(measured, key),
                after_interval=_interval(after["results"][task], key),
            )


def _interval(measured: Mapping[str, Any], key: str) -> Interval | None:
    """value +- 1.96 standard errors, where the harness gives one."""
    name, _, chosen = key.partition(",")
    error = measured.get(f"{name}_stderr,{chosen}")
    if not isinstance(error, float | int):
        return None
    return float(measured[key] - NORMAL_95 * error), float(measured[key] + NORMAL_95 * error)
