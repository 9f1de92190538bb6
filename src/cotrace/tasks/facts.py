"""Facts, occupations and factual gender: CounterFact, Professions, and bias told from knowledge.

Meng et al. 2022, *Locating and Editing Factual Associations in GPT* (arXiv 2202.05262). Read from the authors'
counterfact.json, or from the hub's table of the same 21,919 facts (one prompt a row).

Templates and words of Vig et al. 2020 (arXiv 2004.12265), in the selection that Yan et al. 2026 (arXiv 2606.03085) use:
17 templates, 130 occupations stereotyped as male and 29 as female.

Veloso and Schuetze 2026, *GKnow: Measuring the Entanglement of Gender Bias and Factual Gender* (arXiv 2605.12299), tell
a stereotype from a word that means a gender, and find both entangled. Generated; the words are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from cotrace.errors import InputError
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks._files import (
    Skipped,
    TaskInfo,
    checked_conventions,
    find,
    generated,
    hub_rows,
    need_pairs,
    read_json,
    read_lines,
)
from cotrace.validation import checked

SOURCE = "the authors' page rome.baulab.info (counterfact.json)"
HUB = ("NeelNanda/counterfact-tracing", "9294ca79fb39be5b28cf81aef7911a9b7fb3f66a")
"""Data set and pinned revision on the hub."""
NOISE_STD = 0.6045
"""Standard deviation of the noise on the prompt's embeddings in the paper's code (Yan et al. 2026)."""


@checked("ct.tasks.counterfact")
def counterfact(
    path: str | Path | None = None, *, conventions: str = "corrected", leading_space: bool | None = None
) -> Task:
    """Facts with one answer, the true one; the donor is Gaussian noise on the prompt's embeddings.

    ``path`` is the folder with counterfact.json, or None for the hub's table. With one answer the odds are
    1 / p(answer), so the effect is p_base / p_z - 1. ``corrected`` gives the answer its leading space, ``paper`` does
    not; ``leading_space`` overrides either. Records that lack a field are listed in ``skipped``. Raises InputError.

    Args:
        conventions: ``corrected`` or ``paper``.
    """
    chosen = checked_conventions(conventions)
    space = chosen == "corrected" if leading_space is None else leading_space
    records, where = _records(path)
    pairs, skipped = _pairs(records, " " if space else "")
    return Task(
        name="counterfact",
        pairs=need_pairs(pairs, skipped, where),
        metric="odds_ratio",
        score="mean" if chosen == "paper" else "sum",
        encoding="joint" if chosen == "corrected" and space else "alone",
        sites=("mlp_coordinate",),
        donors=f"noise={NOISE_STD}",
        conventions=chosen,
        source=f"CounterFact {where} (Meng et al. 2022), answers {'with' if space else 'without'} leading space",
        skipped=skipped,
    )


def _records(path: str | Path | None) -> tuple[Iterable[object], str]:
    if path is None:
        return hub_rows(*HUB, task="counterfact"), f"{HUB[0]} at {HUB[1][:12]}"
    file = find(path, ["counterfact.json"], SOURCE)
    records = read_json(file, SOURCE)
    if not isinstance(records, list):
        raise InputError(f"{file.name}: holds no list of records; get the file again from {SOURCE}")
    return records, file.name


def _pairs(records: Iterable[object], space: str) -> tuple[list[PromptPair], Skipped]:
    pairs, skipped, seen = [], [], set[str]()
    for i, record in enumerate(records):
        try:
            pair = _pair(_fields(record), i, space)
            if pair.id in seen:
                raise ValueError(f"its id {pair.id} stands twice")
            seen.add(pair.id)
            pairs.append(pair)
        except (KeyError, TypeError, ValueError) as error:
            why = f"has no {error}" if isinstance(error, KeyError) else str(error)
            skipped.append((f"record {i + 1}", why))
    return pairs, tuple(skipped)


def _fields(record: object) -> Mapping[str, Any]:
    """The fields of a record in the hub table's names, from either form."""
    record = _object(record, "it")
    if record.get("requested_rewrite") is None:
        return record
    rewrite = _object(record["requested_rewrite"], "its requested_rewrite")
    before, gap, after = _text(rewrite, "prompt").partition("{}")
    if not gap:
        raise ValueError("its prompt has no place {} for the subject")
    return {
        "id": record.get("case_id"),
        "relation_prefix": before,
        "relation_suffix": after,
        "subject": rewrite["subject"],
        "target_true": _object(rewrite["target_true"], "its target_true")["str"],
        "target_false": _object(rewrite["target_new"], "its target_new")["str"],
        "relation_id": rewrite.get("relation_id"),
    }


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is of type {type(value).__name__}, not an object")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    if not isinstance(fields[name], str):
        raise TypeError(f"its {name} is of type {type(fields[name]).__name__}, not text")
    text: str = fields[name]
    return text


def _pair(fields: Mapping[str, Any], index: int, space: str) -> PromptPair:
    before, subject, after = (_text(fields, name) for name in ("relation_prefix", "subject", "relation_suffix"))
    answer = _text(fields, "target_true").strip()
    if not subject or not answer:
        raise ValueError("its subject or its answer is empty")
    number, relation = fields.get("id"), fields.get("relation_id")
    return PromptPair(
        id=str(index if number is None else number),
        base=before + subject + after,
        answers=(space + answer,),
        group=None if relation is None else _text(fields, "relation_id"),
        split_group=subject,
        spans={"subject": (len(before), len(before) + len(subject))},
        subject=subject,
        meta={"false_answer": _text(fields, "target_false").strip(), "relation": before + "{}" + after},
    )


INFO = TaskInfo(
    name="counterfact",
    about="facts about a subject; what makes the true answer likely?",
    source="CounterFact, Meng et al. 2022, arXiv 2202.05262",
    licence="MIT",
    size="21919",
    metric="odds_ratio",
    data=f"the folder of counterfact.json ({SOURCE}); without it {HUB[0]} is loaded from the Hugging Face hub",
    data_use="optional",
    conventions=True,
    load=counterfact,
)


PROFESSIONS_SOURCE = (
    "the data files of Yan et al. 2026 (the words are in sebastianGehrmann/CausalMediationAnalysis, experiment_data)"
)
ANSWERS = (" he", " she")
COUNTERFACTUAL = {"male": "woman", "female": "man"}


@checked("ct.tasks.professions")
def professions(path: str | Path, *, conventions: str = "corrected") -> Task:
    """17 x (130 + 29) = 2,703 pairs: male occupations first, each gender template by template.

    ``path`` is the folder with templates.txt, male_occupations.txt and female_occupations.txt. The target is the
    stereotypical pronoun, so the odds are p(other pronoun) / p(stereotypical pronoun); the counterfactual of a male
    word is "woman", that of a female one "man". Both conventions give the same pairs. Raises InputError.
    """
    chosen = checked_conventions(conventions)
    file = find(path, ["templates.txt"], PROFESSIONS_SOURCE)
    templates = [_checked(template, f"{file.name}:{line}") for line, template in read_lines(file)]
    words = {gender: _words(path, gender) for gender in ("male", "female")}
    return Task(
        name="professions",
        pairs=tuple(
            _professions_pair(number, template, word, gender)
            for gender, listed in words.items()
            for number, template in enumerate(templates, start=1)
            for word in listed
        ),
        metric="odds_ratio",
        score="mean" if chosen == "paper" else "sum",
        encoding="alone" if chosen == "paper" else "joint",
        sites=("mlp_coordinate",),
        conventions=chosen,
        source="Professions (Vig et al. 2020)",
    )


def _words(path: str | Path, gender: str) -> list[str]:
    return [word for _, word in read_lines(find(path, [f"{gender}_occupations.txt"], PROFESSIONS_SOURCE))]


def _checked(template: str, where: str) -> str:
    if template.count("{}") != 1:
        raise InputError(f"{where}: the template needs one {{}} where the occupation goes, as in 'The {{}} said that'")
    return template


def _professions_pair(number: int, template: str, word: str, gender: str) -> PromptPair:
    start, other = template.index("{}"), COUNTERFACTUAL[gender]
    male = gender == "male"
    return PromptPair(
        id=f"{number:02d}-{word.replace(' ', '_')}",
        base=template.replace("{}", word),
        counterfactual=template.replace("{}", other),
        answers=ANSWERS,
        target=0 if male else 1,
        target_counterfactual=1 if male else 0,
        group=gender,
        split_group=word,
        spans={"subject": (start, start + len(word))},
        counterfactual_spans={"subject": (start, start + len(other))},
        subject=word,
        meta={"occupation": word, "template": template},
    )


PROFESSIONS_INFO = TaskInfo(
    name="professions",
    about="he or she after an occupation, against the same sentence about a woman or a man",
    source="Professions, Vig et al. 2020, arXiv 2004.12265",
    size="2703",
    metric="odds_ratio",
    data=f"the folder of templates.txt, male_occupations.txt and female_occupations.txt ({PROFESSIONS_SOURCE})",
    data_use="needed",
    conventions=True,
    load=professions,
)


WORDS = (
    ("mother", "father"),
    ("sister", "brother"),
    ("daughter", "son"),
    ("wife", "husband"),
    ("woman", "man"),
    ("girl", "boy"),
    ("aunt", "uncle"),
    ("queen", "king"),
    ("princess", "prince"),
    ("grandmother", "grandfather"),
    ("bride", "groom"),
    ("niece", "nephew"),
    ("nun", "monk"),
    ("lady", "gentleman"),
    ("waitress", "waiter"),
    ("stepmother", "stepfather"),
)
"""A word that means a woman, and its counterpart that means a man."""
OPENINGS = ("The", "Yesterday the", "We heard that the", "In the story the")
ENDINGS = ("said that", "was late because", "went home when", "smiled because", "stayed until", "left before")
FACTUAL_GENDER_ANSWERS = (" she", " he")


@dataclass(frozen=True)
class Sentence:
    """One prompt; ``man`` is 0 for the word that means a woman, 1 for its counterpart."""

    opening: str
    words: tuple[str, str]
    man: int
    ending: str

    def text(self, man: int) -> str:
        return f"{self.opening} {self.words[man]} {self.ending}"

    def span(self, man: int) -> tuple[int, int]:
        return len(self.opening) + 1, len(self.opening) + 1 + len(self.words[man])


@checked("ct.tasks.factual_gender")
def factual_gender(*, size: int = 120, seed: int = 0) -> Task:
    """Prompts about a person whose word means a gender, in equal parts; the counterfactual has the other word.

    The odds are p(wrong pronoun) / p(right pronoun). As a constraint or a side task it says what a set that moves a
    gender *bias* does to plain knowledge: ``ct.Constraint(ct.side_problem(problem, ct.tasks.factual_gender()), 0.5)``.
    ``group`` is the word's gender. Raises InputError.

    Args:
        size: Number of pairs.
        seed: Seed of the pairs.
    """
    return generated("factual_gender", size, seed, _sentence, _factual_gender_pair)


def _sentence(random: Random, index: int) -> Sentence:
    return Sentence(random.choice(OPENINGS), random.choice(WORDS), index % 2, random.choice(ENDINGS))


def _factual_gender_pair(sentence: Sentence, name: str) -> PromptPair:
    man = sentence.man
    return PromptPair(
        id=name,
        base=sentence.text(man),
        counterfactual=sentence.text(1 - man),
        answers=FACTUAL_GENDER_ANSWERS,
        target=man,
        target_counterfactual=1 - man,
        group=("female", "male")[man],
        split_group="/".join(sentence.words),
        spans={"subject": sentence.span(man)},
        counterfactual_spans={"subject": sentence.span(1 - man)},
        subject=sentence.words[man],
    )


FACTUAL_GENDER_INFO = TaskInfo(
    name="factual_gender",
    about="she or he for a word that means a gender, which a bias is not",
    source="after GKnow, Veloso and Schuetze 2026, arXiv 2605.12299; generated",
    licence="MIT (generated prompts)",
    size="120 (size=)",
    metric="log_odds",
    load=factual_gender,
)
