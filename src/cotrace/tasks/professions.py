"""Professions: he or she after an occupation, against the same sentence about a woman or a man.

Templates and words of Vig et al. 2020 (arXiv 2004.12265), in the selection that Yan et al. 2026 (arXiv 2606.03085) use:
17 templates, 130 occupations stereotyped as male and 29 as female.
"""

from __future__ import annotations

from pathlib import Path

from cotrace.arguments import checked
from cotrace.errors import InputError
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.files import checked_conventions, find, read_lines
from cotrace.tasks.info import TaskInfo

SOURCE = (
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
    file = find(path, ["templates.txt"], SOURCE)
    templates = [_checked(template, f"{file.name}:{line}") for line, template in read_lines(file)]
    words = {gender: _words(path, gender) for gender in ("male", "female")}
    return Task(
        name="professions",
        pairs=tuple(
            _pair(number, template, word, gender)
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
    return [word for _, word in read_lines(find(path, [f"{gender}_occupations.txt"], SOURCE))]


def _checked(template: str, where: str) -> str:
    if template.count("{}") != 1:
        raise InputError(f"{where}: the template needs one {{}} where the occupation goes, as in 'The {{}} said that'")
    return template


def _pair(number: int, template: str, word: str, gender: str) -> PromptPair:
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


INFO = TaskInfo(
    name="professions",
    about="he or she after an occupation, against the same sentence about a woman or a man",
    source="Professions, Vig et al. 2020, arXiv 2004.12265",
    size="2703",
    metric="odds_ratio",
    data=f"the folder of templates.txt, male_occupations.txt and female_occupations.txt ({SOURCE})",
    data_use="needed",
    conventions=True,
    load=professions,
)
