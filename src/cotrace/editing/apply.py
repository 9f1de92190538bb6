"""``apply``: a selection at work in the plain Hugging Face model, in every forward pass, prompts and generated text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import PreTrainedModel

from cotrace.arguments import checked
from cotrace.components import ComponentSpace
from cotrace.donors import DonorSource
from cotrace.editing.changes import Change, FeatureChange, changes
from cotrace.models import LanguageModel, tapped
from cotrace.prompts import Task
from cotrace.results import AnySet, selection_of


class _NothingRan(Exception):
    """No forward pass inside: nothing that could have been missed."""


@checked("ct.apply")
@contextmanager
def apply(
    model: LanguageModel,
    selection: AnySet,
    donor: str | DonorSource = "zero",
    *,
    reference: Task | None = None,
    space: ComponentSpace | None = None,
) -> Iterator[PreTrainedModel]:
    """The Hugging Face model with the selection's components under the donor, for every forward inside.

    ``selection``: a Selection, component names, or a mask of 0 and 1 [n] with the ``space`` that it is of. The model
    runs, scores and generates, with and without a cache; every position takes the donor, padding too, which nothing
    attends to. Hooks and attention are restored afterwards. ``reference`` is the task that ``mean=task`` is taken
    over. Raises InputError for a donor without a value at generated positions, UnsupportedSite, and RuntimeError where
    the model ran and a place was never reached.
    """
    chosen = selection_of("ct.apply", selection, space)
    with changed(model, changes(model, chosen, donor, reference)):
        yield model.module


@contextmanager
def changed(model: LanguageModel, edits: Sequence[Change | FeatureChange]) -> Iterator[None]:
    """The model under these changes."""
    reached: list[bool] = []
    taps = [tap for change in edits for tap in change.taps(lambda: reached.append(True))]
    try:
        with tapped(model.module, taps):
            yield
            if not reached:
                raise _NothingRan
    except _NothingRan:
        pass
