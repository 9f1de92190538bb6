"""WinoBias: does the pronoun decide which of two occupations a sentence goes on about?

Zhao et al. 2018, *Gender Bias in Coreference Resolution* (arXiv 1804.06876), in the form of Vig et al. 2020
(arXiv 2004.12265): two sentences that agree up to the pronoun become one prompt with two continuations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cotrace.arguments import checked
from cotrace.errors import unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.files import Conventions, Skipped, checked_conventions, find, need_pairs, read_lines
from cotrace.tasks.info import TaskInfo

SOURCE = "the authors' repository uclanlp/corefBias, folder WinoBias/wino/data"
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
    """
    chosen = checked_conventions(conventions)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    female, male = (_occupations(path, gender) for gender in ("female", "male"))
    file = find(path, [f"pro_stereotyped_type1.txt.{split}"], SOURCE)
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
    lines = read_lines(find(path, [f"{gender}_occupations.txt"], SOURCE))
    return frozenset(word.lower() for _, word in lines)


def _pairs(
    lines: list[tuple[int, str]], female: frozenset[str], male: frozenset[str], split: str, conventions: Conventions
) -> tuple[list[PromptPair], Skipped]:
    pairs, skipped = [], []
    for couple in (lines[i : i + 2] for i in range(0, len(lines), 2)):
        try:
            sentences = _couple([_sentence(*line) for line in couple], female, male)
            pairs.append(_pair(*sentences, f"{split}-{couple[0][0]:03d}", conventions))
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


def _couple(sentences: list[Sentence], female: frozenset[str], male: frozenset[str]) -> tuple[Sentence, Sentence]:
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


def _pair(female: Sentence, male: Sentence, name: str, conventions: Conventions) -> PromptPair:
    she, he = NOMINATIVE if conventions == "paper" else female.kind
    places = {"female_occupation": _place(female), "male_occupation": _place(male)}
    places["subject"] = min(places.values())
    pronoun = len(female.before)
    order = "female" if _place(female) < _place(male) else "male"
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


def _place(sentence: Sentence) -> tuple[int, int]:
    """Where the occupation stands in the prompt."""
    start = sentence.before.lower().index(sentence.referent)
    return start, start + len(sentence.referent)


INFO = TaskInfo(
    name="winobias",
    about="after she or he, does the sentence go on about the occupation stereotyped as that gender?",
    source="WinoBias, Zhao et al. 2018, arXiv 1804.06876",
    licence="MIT",
    size="160 dev, 130 test",
    metric="odds_ratio",
    data=f"the folder of pro_stereotyped_type1.txt.dev and .test and of the occupation lists ({SOURCE})",
    data_use="needed",
    splits=SPLITS,
    conventions=True,
    load=winobias,
)
