"""check: every property of a model and its sites, in one report; ensure: the same before a run, stopping it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from cotrace.arguments import checked, names_of
from cotrace.components import Site
from cotrace.errors import CotraceError
from cotrace.models import LanguageModel
from cotrace.problem.packing import takes_packed_rows
from cotrace.prompts import Task
from cotrace.selfcheck.precision import precision_findings
from cotrace.selfcheck.probe import Probe
from cotrace.selfcheck.properties import TOLERANCES, run_findings, site_findings
from cotrace.selfcheck.report import CheckReport, Finding
from cotrace.selfcheck.tokens import task_findings, tokenizer_findings


class CheckFailed(CotraceError):
    """The model broke a property without which no effect can be believed."""


@checked("ct.check")
def check(model: LanguageModel, task: Task | None = None, *, sites: Sequence[str | Site] | None = None) -> CheckReport:
    """Measure every property of these sites (default: all that the model has); nothing is raised for a broken one."""
    chosen = model.sites if sites is None else tuple(Site.named(site) for site in names_of("ct.check", "sites", sites))
    for site in chosen:
        model.places(site)
    return CheckReport(
        model=model.name,
        dtype=str(model.dtype).removeprefix("torch."),
        sites=tuple(site.value for site in chosen),
        findings=tuple(_findings(model, chosen, task)),
    )


def _findings(model: LanguageModel, sites: Sequence[Site], task: Task | None) -> Iterator[Finding]:
    probe, tolerance = Probe.of(model), TOLERANCES.get(model.rounding_dtype, 1e-4)
    if not sites:
        why = sorted({why for layer in model.layers for why in layer.missing.values()})
        yield Finding("the model has a site that can be traced", None, 0.0, note="; ".join(why), broken=True)
    yield from run_findings(probe, tolerance)
    for site in sites:
        yield from site_findings(probe, site, tolerance)
    packed = takes_packed_rows(model)
    yield Finding("rows may be shared by several examples", None, tolerance, note="yes" if packed else "no: slower")
    yield from precision_findings(probe)
    yield from tokenizer_findings(probe, tolerance)
    if task is not None:
        yield from task_findings(model, task)


_checked: WeakKeyDictionary[LanguageModel, set[Site]] = WeakKeyDictionary()


def ensure(model: LanguageModel, sites: Sequence[str | Site] | None = None) -> None:
    """Check the sites of a run that have not been checked yet. Raises CheckFailed: what broke, where, by how much."""
    done = _checked.setdefault(model, set())
    chosen = model.sites if sites is None else tuple(Site.named(site) for site in sites)
    if new := [site for site in chosen if site not in done]:
        report = check(model, sites=new)
        if not report.ok:
            raise CheckFailed(report.reason)
        done.update(new)
