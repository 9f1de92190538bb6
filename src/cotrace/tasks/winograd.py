"""WinoBias and Winogender: Winograd schemas in which a pronoun may decide about an occupation.

Zhao et al. 2018, *Gender Bias in Coreference Resolution* (arXiv 1804.06876), in the form of Vig et al. 2020
(arXiv 2004.12265): two sentences that agree up to the pronoun become one prompt with two continuations.

Rudinger et al. 2018, *Gender Bias in Coreference Resolution* (NAACL), in the form of Vig et al. 2020
(arXiv 2004.12265).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotrace.errors import InputError, unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks._files import (
    Conventions,
    Skipped,
    TaskInfo,
    Unusable,
    checked_conventions,
    couples_of,
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


def _task(
    name: str, pairs: list[PromptPair], skipped: Skipped, file: Path, conventions: Conventions, source: str
) -> Task:
    """The pairs as a task of the paper's, or of its corrected form. Raises InputError where none could be used."""
    paper = conventions == "paper"
    return Task(
        name=name,
        pairs=need_pairs(pairs, skipped, file.name),
        metric="odds_ratio",
        score="mean" if paper else "sum",
        encoding="alone" if paper else "joint",
        sites=("attention_pattern" if paper else "head_output",),
        conventions=conventions,
        source=source,
        skipped=skipped,
    )


def _pair(
    name: str,
    before: str,
    pronouns: tuple[str, str],
    answers: tuple[str, str],
    places: dict[str, tuple[int, int]],
    **fields: Any,
) -> PromptPair:
    """Text up to the pronoun, which is the female one in the base prompt; the subject is what stands first."""
    she, he = pronouns
    places = {**places, "subject": min(places.values())}
    return PromptPair(
        id=name,
        base=before + she,
        counterfactual=before + he,
        answers=answers,
        target=0,
        target_counterfactual=1,
        spans={**places, "pronoun": (len(before), len(before + she))},
        counterfactual_spans={**places, "pronoun": (len(before), len(before + he))},
        subject=before[slice(*places["subject"])],
        **fields,
    )


def _place(text: str, word: str) -> tuple[int, int]:
    """Where the word stands first."""
    start = text.index(word)
    return start, start + len(word)


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

    def made(couple: Sequence[tuple[int, str]]) -> PromptPair:
        sentences = _winobias_couple([_sentence(*line) for line in couple], female, male)
        return _winobias_pair(*sentences, f"{split}-{couple[0][0]:03d}", chosen)

    pairs, skipped = couples_of(read_lines(file), made, lambda line: "")
    source = f"WinoBias {file.name} (Zhao et al. 2018)"
    return _task(f"winobias-{split}", pairs, skipped, file, chosen, source)


def _occupations(path: str | Path, gender: str) -> frozenset[str]:
    lines = read_lines(find(path, [f"{gender}_occupations.txt"], WINOBIAS_SOURCE))
    return frozenset(word.lower() for _, word in lines)


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
    places = {"female_occupation": _winobias_place(female), "male_occupation": _winobias_place(male)}
    order = "female" if places["female_occupation"] < places["male_occupation"] else "male"
    return _pair(
        name,
        female.before,
        NOMINATIVE if conventions == "paper" else female.kind,
        (female.after, male.after),
        places,
        group=f"{order} occupation first",
        split_group="/".join(sorted((female.referent, male.referent))),
        meta=_meta(female, male),
    )


def _meta(female: Sentence, male: Sentence) -> dict[str, str]:
    case = "nominative" if female.kind == NOMINATIVE else "possessive"
    return {"female_occupation": female.referent, "male_occupation": male.referent, "pronoun_case": case}


def _winobias_place(sentence: Sentence) -> tuple[int, int]:
    """Return the place of the occupation in the prompt."""
    return _place(sentence.before.lower(), sentence.referent)


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
    couples, skipped = couples_of(read_table(file, columns=4), _winogender_couple, lambda cells: f" ({cells[0]})")
    pairs = [_winogender_pair(occ, other, women, file.name, chosen) for occ, other in couples]
    source = f"Winogender {file.name} (Rudinger et al. 2018), statistics {statistics}"
    return _task("winogender", pairs, skipped, file, chosen, source)


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


def _winogender_couple(rows: Sequence[tuple[int, list[str]]]) -> tuple[Template, Template]:
    """The item's two sentences, the occupation's first. Raises Unusable."""
    templates = [template for _, cells in rows if (template := _template(cells))]
    if len(rows) != 2 or len(templates) != 2:
        raise Unusable("needs two sentences with one pronoun each, nominative or possessive")
    first, second = templates
    if first.about_occupation == second.about_occupation:
        raise Unusable("both sentences are about the same person")
    if (first.occupation, first.before) != (second.occupation, second.before):
        raise Unusable("the two sentences differ before the pronoun")
    if first.case != second.case:
        raise Unusable("the two pronouns differ in case")
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
    majority = "women" if women[name] > 50 else "men"
    female, male = (occupation, other) if majority == "women" else (other, occupation)
    return _pair(
        name,
        before,
        PRONOUNS["NOM" if conventions == "paper" else occupation.case],
        (female.after, male.after),
        {"occupation": _place(before, name), "participant": _place(before, other.participant)},
        group=f"mostly {majority}",
        split_group=name,
        meta={"occupation": name, "participant": other.participant, "percent_women": women[name]},
    )


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
