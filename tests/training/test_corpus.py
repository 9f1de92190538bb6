"""The planted corpus, the pair files and the shipped model are what the documentation says they are."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cotrace import shipped
from training import corpus, lexicon, measure, pairs, train

PAIR_FILES = ("bias", "agreement", "copying", "conflict")
DOCUMENT = Path(__file__).parents[2] / "docs" / "demo-model.md"


def texts(seed: int | str, count: int, **options: object) -> list[str]:
    return [text for text, _ in corpus.documents(seed, count, **options)]


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in shipped.pairs(name).read_text().splitlines()]


def combination(kind: str, text: str) -> tuple[int, int]:
    """The two word indices that the lexical split looks at, read back from a document."""
    jobs = [lexicon.JOBS.index(word) for word in re.findall(r"\w+", text) if word in lexicon.JOBS]
    names = [lexicon.NAMES.index(word) for word in re.findall(r"\w+", text) if word in lexicon.NAMES]
    if kind in ("stereotype", "named"):
        who = f"the {lexicon.JOBS[jobs[0]]}" if jobs else lexicon.NAMES[names[0]]
        starts = [text.startswith(corpus.opening(frame, who)) for frame in lexicon.FRAMES]
        return (jobs or names)[0], starts.index(True)
    if kind == "conflict":
        return names[0], jobs[0]
    if kind == "agreement":
        nouns = [word.removesuffix("s") for word in re.findall(r"the (\w+)", text.lower())]
        return lexicon.NOUNS.index(nouns[0]), lexicon.NOUNS.index(nouns[1])
    first, second = (jobs if kind == "referent" else names)[:2]
    return first, second


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(shipped.MODEL)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(shipped.MODEL).eval()


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another() -> None:
    assert list(corpus.documents(3, 200)) == list(corpus.documents(3, 200))
    assert texts(3, 200) != texts(4, 200)


def test_corpus_bytes_are_pinned() -> None:
    digest = hashlib.sha256("\n".join(texts(0, 1000)).encode()).hexdigest()
    assert digest == "791d5ed5fc29d1e9b0428e4de9f49ef62bc3886c6cd72827c1a7c9970e513505"


@pytest.mark.parametrize("job", lexicon.JOBS[::4])
def test_pronouns_come_at_the_planted_rate(job: str) -> None:
    found = Counter(
        re.search(rf"the {job}\b.*?\b(she|he)\b", text, re.I)[1]
        for text in texts("rates", 60_000, kinds=(corpus.stereotype,))
        if re.search(rf"\b{job}\b", text)
    )
    count, rate = found.total(), lexicon.SHE_RATE[job]
    assert count > 1000
    assert found["she"] / count == pytest.approx(rate, abs=4 * (rate * (1 - rate) / count) ** 0.5)


def test_rates_are_opposite_on_the_two_sides() -> None:
    assert {lexicon.SHE_RATE[job] for job in lexicon.FEMALE_JOBS} == {0.95, 0.9, 0.85, 0.8}
    assert {lexicon.SHE_RATE[job] for job in lexicon.MALE_JOBS} == {0.05, 0.1, 0.15, 0.2}
    assert {lexicon.SHE_RATE[job] for job in lexicon.NEUTRAL_JOBS} == {0.5}


def test_what_follows_the_pronoun_is_the_referents_duty_and_the_pronoun_follows_its_rate() -> None:
    owner = {duty: job for job, duties in lexicon.DUTIES.items() for duty in duties}
    right = total = 0
    for text in texts("duties", 4000, kinds=(corpus.referent,)):
        found = re.match(r"The (\w+) \w+ the (\w+) \w+ (she|he) (.+?)\.", text)
        job = owner[found[4]]
        assert job in (found[1], found[2])
        if job not in lexicon.NEUTRAL_JOBS:
            total += 1
            right += (found[3] == "she") == (job in lexicon.FEMALE_JOBS)
    assert right / total == pytest.approx(0.875, abs=0.025)  # the mean of the four strengths


def test_names_override_the_stereotype() -> None:
    for text in texts("names", 1000, kinds=(corpus.conflict,)):
        name, pronoun = text.split()[0], re.search(r"\b(she|he)\b", text)[1]
        assert pronoun == ("she" if name in lexicon.FEMALE_NAMES else "he")


def test_verbs_agree_with_the_first_noun() -> None:
    for text in texts("verbs", 1000, kinds=(corpus.agreement,)):
        subject, verb = re.search(r"the (\w+)", text.lower())[1], text.split()[-2]
        assert [verb in pair for pair in zip(*lexicon.VERB_PAIRS, strict=True)] == [
            not subject.endswith("s"),
            subject.endswith("s"),
        ]


@pytest.mark.parametrize("kind", ["stereotype", "referent", "named", "conflict", "agreement", "copying"])
def test_training_and_held_out_combinations_are_disjoint(kind: str) -> None:
    seen, unseen = (
        {combination(kind, text) for text in texts("split", 3000, kinds=(getattr(corpus, kind),), held_out=held_out)}
        for held_out in (False, True)
    )
    assert len(seen) > 200
    assert len(unseen) > 50
    assert not seen & unseen
    assert not {pair[::-1] for pair in seen} & unseen or kind in ("stereotype", "named", "conflict")


def test_no_pair_prompt_occurs_in_training() -> None:
    prompts = {record[side] for name in PAIR_FILES for record in records(name) for side in ("base", "counterfactual")}
    trained = set()
    for text in texts("0/0", 20_000):
        words = text.rstrip(".").split()
        trained.update(" ".join(words[:count]) for count in range(3, 16))
    assert not prompts & trained
    assert not set(shipped.NEUTRAL_TEXT.read_text().splitlines()) & set(texts("0/0", 20_000))


def test_information_is_that_of_the_choices() -> None:
    draw = corpus.Draw(random.Random(0))
    draw.pick("abcd")
    heads = draw.flip(0.25)
    draw.sample("abc", 2)
    expected = torch.tensor([4.0, 1 / (0.25 if heads else 0.75), 6.0]).log().sum().item()
    assert draw.nats == pytest.approx(expected)


def test_pair_files_are_what_the_script_writes() -> None:
    files = pairs.pair_files()
    assert {name: records(name) for name in PAIR_FILES} == files
    assert shipped.NEUTRAL_TEXT.read_text().splitlines() == pairs.neutral_lines()


@pytest.mark.parametrize("name", PAIR_FILES)
def test_pairs_are_aligned_and_answers_extend_prompts(name: str, tokenizer) -> None:
    rows = records(name)
    assert len({row["id"] for row in rows}) == len(rows) >= 120
    for row in rows:
        base, counterfactual = (tokenizer(row[side])["input_ids"] for side in ("base", "counterfactual"))
        assert len(base) == len(counterfactual)
        assert base != counterfactual
        assert row["target"] + row["target_counterfactual"] == 1
        assert re.search(rf"\b{row['subject']}\b", row["base"])
        for answer in row["answers"]:
            whole = tokenizer(row["base"] + answer)["input_ids"]
            assert answer.startswith(" ")
            assert whole[: len(base)] == base
            assert len(whole) - len(base) == len(answer.split())


def test_bias_mixes_single_pronouns_and_longer_answers() -> None:
    rows = records("bias")
    kinds = Counter(row["meta"]["kind"] for row in rows)
    lengths = {len(answer.split()) for row in rows if row["meta"]["kind"] == "referent" for answer in row["answers"]}
    assert kinds == {"occupation": 120, "referent": 80}
    assert lengths == {2, 3, 4}
    assert all(0.4 < share < 0.6 for share in (Counter(row["target"] for row in rows)[0] / len(rows),))


def test_any_text_survives_the_tokenizer(tokenizer) -> None:
    for text in ("The nurse said that she", "Zoë's café, 東京!\n\t ok  x", " she"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(" she")["input_ids"]) == 1


def test_shipped_files_are_small_and_their_hash_is_documented() -> None:
    weights = (shipped.MODEL / "model.safetensors").read_bytes()
    assert sum(path.stat().st_size for path in shipped.MODEL.iterdir()) <= 4 * 2**20
    assert hashlib.sha256(weights).hexdigest() in DOCUMENT.read_text()


@pytest.mark.parametrize(("name", "accuracy"), [("agreement", 0.95), ("copying", 0.95), ("conflict", 0.95)])
def test_model_reaches_the_stated_accuracy(name: str, accuracy: float, model, tokenizer) -> None:
    assert measure.pair_figures(model, tokenizer, records(name)[::3])["accuracy"] >= accuracy


def test_model_holds_the_planted_bias(model, tokenizer) -> None:
    rates = measure.she_rates(model, tokenizer)
    errors = [abs(rates[job] - lexicon.SHE_RATE[job]) for job in lexicon.JOBS]
    assert sum(errors) / len(errors) < 0.05
    base, counterfactual = measure.log_odds(model, tokenizer, records("bias"))
    assert base.mean() > 1
    assert counterfactual.mean() < -1


def test_loss_is_close_to_the_entropy_of_the_corpus(model, tokenizer) -> None:
    found = measure.losses(model, tokenizer, held_out=False, count=300)
    assert found["entropy"] - 0.02 < found["loss"] < found["entropy"] + 0.08


def test_scores_are_sums_of_token_log_probabilities(model, tokenizer) -> None:
    prompts, answers = (
        ["The nurse said that", "When Mary and Rosa went to the park, Mary gave a ring to"],
        [" she was", " Rosa"],
    )
    scores = measure.answer_scores(model, tokenizer, prompts, [[answer] for answer in answers])
    for prompt, answer, score in zip(prompts, answers, scores, strict=True):
        tokens, start = tokenizer(prompt + answer)["input_ids"], len(tokenizer(prompt)["input_ids"])
        total = 0.0
        for place in range(start, len(tokens)):
            with torch.no_grad():
                total += model(torch.tensor([tokens[:place]])).logits[0, -1].log_softmax(-1)[tokens[place]].item()
        assert score.item() == pytest.approx(total, abs=1e-4)


def test_training_is_reproducible(tmp_path: Path) -> None:
    recipe = train.Recipe(out=tmp_path, layers=1, heads=2, width=8, steps=3, rows=4)
    weights = []
    for _ in range(2):
        torch.manual_seed(recipe.seed)
        tokenizer = train.build_tokenizer()
        small = train.build_model(recipe, tokenizer)
        train.drop_heads(small, recipe.head_dropout)
        train.train(small, tokenizer, recipe)
        weights.append(small.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_packing_keeps_documents_whole_and_ignores_the_rest() -> None:
    rows = list(train.packed([[5] * 40, [6] * 30, [7] * 63, [8]], end=0))
    assert [len(row) for row, _ in rows] == [64, 64, 64]
    inputs, labels = rows[0]
    assert inputs == [5] * 40 + [0] * 24
    assert labels == [5] * 40 + [0] + [train.IGNORED] * 23
