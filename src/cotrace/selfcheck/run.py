"""check: every property of a model and its sites, in one report; ensure: the same before a run, stopping it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from cotrace.arguments import checked, names_of
from cotrace.batches import ALIGNMENTS, Align
from cotrace.batches.roles import check_role
from cotrace.components import OF_DICTIONARIES, Component, ComponentSpace, Site
from cotrace.donors import DonorSource, donor_source
from cotrace.errors import CotraceError, InputError, unknown
from cotrace.models import LanguageModel, Place
from cotrace.problem.packing import takes_packed_rows
from cotrace.problem.spaces import entries_of, space_of
from cotrace.prompts import Task
from cotrace.results import Frontier, Selection
from cotrace.selfcheck.precision import precision_findings
from cotrace.selfcheck.probe import Probe
from cotrace.selfcheck.properties import TOLERANCES, run_findings, site_findings
from cotrace.selfcheck.report import CheckReport, Finding
from cotrace.selfcheck.tokens import task_findings, tokenizer_findings
from cotrace.showing import Steps, stepping
from cotrace.site_names import Layers


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
    if sites is not None and not isinstance(sites, ComponentSpace | Frontier | Selection):
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
    space = space_of(model, model.sites if sites is None else sites, ("all",), layers)
    parts = {one.layer: one.site for one in model.dictionaries}
    found: dict[Site, dict[int, Place]] = {}
    for site, layer in dict.fromkeys((one.site, one.layer) for one in space):
        own = parts[layer] if site in OF_DICTIONARIES else site
        found.setdefault(own, {})[layer] = model.places(own)[layer]
    return {site: [own[layer] for layer in sorted(own)] for site, own in found.items()}


def check_reading(task: Task | None, donors: str | DonorSource | None, align: str) -> None:
    """Refuse donors and alignments that there are not, and those of no pairs. Raises UnknownName, InputError."""
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
    packed = takes_packed_rows(model)
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
