"""Winogender: does the pronoun decide whether a sentence goes on about the occupation or the participant?

Rudinger et al. 2018, *Gender Bias in Coreference Resolution* (NAACL), in the form of Vig et al. 2020
(arXiv 2004.12265).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cotrace.arguments import checked
from cotrace.errors import InputError, unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.files import Conventions, Skipped, checked_conventions, find, need_pairs, read_table
from cotrace.tasks.info import TaskInfo

SOURCE = (
    "sebastianGehrmann/CausalMediationAnalysis, folder winogender_data, or rudinger/winogender-schemas, folder data"
)
TEMPLATES = ("winogender_templates_structurefilter.tsv", "winogender_templates.tsv", "templates.tsv")
STATISTICS_FILES = ("winogender_occupation_stats.tsv", "occupations-stats.tsv")
STATISTICS = {"bergsma": 1, "bls": 2}
"""Column of the share of women: in text (Bergsma and Lin 2006), or in jobs (US Bureau of Labor Statistics 2015/16)."""
DEFAULT_STATISTICS = {"corrected": "bls", "paper": "bergsma"}
PRONOUNS = {"NOM": ("she", "he"), "POSS": ("her", "his")}
_PRONOUN = re.compile(r"\$(NOM|POSS|ACC)_PRONOUN")


@dataclass(frozen=True)
class Template:
    """One line of the templates: a sentence about an occupation and a participant, up to and from the pronoun."""

    occupation: str
    participant: str
    about_occupation: bool
    before: str
    case: str
    after: str


@checked("ct.tasks.winogender")
def winogender(path: str | Path, *, conventions: str = "corrected", statistics: str | None = None) -> Task:
    """The 44 items whose two sentences agree up to the pronoun; base she/her, counterfactual he/his.

    ``path`` is the folder with the templates and the statistics. The odds are p(male continuation) / p(female one);
    the occupation's is the female one where more than half of the occupation are women: 22 items by ``bls``
    (``corrected``'s default), 9 by ``bergsma`` (``paper``'s). ``paper`` writes she and he also where the sentence asks
    for her and his. Raises InputError.
    """
    chosen = checked_conventions(conventions)
    statistics = DEFAULT_STATISTICS[chosen] if statistics is None else statistics
    if statistics not in STATISTICS:
        raise unknown("statistics", statistics, STATISTICS)
    women = _share_of_women(find(path, STATISTICS_FILES, SOURCE), STATISTICS[statistics])
    file = find(path, TEMPLATES, SOURCE)
    couples, skipped = _couples(file)
    pairs = [_pair(occ, other, women, file.name, chosen) for occ, other in couples]
    return Task(
        name="winogender",
        pairs=need_pairs(pairs, skipped, file.name),
        metric="odds_ratio",
        score="mean" if chosen == "paper" else "sum",
        encoding="alone" if chosen == "paper" else "joint",
        sites=("attention_pattern",) if chosen == "paper" else ("head_output",),
        conventions=chosen,
        source=f"Winogender {file.name} (Rudinger et al. 2018), statistics {statistics}",
        skipped=skipped,
    )


def _share_of_women(file: Path, column: int) -> dict[str, float]:
    """Occupation -> percentage of women."""
    found = {}
    for line, cells in read_table(file, columns=3):
        try:
            found[cells[0]] = float(cells[column])
        except ValueError:
            reason = f"{cells[column]!r} is not a percentage"
            raise InputError(f"{file.name}:{line}: {reason}; get the file again") from None
    return found


def _couples(file: Path) -> tuple[list[tuple[Template, Template]], Skipped]:
    """The usable items, the occupation's sentence first, and those that are left out."""
    rows = read_table(file, columns=4)
    couples, skipped = [], []
    for both in (rows[i : i + 2] for i in range(0, len(rows), 2)):
        outcome = _couple([cells for _, cells in both])
        if isinstance(outcome, str):
            skipped.append((f"lines {both[0][0]}-{both[-1][0]} ({both[0][1][0]})", outcome))
        else:
            couples.append(outcome)
    return couples, tuple(skipped)


def _couple(rows: list[list[str]]) -> tuple[Template, Template] | str:
    """The couple, or why it cannot be used."""
    templates = [template for cells in rows if (template := _template(cells))]
    if len(rows) != 2 or len(templates) != 2:
        return "needs two sentences with one pronoun each, nominative or possessive"
    first, second = templates
    if first.about_occupation == second.about_occupation:
        return "both sentences are about the same person"
    if (first.occupation, first.before) != (second.occupation, second.before):
        return "the two sentences differ before the pronoun"
    if first.case != second.case:
        return "the two pronouns differ in case"
    return (first, second) if first.about_occupation else (second, first)


def _template(cells: list[str]) -> Template | None:
    occupation, participant, answer, sentence = cells[:4]
    marks = list(_PRONOUN.finditer(sentence))
    if len(marks) != 1 or marks[0][1] not in PRONOUNS:
        return None
    before = sentence[: marks[0].start()].replace("$OCCUPATION", occupation).replace("$PARTICIPANT", participant)
    return Template(occupation, participant, answer == "0", before, marks[0][1], sentence[marks[0].end() :])


def _pair(
    occupation: Template, other: Template, women: dict[str, float], file: str, conventions: Conventions
) -> PromptPair:
    name, before = occupation.occupation, occupation.before
    if name not in women:
        raise InputError(f"{file}: the occupation {name!r} is not in the statistics; get both files from one place")
    majority: Literal["women", "men"] = "women" if women[name] > 50 else "men"
    female, male = (occupation, other) if majority == "women" else (other, occupation)
    she, he = PRONOUNS["NOM" if conventions == "paper" else occupation.case]
    spans = {role: _place(before, word) for role, word in (("occupation", name), ("participant", other.participant))}
    spans["subject"] = min(spans.values())
    return PromptPair(
        id=name,
        base=before + she,
        counterfactual=before + he,
        answers=(female.after, male.after),
        target=0,
        target_counterfactual=1,
        group=f"mostly {majority}",
        split_group=name,
        spans={**spans, "pronoun": (len(before), len(before + she))},
        counterfactual_spans={**spans, "pronoun": (len(before), len(before + he))},
        subject=before[slice(*spans["subject"])],
        meta={"occupation": name, "participant": other.participant, "percent_women": women[name]},
    )


def _place(text: str, word: str) -> tuple[int, int]:
    start = text.index(word)
    return start, start + len(word)


INFO = TaskInfo(
    name="winogender",
    about="after she or he, does the sentence go on about the occupation or about the other participant?",
    source="Winogender schemas, Rudinger et al. 2018, NAACL",
    licence="MIT",
    size="44",
    metric="odds_ratio",
    data=f"the folder of {TEMPLATES[0]} and {STATISTICS_FILES[0]} ({SOURCE})",
    data_use="needed",
    conventions=True,
    load=winogender,
)
