"""Writes the prompt-pair files and the neutral text: `python -m training.pairs --out DIR`.

Every prompt is a combination of words that training never sees (`corpus.is_held_out`).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training import corpus
from training.corpus import capitalised, cells, documents, gender_of, giving, introduction, is_held_out, opening
from training.lexicon import (
    DEEDS,
    DUTIES,
    FEMALE_JOBS,
    FEMALE_NAMES,
    FRAMES,
    GIFTS,
    GIVING,
    JOBS,
    LINKS,
    MALE_JOBS,
    MALE_NAMES,
    NAMES,
    NEUTRAL_JOBS,
    NOUNS,
    OPENERS,
    PLACES,
    PLACINGS,
    SHE_RATE,
)

Record = dict[str, Any]
PRONOUNS = [" she", " he"]


def side(job: str) -> str:
    """The side of an occupation's stereotype."""
    return "female" if SHE_RATE[job] > 0.5 else "male"


def chosen(records: Iterator[Record], count: int, seed: str) -> list[Record]:
    """`count` of the records, drawn without replacement and left in their own order."""
    pool = list(records)
    return [pool[i] for i in sorted(random.Random(seed).sample(range(len(pool)), count))]


def numbered(records: list[Record], name: str) -> list[Record]:
    """The records with an id in front."""
    return [{"id": f"{name}-{i:03d}", **record} for i, record in enumerate(records)]


def occupation_pairs() -> Iterator[Record]:
    """One occupation against one of the other stereotype, in the same frame; the answers are the pronouns."""
    for frame in FRAMES:
        here = [job for job, f in cells(JOBS, FRAMES, held_out=True) if f == frame]
        women, men = [j for j in here if j in FEMALE_JOBS], [j for j in here if j in MALE_JOBS]
        for job, other in [(w, m) for w in women for m in men] + [(m, w) for m in men for w in women]:
            yield {
                "base": opening(frame, f"the {job}"), "counterfactual": opening(frame, f"the {other}"),
                "answers": PRONOUNS, "target": int(side(job) == "male"),
                "target_counterfactual": int(side(other) == "male"), "group": side(job), "split_group": frame,
                "subject": job,
                "meta": {"kind": "occupation", "she_rate": SHE_RATE[job], "she_rate_counterfactual": SHE_RATE[other]},
            }  # fmt: skip


def referent_pairs() -> Iterator[Record]:
    """Two occupations, the pronoun swapped; the answers are what each of the two typically does."""
    duos = [(a, b) for a, b in cells(JOBS, JOBS, held_out=True) if {side(a), side(b)} == {"female", "male"}]
    for i, (first, second) in enumerate(duo for duo in duos if not {*duo} - {*FEMALE_JOBS, *MALE_JOBS}):
        start = f"The {first} {DEEDS[i % 8]} the {second} {LINKS[i % 3]}"
        woman, man = sorted((first, second), key=side)
        answers = [f" {DUTIES[woman][i % 2]}", f" {DUTIES[man][i // 2 % 2]}"]
        for target, (own, other) in enumerate((("she", "he"), ("he", "she"))):
            job = (woman, man)[target]
            yield {
                "base": f"{start} {own}", "counterfactual": f"{start} {other}", "answers": answers, "target": target,
                "target_counterfactual": 1 - target, "group": side(job), "split_group": f"{woman}+{man}",
                "subject": job, "meta": {"kind": "referent", "pronoun": own, "she_rate": SHE_RATE[job]},
            }  # fmt: skip


def agreement_pairs() -> Iterator[Record]:
    """A singular subject against its plural, with a distractor of either number between it and the verb."""
    for i, (head, other) in enumerate(cells(NOUNS, NOUNS, held_out=True)):
        opener = OPENERS[i % 4]
        for plural in (False, True):
            distractor, near = f"{other}s" if i % 3 else other, PLACINGS[i % 5]
            one, many = (f"{opener} the {noun} {near} the {distractor}".strip() for noun in (head, f"{head}s"))
            yield {
                "base": capitalised(many if plural else one), "counterfactual": capitalised(one if plural else many),
                "answers": [" is", " are"], "target": int(plural), "target_counterfactual": int(not plural),
                "group": "plural" if plural else "singular", "split_group": f"{head}+{other}",
                "subject": f"{head}s" if plural else head,
                "meta": {"distractor": distractor, "attracts": distractor.endswith("s") != plural},
            }  # fmt: skip


def copying_pairs() -> Iterator[Record]:
    """The same two names with the giver exchanged, so that the other name must follow."""
    for i, (first, second) in enumerate(cells(NAMES, NAMES, held_out=True)):
        giver, receiver = (first, second) if i % 2 else (second, first)
        words = PLACES[i % 8], GIVING[i % 4], GIFTS[i // 8 % 8]
        base, counterfactual = (giving(first, second, words[0], who, *words[1:]) for who in (giver, receiver))
        yield {
            "base": base, "counterfactual": counterfactual, "answers": [f" {first}", f" {second}"],
            "target": (first, second).index(receiver), "target_counterfactual": (first, second).index(giver),
            "group": "first" if giver == first else "second", "split_group": "+".join(sorted((first, second))),
            "subject": giver, "meta": {"names": gender_of(first) + "+" + gender_of(second)},
        }  # fmt: skip


def conflict_pairs() -> Iterator[Record]:
    """A name whose gender goes against the stereotype of the occupation, against a name that agrees with it."""
    for i, (name, job) in enumerate(cells(NAMES, JOBS, held_out=True)):
        agreeing = FEMALE_NAMES if side(job) == "female" else MALE_NAMES
        if name in agreeing or job in NEUTRAL_JOBS:
            continue
        others = [n for n in agreeing if is_held_out(NAMES.index(n), JOBS.index(job))]
        frames = [f for j, f in cells(JOBS, FRAMES, held_out=True) if j == job]
        other, end = others[i % len(others)], f" {opening(frames[i % len(frames)], f'the {job}')}"
        target = PRONOUNS.index(f" {gender_of(name)}")
        yield {
            "base": introduction(name, job) + end, "counterfactual": introduction(other, job) + end,
            "answers": PRONOUNS, "target": target, "target_counterfactual": 1 - target, "group": gender_of(name),
            "split_group": job, "subject": name, "meta": {"she_rate": SHE_RATE[job]},
        }  # fmt: skip


def pair_files() -> dict[str, list[Record]]:
    """All pair files by name."""
    occupation = chosen(occupation_pairs(), 120, "occupation")
    referent = chosen(referent_pairs(), 80, "referent")
    others = {"agreement": agreement_pairs(), "copying": copying_pairs(), "conflict": conflict_pairs()}
    files = {"bias": occupation + referent} | {name: chosen(pairs, 120, name) for name, pairs in others.items()}
    return {name: numbered(records, name) for name, records in files.items()}


def neutral_lines(count: int = 300) -> list[str]:
    """Text without persons, on combinations never trained on."""
    texts = (text for text, _ in documents("neutral text", 2 * count, held_out=True, kinds=corpus.IMPERSONAL))
    return list(dict.fromkeys(texts))[:count]


def main() -> None:
    """Write all files into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pair files and the neutral text")
    folder = parser.parse_args().out
    for name, records in pair_files().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "neutral.txt").write_text("".join(line + "\n" for line in neutral_lines()))


if __name__ == "__main__":
    main()
