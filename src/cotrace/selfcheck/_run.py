"""The self-check of a model and of a task's pairs on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cotrace.batches import ALIGNMENTS, Align, Encoding, encode_task
from cotrace.batches.encode import check_role
from cotrace.components import OF_DICTIONARIES, Component, ComponentSpace, Layers, Site
from cotrace.donors import DonorSource, Noise, donor_source
from cotrace.errors import CotraceError, InputError, unknown
from cotrace.models import LanguageModel, Place
from cotrace.models.language_model import evaluating
from cotrace.models.places import entries_of, named_space, shortlist
from cotrace.problem.passes import Trials
from cotrace.prompts import Task
from cotrace.results import Frontier, Selection
from cotrace.selfcheck._properties import TOLERANCES, Probe, deviation, precision_findings, run_findings, site_findings
from cotrace.selfcheck.finding import CheckReport, Finding
from cotrace.text.progress_bar import Steps, stepping
from cotrace.validation import checked, names_of

SIDES = "left- and right-padded rows agree"
MOST_REFUSED = 0.05
"""Above this share of refused pairs a run speaks for too few of them."""


def tokenizer_findings(probe: Probe, tolerance: float) -> Iterator[Finding]:
    """The model's own padded batches, on either side, against the engine's unpadded run."""
    tokenizer = probe.model.tokenizer
    if tokenizer is None or not _can_pad(tokenizer):
        yield Finding(SIDES, None, tolerance, note="no tokenizer" if tokenizer is None else "no padding token")
        return
    errors = {side: _padded_error(probe, tokenizer, side) for side in ("left", "right")}
    worst = max(errors, key=errors.__getitem__)
    yield Finding(SIDES, errors[worst], tolerance, where=f"padding on the {worst}")


def _can_pad(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.pad_token_id is not None or tokenizer.eos_token_id is not None


@torch.no_grad()
def _padded_error(probe: Probe, tokenizer: PreTrainedTokenizerBase, side: str) -> float:
    """How far the base prompt's logits are off when the tokenizer pads it to the longer prompt on this side."""
    padder = copy.deepcopy(tokenizer)
    padder.padding_side = side
    if padder.pad_token_id is None:
        padder.pad_token = padder.eos_token
    batch = padder.pad({"input_ids": [list(probe.base), list(probe.longer)]}, return_tensors="pt")
    real = batch["attention_mask"][0].bool()
    with evaluating(probe.model.module):
        logits = probe.model.module(**_inputs(probe.model, batch), use_cache=False).logits[0]
    return deviation(logits[real.to(logits.device)], probe.plain)


def _inputs(model: LanguageModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A padded batch with positions that count real tokens only."""
    mask = batch["attention_mask"]
    given = {"input_ids": batch["input_ids"], "attention_mask": mask}
    if model.takes("position_ids"):
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return {name: value.to(model.device) for name, value in given.items()}


def task_findings(
    model: LanguageModel, task: Task, donors: str | DonorSource | None = None, align: Align = "exact"
) -> Iterator[Finding]:
    """Whether the task's pairs can be used with this model and these donors (default: the task's own), so aligned."""
    try:
        encoding = _encoded(model, task, donor_source(donors or task.donors), align)
    except CotraceError as error:
        yield Finding("pairs line up by token", None, MOST_REFUSED, where=task.name, note=str(error), broken=True)
        return
    share = len(encoding.refused) / len(task)
    note = _first(encoding.refused)
    yield Finding("pairs line up by token (share refused)", share, MOST_REFUSED, where=task.name, note=note)


def _encoded(model: LanguageModel, task: Task, source: DonorSource, align: Align) -> Encoding:
    """The pairs as a run would have them, with the prompts and roles that its donors need."""
    roles = [source.role] if isinstance(source, Noise) else []
    tokenizer, most = model.require_tokenizer(), model.most_tokens
    encoding = encode_task(task, tokenizer, paired=source.paired, align=align, roles=roles, most_tokens=most)
    return source.settled(encoding, {pair.pair.id for pair in encoding.pairs})[1]


def _first(refused: Sequence[object]) -> str:
    return f"the first: {getattr(refused[0], 'reason', refused[0])}" if refused else ""


class CheckFailed(CotraceError):
    """The model broke a property without which no effect can be believed."""


@checked("ct.check")
def check(
    model: LanguageModel,
    task: Task | None = None,
    *,
    sites: Sequence[str | Site | Component] | ComponentSpace | Frontier | Selection | None = None,
    layers: Layers = None,
    donors: str | DonorSource | None = None,
    align: Align = "exact",
    progress: Steps | bool | None = None,
) -> CheckReport:
    """Measure every property of these sites (default: all that the model has); nothing is raised for a broken one.

    ``sites`` and ``layers`` are those of ``ct.LanguageProblem``: where they name components (``L4.head2``, ``L4.*``),
    their sites are checked in their layers. The pairs of ``task`` are read for its own donors, or for ``donors``, and
    aligned as ``align`` says. ``progress`` shows how far it is: True, False, or a function of what is checked next, how
    many parts are done, and of how many; by default in terminals and notebooks. Raises UnknownName, InputError for a
    site, component, donor source or alignment that there is not.
    """
    check_reading(task, donors, align)
    if isinstance(sites, Frontier | Selection):
        sites = shortlist(sites)
    elif sites is not None and not isinstance(sites, ComponentSpace):
        sites = names_of("ct.check", "sites", sites)
    chosen = _places(model, sites, layers)
    if task is not None and sites is not None:
        for role in dict.fromkeys(entry.role for entry in entries_of(sites) if entry.role):
            check_role(task.pairs, role)
    with stepping("check", progress) as step:
        findings = tuple(_findings(model, chosen, step))
        step("the pairs of the task", len(chosen) + 2, len(chosen) + 3)
        findings += () if task is None else tuple(task_findings(model, task, donors, align))
    return CheckReport(
        model=model.name,
        dtype=str(model.dtype).removeprefix("torch."),
        sites=tuple(site.value for site in chosen),
        findings=findings,
        layers={
            site.value: [place.layer for place in places]
            for site, places in chosen.items()
            if len(places) < len(model.places(site))
        },
    )


def _places(model: LanguageModel, sites: Any, layers: Layers) -> dict[Site, list[Place]]:
    """Site -> its places in the layers that are meant; a part of a dictionary is where the dictionary is.

    Raises UnknownName, InputError, UnsupportedSite.
    """
    if sites is None and layers is None:
        return {site: list(model.places(site).values()) for site in model.plain_sites(model.sites)}
    space = named_space(model, model.sites if sites is None else sites, ("all",), layers)
    parts = {one.layer: one.site for one in model.dictionaries}
    found: dict[Site, dict[int, Place]] = {}
    for site, layer in dict.fromkeys((one.site, one.layer) for one in space):
        own = parts[layer] if site in OF_DICTIONARIES else site
        found.setdefault(own, {})[layer] = model.places(own)[layer]
    return {site: [own[layer] for layer in sorted(own)] for site, own in found.items()}


def check_reading(task: Task | None, donors: str | DonorSource | None, align: str) -> None:
    """Refuse unknown donors and alignments, and those without pairs. Raises UnknownName, InputError."""
    if align not in ALIGNMENTS:
        raise unknown("alignment", align, ALIGNMENTS)
    if donors is not None:
        donor_source(donors)
    if task is None and (donors is not None or align != "exact"):
        raise InputError("donors and align say how the pairs of a task are read: give the task as well")


def _findings(model: LanguageModel, sites: Mapping[Site, Sequence[Place]], step: Steps) -> Iterator[Finding]:
    step("the model as a whole", 0, len(sites) + 3)
    probe, tolerance = Probe.of(model), TOLERANCES.get(model.rounding_dtype, 1e-4)
    if not sites:
        why = sorted({why for layer in model.layers for why in layer.missing.values()})
        yield Finding("the model has a site that can be traced", None, 0.0, note="; ".join(why), broken=True)
    yield from run_findings(probe, tolerance)
    for number, (site, places) in enumerate(sites.items(), 1):
        step(site.value, number, len(sites) + 3)
        yield from site_findings(probe, site, places, tolerance)
    step("packing, precision and tokens", len(sites) + 1, len(sites) + 3)
    packed = model.once(Trials).packed_rows
    yield Finding("rows may be shared by several examples", None, tolerance, note="yes" if packed else "no: slower")
    yield from precision_findings(probe)
    yield from tokenizer_findings(probe, tolerance)


_checked: WeakKeyDictionary[LanguageModel, set[Site]] = WeakKeyDictionary()


def ensure(model: LanguageModel, sites: Sequence[str | Site] | None = None) -> None:
    """Check the sites of a run that have not been checked yet. Raises CheckFailed: what broke, where, by how much."""
    done = _checked.setdefault(model, set())
    chosen = model.plain_sites(model.sites if sites is None else tuple(Site.named(site) for site in sites))
    if new := [site for site in chosen if site not in done]:
        report = check(model, sites=new, progress=False)
        if not report.ok:
            raise CheckFailed(report.reason)
        done.update(new)
