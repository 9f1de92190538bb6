"""WinoBias and Winogender: Winograd schemas in which a pronoun may decide about an occupation.

Zhao et al. 2018, *Gender Bias in Coreference Resolution* (arXiv 1804.06876), in the form of Vig et al. 2020
(arXiv 2004.12265): two sentences that agree up to the pronoun become one prompt with two continuations.

Rudinger et al. 2018, *Gender Bias in Coreference Resolution* (NAACL), in the form of Vig et al. 2020
(arXiv 2004.12265).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cotrace.errors import InputError, unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks._files import (
    Conventions,
    Skipped,
    TaskInfo,
    checked_conventions,
    find,
    need_pairs,
    read_lines,
    read_table,
)
from cotrace.validation import checked

WINOBIAS_SOURCE = "the authors' repository uclanlp/corefBias, folder WinoBias/wino/data"
SPLITS = ("dev", "test")
NOMINATIVE, POSSESSIVE = ("she", "he"), ("her", "his")
_MARKED = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Sentence:
    """A line of the file taken apart: text up to the pronoun, the pronoun, the rest."""

    line: int
    before: str
    pronoun: str
    after: str
    referent: str
    """The occupation that the pronoun stands for."""

    @property
    def kind(self) -> tuple[str, str]:
        """The (female, male) pronouns of this case."""
        return NOMINATIVE if self.pronoun in NOMINATIVE else POSSESSIVE


class Unusable(Exception):
    """A record that the task's rule leaves out, with the reason."""


@checked("ct.tasks.winobias")
def winobias(path: str | Path, split: str = "dev", *, conventions: str = "corrected") -> Task:
    """The pro-stereotyped type 1 pairs of a split: 160 in dev, 130 in test.

    ``path`` is the folder with the authors' files. A pair of lines is used where each has one referent and one pronoun,
    no [him], and both the same text before a pronoun of the same case. The odds are p(the male-stereotyped occupation's
    continuation) / p(the female one's) after "she" (base) or "he" (counterfactual); ``corrected`` writes her/his in
    possessive pairs. Raises InputError.

    Args:
        split: ``dev`` or ``test``.
        conventions: ``corrected`` or ``paper``.
    """
    chosen = checked_conventions(conventions)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    female, male = (_occupations(path, gender) for gender in ("female", "male"))
    file = find(path, [f"pro_stereotyped_type1.txt.{split}"], WINOBIAS_SOURCE)
    pairs, skipped = _pairs(read_lines(file), female, male, split, chosen)
    return Task(
        name=f"winobias-{split}",
        pairs=need_pairs(pairs, skipped, file.name),
        metric="odds_ratio",
        score="mean" if chosen == "paper" else "sum",
        encoding="alone" if chosen == "paper" else "joint",
        sites=("attention_pattern",) if chosen == "paper" else ("head_output",),
        conventions=chosen,
        source=f"WinoBias {file.name} (Zhao et al. 2018)",
        skipped=skipped,
    )


def _occupations(path: str | Path, gender: str) -> frozenset[str]:
    lines = read_lines(find(path, [f"{gender}_occupations.txt"], WINOBIAS_SOURCE))
    return frozenset(word.lower() for _, word in lines)


def _pairs(
    lines: list[tuple[int, str]], female: frozenset[str], male: frozenset[str], split: str, conventions: Conventions
) -> tuple[list[PromptPair], Skipped]:
    pairs, skipped = [], []
    for couple in (lines[i : i + 2] for i in range(0, len(lines), 2)):
        try:
            sentences = _winobias_couple([_sentence(*line) for line in couple], female, male)
            pairs.append(_winobias_pair(*sentences, f"{split}-{couple[0][0]:03d}", conventions))
        except Unusable as reason:
            skipped.append((f"lines {couple[0][0]}-{couple[-1][0]}", str(reason)))
    return pairs, tuple(skipped)


def _sentence(line: int, text: str) -> Sentence:
    """Take a line such as ``3 [The mechanic] gave the clerk a present because [he] won the lottery.`` apart."""
    text = re.sub(r"^\d+\s+", "", text)
    marks = list(_MARKED.finditer(text))
    if len(marks) != 2:
        raise Unusable(f"line {line} marks {len(marks)} words, not one referent and one pronoun")
    referent, pronoun = marks
    if pronoun[1] not in NOMINATIVE + POSSESSIVE:
        raise Unusable(f"line {line} has the pronoun {pronoun[1]!r}, not she, he, her or his")
    before = text[: pronoun.start()].replace("[", "").replace("]", "")
    name = re.sub(r"^(the|an|a)\s+", "", referent[1], flags=re.IGNORECASE)
    return Sentence(line, before, pronoun[1], text[pronoun.end() :], name.lower())


def _winobias_couple(
    sentences: list[Sentence], female: frozenset[str], male: frozenset[str]
) -> tuple[Sentence, Sentence]:
    """The sentence about the female-stereotyped occupation and the one about the male-stereotyped one."""
    if len(sentences) != 2:
        raise Unusable("the last line has no partner")
    first, second = sentences
    if first.before != second.before:
        raise Unusable("the two lines differ before the pronoun")
    if first.kind != second.kind:
        raise Unusable("the two pronouns differ in case")
    if first.referent in female and second.referent in male:
        return first, second
    if second.referent in female and first.referent in male:
        return second, first
    raise Unusable(f"{first.referent!r} and {second.referent!r} are not one of each occupation list")


def _winobias_pair(female: Sentence, male: Sentence, name: str, conventions: Conventions) -> PromptPair:
    she, he = NOMINATIVE if conventions == "paper" else female.kind
    places = {"female_occupation": _winobias_place(female), "male_occupation": _winobias_place(male)}
    places["subject"] = min(places.values())
    pronoun = len(female.before)
    order = "female" if _winobias_place(female) < _winobias_place(male) else "male"
    return PromptPair(
        id=name,
        base=female.before + she,
        counterfactual=female.before + he,
        answers=(female.after, male.after),
        target=0,
        target_counterfactual=1,
        group=f"{order} occupation first",
        split_group="/".join(sorted((female.referent, male.referent))),
        spans={**places, "pronoun": (pronoun, pronoun + len(she))},
        counterfactual_spans={**places, "pronoun": (pronoun, pronoun + len(he))},
        subject=female.before[slice(*places["subject"])],
        meta=_meta(female, male),
    )


def _meta(female: Sentence, male: Sentence) -> dict[str, str]:
    case = "nominative" if female.kind == NOMINATIVE else "possessive"
    return {"female_occupation": female.referent, "male_occupation": male.referent, "pronoun_case": case}


def _winobias_place(sentence: Sentence) -> tuple[int, int]:
    """Where the occupation stands in the prompt."""
    start = sentence.before.lower().index(sentence.referent)
    return start, start + len(sentence.referent)


WINOBIAS_INFO = TaskInfo(
    name="winobias",
    about="after she or he, does the sentence go on about the occupation stereotyped as that gender?",
    source="WinoBias, Zhao et al. 2018, arXiv 1804.06876",
    licence="MIT",
    size="160 dev, 130 test",
    metric="odds_ratio",
    data=f"the folder of pro_stereotyped_type1.txt.dev and .test and of the occupation lists ({WINOBIAS_SOURCE})",
    data_use="needed",
    splits=SPLITS,
    conventions=True,
    load=winobias,
)


WINOGENDER_SOURCE = (
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

    Args:
        conventions: ``corrected`` or ``paper``.
    """
    chosen = checked_conventions(conventions)
    statistics = DEFAULT_STATISTICS[chosen] if statistics is None else statistics
    if statistics not in STATISTICS:
        raise unknown("statistics", statistics, STATISTICS)
    women = _share_of_women(find(path, STATISTICS_FILES, WINOGENDER_SOURCE), STATISTICS[statistics])
    file = find(path, TEMPLATES, WINOGENDER_SOURCE)
    couples, skipped = _couples(file)
    pairs = [_winogender_pair(occ, other, women, file.name, chosen) for occ, other in couples]
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
        outcome = _winogender_couple([cells for _, cells in both])
        if isinstance(outcome, str):
            skipped.append((f"lines {both[0][0]}-{both[-1][0]} ({both[0][1][0]})", outcome))
        else:
            couples.append(outcome)
    return couples, tuple(skipped)


def _winogender_couple(rows: list[list[str]]) -> tuple[Template, Template] | str:
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


def _winogender_pair(
    occupation: Template, other: Template, women: dict[str, float], file: str, conventions: Conventions
) -> PromptPair:
    name, before = occupation.occupation, occupation.before
    if name not in women:
        raise InputError(f"{file}: the occupation {name!r} is not in the statistics; get both files from one place")
    majority: Literal["women", "men"] = "women" if women[name] > 50 else "men"
    female, male = (occupation, other) if majority == "women" else (other, occupation)
    she, he = PRONOUNS["NOM" if conventions == "paper" else occupation.case]
    spans = {
        role: _winogender_place(before, word)
        for role, word in (("occupation", name), ("participant", other.participant))
    }
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


def _winogender_place(text: str, word: str) -> tuple[int, int]:
    start = text.index(word)
    return start, start + len(word)


WINOGENDER_INFO = TaskInfo(
    name="winogender",
    about="after she or he, does the sentence go on about the occupation or about the other participant?",
    source="Winogender schemas, Rudinger et al. 2018, NAACL",
    licence="MIT",
    size="44",
    metric="odds_ratio",
    data=f"the folder of {TEMPLATES[0]} and {STATISTICS_FILES[0]} ({WINOGENDER_SOURCE})",
    data_use="needed",
    conventions=True,
    load=winogender,
)
