"""The figures and the report of a run as files: of one that has just ended, and of one that is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from cotrace import report
from cotrace.evaluation import Evaluation
from cotrace.json_file import read_text
from cotrace.problem import LanguageProblem
from cotrace.readout import Explanation
from cotrace.readout.files import NAMES
from cotrace.report import Material
from cotrace.report.page import EDIT, EXAMPLES, PLAIN, Edited, Examples, Plain
from cotrace.results import Frontier, Tradeoff
from cotrace.runs.added import read_evaluation, read_explanation, read_tradeoff
from cotrace.runs.config_file import NOT_STORED, RECORD, read_run_config
from cotrace.runs.evidence import EVALUATION, with_effects
from cotrace.runs.manifest import Manifest, holds
from cotrace.runs.results import enough
from cotrace.runs.stored import StoredRun

T = TypeVar("T")
REPORT, REDACTED = "report.html", "report-redacted.html"
TRADEOFF = "tradeoff.json"
FROM = (
    "config.yaml",
    "selection.json",
    "effects.safetensors",
    "frontier.csv",
    "masks.safetensors",
    EXAMPLES,
    TRADEOFF,
    NAMES[0],
    PLAIN,
    EDIT,
)
"""Files whose hashes the report shows, with those of the evaluations."""


def figures(
    problem: LanguageProblem,
    frontiers: Sequence[Frontier],
    evaluation: Evaluation | None,
    folder: Path,
    explanation: Explanation | None = None,
) -> dict[str, bytes]:
    """frontier.png with every search, map.png with the selection that is enough, examples.json, and the report."""
    first, examples = frontiers[0], report.examples_of(problem)
    judged = () if evaluation is None else (evaluation,)
    config = config_of(folder)
    material = Material(tuple(frontiers), judged, examples=examples, explanation=explanation, config=config)
    plain = report.plain_of(problem, first, material.chosen)
    material = replace(material, plain=plain)
    return ({} if plain is None else {PLAIN: plain.to_json()}) | {
        EXAMPLES: examples.to_json(),
        "frontier.png": report.to_png(report.frontier(frontiers)),
        "map.png": report.to_png(report.head_map(first, enough(first).k)),
        REPORT: report.report_html(material),
    }


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration of a run with its record, as plain data. Raises InputError."""
    config, record = read_run_config(folder)
    stored = {name: value for name, value in asdict(config).items() if name not in NOT_STORED}
    return stored | {RECORD: dict(record)}


def material_of(run: str | Path, *, search: str | None = None, redact: bool = False, language: str = "en") -> Material:
    """All that a stored run knows of itself; the search that is named comes first. Raises InputError, DamagedRun."""
    stored = StoredRun.read(run)
    first = stored.frontier(search)
    frontiers = (first, *(one for one in stored.frontiers if one is not first))
    return Material(
        tuple(with_effects(stored.path, one) for one in frontiers),
        tuple(_evaluations(stored.path, first.search)),
        examples=_examples(stored.path),
        tradeoff=_tradeoff(stored.path),
        explanation=_explanation(stored.path),
        config=config_of(stored.path),
        hashes=_hashes(stored.path),
        redact=redact,
        plain=_read(stored.path, PLAIN, Plain.from_json),
        edited=_read(stored.path, EDIT, Edited.from_json),
        language=language,
    )


def _evaluations(folder: Path, search: str) -> Iterator[Evaluation]:
    """evaluation.json first, then the others; those of another search behind those of the one that is shown."""
    listed = {name for name in Manifest.read(folder).files if fnmatch(name, "evaluation-*.json")}
    others = listed | {path.name for path in folder.glob("evaluation-*.json")}
    found = [read_evaluation(folder / name) for name in (EVALUATION, *sorted(others)) if holds(folder, name)]
    yield from (one for one in found if one.search == search)
    yield from (one for one in found if one.search != search)


def _examples(folder: Path) -> Examples | None:
    path = folder / EXAMPLES
    if not holds(folder, EXAMPLES):
        return None
    return Examples.from_json(read_text(path).encode(), str(path))


def _read(folder: Path, name: str, read: Callable[[str, str], T]) -> T | None:
    """What a file of the run says; None where it is not there."""
    return read(read_text(folder / name), str(folder / name)) if holds(folder, name) else None


def _tradeoff(folder: Path) -> Tradeoff | None:
    return read_tradeoff(folder / TRADEOFF) if holds(folder, TRADEOFF) else None


def _explanation(folder: Path) -> Explanation | None:
    return read_explanation(folder / NAMES[0]) if holds(folder, NAMES[0]) else None


def _hashes(folder: Path) -> dict[str, str]:
    manifest = Manifest.read(folder)
    names = [name for name in manifest.files if name in FROM or name.startswith("evaluation")]
    manifest.check(names)
    return {name: manifest.files[name].sha256 for name in names}
