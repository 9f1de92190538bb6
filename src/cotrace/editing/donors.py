"""Donors that stand alone: those with a value at every position, generated ones included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cotrace.batches import EncodedPair, encode_task
from cotrace.donors import DonorSource, Mean, Scale, Vector, Zero, donor_source
from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.prompts import Task

LOWEST_FACTOR, HIGHEST_FACTOR = -1.0, 2.0
"""Range of ``scale``: -1 turns a component round, 0 takes it out, 1 leaves it, 2 doubles it."""
NO_VALUE: Mapping[str, str] = {
    "counterfactual": "its values are those of a paired prompt, and a generated position has no pair",
    "resample": "its values are those of another pair's prompt, and a generated position has none",
    "noise": "its values are those of a prompt with noise on its embeddings, and a generated position has none",
}
ALTERNATIVE = "use zero, scale=0.2, mean=task or a vector"


def stand_alone(donor: str | DonorSource, model: LanguageModel, reference: Task | None = None) -> DonorSource:
    """The donor source, checked to have a value at generated positions. Raises InputError with the reason.

    ``vector=FILE.safetensors`` reads a tensor for each component by its name; ``mean=task`` is taken over all tokens of
    the base prompts of ``reference``.
    """
    source = checked_donor(donor)
    return _with_reference(source, model, reference) if isinstance(source, Mean) else source


def checked_donor(donor: str | DonorSource) -> DonorSource:
    """The donor source, checked as far as can be without a model. Raises InputError."""
    source = donor_source(donor)
    if source.name in NO_VALUE:
        raise InputError(f"donors={source.name!r} does not stand alone: {NO_VALUE[source.name]}; {ALTERNATIVE}")
    if isinstance(source, Scale):
        return Scale(checked_factor(source.factor))
    if isinstance(source, Mean) and source.per_position:
        raise InputError(
            "donors='mean=position' does not stand alone: it has a value for each prompt position and none behind the "
            "prompt; use donors='mean=task', one value for all positions"
        )
    if not isinstance(source, Mean | Zero | Vector):
        raise InputError(f"donors={source.name!r} is not known to stand alone; {ALTERNATIVE}")
    return source


def checked_factor(factor: float | int) -> float:
    """A factor of ``scale`` within its range. Raises InputError."""
    if not LOWEST_FACTOR <= factor <= HIGHEST_FACTOR:  # not a number fails too
        raise InputError(
            f"the factor {factor:g} is outside {LOWEST_FACTOR:g} .. {HIGHEST_FACTOR:g}: 0 takes a component out, 1 "
            "leaves it, -1 turns it round"
        )
    return float(factor)


def _with_reference(source: Mean, model: LanguageModel, reference: Task | None) -> Mean:
    if source.reference is not None:
        return source
    if reference is None:
        raise InputError("donors='mean=task' needs a reference set: give reference=TASK, whose base prompts are run")
    return replace(source, reference=reference_pairs(model, reference))


def reference_pairs(model: LanguageModel, task: Task) -> tuple[EncodedPair, ...]:
    """The task's base prompts, tokenised: what a problem with ``mean=task`` averages over as well."""
    return encode_task(
        task, model.require_tokenizer(), paired=False, align="exact", most_tokens=model.most_tokens
    ).pairs


def described(donor: str | DonorSource) -> str:
    """The donor as it is written on the command line."""
    if isinstance(donor, str):
        return donor
    if isinstance(donor, Scale):
        return f"scale={donor.factor:g}"
    return "mean=task" if isinstance(donor, Mean) else donor.name
