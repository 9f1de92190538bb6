"""check: every property of a model and its sites, in one report; ensure: the same before a run, stopping it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from cotrace.arguments import checked, names_of
from cotrace.batches import ALIGNMENTS, Align
from cotrace.components import Site
from cotrace.donors import DonorSource, donor_source
from cotrace.errors import CotraceError, InputError, unknown
from cotrace.models import LanguageModel
from cotrace.problem.packing import takes_packed_rows
from cotrace.prompts import Task
from cotrace.selfcheck.precision import precision_findings
from cotrace.selfcheck.probe import Probe
from cotrace.selfcheck.properties import TOLERANCES, run_findings, site_findings
from cotrace.selfcheck.report import CheckReport, Finding
from cotrace.selfcheck.tokens import task_findings, tokenizer_findings
from cotrace.showing import Steps, stepping


class CheckFailed(CotraceError):
    """The model broke a property without which no effect can be believed."""


@checked("ct.check")
def check(
    model: LanguageModel,
    task: Task | None = None,
    *,
    sites: Sequence[str | Site] | None = None,
    donors: str | DonorSource | None = None,
    align: Align = "exact",
    progress: Steps | bool | None = None,
) -> CheckReport:
    """Measure every property of these sites (default: all that the model has); nothing is raised for a broken one.

    The pairs of ``task`` are read for its own donors, or for ``donors``, and aligned as ``align`` says. ``progress``
    shows how far it is: True, False, or a function of what is checked next, how many parts are done, and of how many;
    by default in terminals and notebooks. Raises UnknownName, InputError for a site, donor source or alignment that
    there is not.
    """
    check_reading(task, donors, align)
    chosen = model.sites if sites is None else tuple(Site.named(site) for site in names_of("ct.check", "sites", sites))
    for site in chosen:
        model.places(site)
    chosen = model.plain_sites(chosen)
    with stepping("check", progress) as step:
        findings = tuple(_findings(model, chosen, step))
        step("the pairs of the task", len(chosen) + 2, len(chosen) + 3)
        findings += () if task is None else tuple(task_findings(model, task, donors, align))
    return CheckReport(
        model=model.name,
        dtype=str(model.dtype).removeprefix("torch."),
        sites=tuple(site.value for site in chosen),
        findings=findings,
    )


def check_reading(task: Task | None, donors: str | DonorSource | None, align: str) -> None:
    """Refuse donors and alignments that there are not, and those of no pairs. Raises UnknownName, InputError."""
    if align not in ALIGNMENTS:
        raise unknown("alignment", align, ALIGNMENTS)
    if donors is not None:
        donor_source(donors)
    if task is None and (donors is not None or align != "exact"):
        raise InputError("donors and align say how the pairs of a task are read: give the task as well")


def _findings(model: LanguageModel, sites: Sequence[Site], step: Steps) -> Iterator[Finding]:
    step("the model as a whole", 0, len(sites) + 3)
    probe, tolerance = Probe.of(model), TOLERANCES.get(model.rounding_dtype, 1e-4)
    if not sites:
        why = sorted({why for layer in model.layers for why in layer.missing.values()})
        yield Finding("the model has a site that can be traced", None, 0.0, note="; ".join(why), broken=True)
    yield from run_findings(probe, tolerance)
    for number, site in enumerate(sites, 1):
        step(site.value, number, len(sites) + 3)
        yield from site_findings(probe, site, tolerance)
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
