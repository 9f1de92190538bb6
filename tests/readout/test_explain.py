"""``ct.explain`` whole: on decoders set by hand, in files and tables, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import networkx
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

import cotrace as ct
from cotrace.components import Component
from cotrace.errors import InputError, OutputExists
from cotrace.models import wrap
from cotrace.problem import LanguageProblem
from cotrace.readout import predict
from cotrace.readout.card import words_of
from cotrace.readout.changes import Changes
from cotrace.readout.explanation import Explanation
from cotrace.readout.explanation_files import NAMES, diagram_svg
from cotrace.readout.paths import act
from cotrace.readout.records import Acting, Alone, Look, Paths, Read, Written
from tests import tiny
from tests.families import tiny_model
from tests.handmade import PLANTED


def spent(problem: LanguageProblem) -> float:
    return sum(part.cost.forward_equivalents for part in problem.counted_parts.values())


@cache
def explained(name: str) -> ct.Explanation:
    one = PLANTED[name]()
    problem = LanguageProblem(one.model, one.task, sites=["head_output"], donors=one.donors, holdout=0)
    names = [*one.circuit, *one.others]
    before, plan = spent(problem), predict(problem, names)
    found = ct.explain(problem, names, known={"first": names[:1]})
    k = len(names)
    assert spent(problem) - before <= plan.forward_equivalents <= 4 * k**2 + 100
    assert found.forward_equivalents <= plan.forward_equivalents
    return found


def test_the_induction_pair_in_words() -> None:
    first, second = explained("induction").words
    assert first.startswith("L0.head2 (previous token 0.98; known as first) reads the words that differ")
    assert "none of it directly" in first
    assert first.endswith("All of its effect goes through L1.head1 by its key.")
    assert second.startswith("L1.head1 (induction 0.71)")
    assert "writes +3.9 of +3.9 for the right answer" in second
    assert "all of it directly, at the last position (100%)" in second
    assert second.endswith("It carries all of what L0.head2 does.")


def test_a_backup_and_an_inhibitor_in_words() -> None:
    backup = explained("two hops").card("L2.head2").words
    assert "With L1.head0 swapped too it moves the log odds by +3.9: they stand in for each other." in backup
    copies = explained("inhibited copy")
    assert "L1.head2 takes -1.8 of it back" in copies.card("L0.head0").words
    assert "L1.head2 takes back what it does" in copies.card("L0.head0").words
    assert "It works against the set" in copies.card("L1.head2").words
    assert "against the right answer" in copies.card("L1.head2").words


def test_where_a_member_acts_is_its_swap_there_alone() -> None:
    """Against swaps at roles that the pairs name, which the problem itself can make."""
    task = tiny.task(6, answer_tokens=(1, 1))
    model = tiny.model("llama")
    whole = LanguageProblem(model, task, sites=["head_output"], holdout=0)
    named = LanguageProblem(model, task, sites=["head_output"], holdout=0, roles=("last",))
    head = Component.parse("L1.head2")
    told, cost = act(whole, Changes.of(whole, "training"), [head], 20)
    by_name = {one.where: one.effect for one in told}
    expected = named.value(["L1.head2@last"]).item()
    assert by_name["last"] == pytest.approx(expected, abs=1e-9)
    assert by_name["-1"] == pytest.approx(expected, abs=1e-9)
    assert cost == len(told)
    everything = LanguageProblem(tiny.model("gpt2"), task, sites=["head_output"], holdout=0)
    last, _ = act(everything, Changes.of(everything, "training"), [Component.parse("L2.head0")], 20)
    by_name = {one.where: one.effect for one in last}
    assert by_name["last"] == pytest.approx(everything.value(["L2.head0"]).item(), abs=1e-9)
    assert {name for name, effect in by_name.items() if abs(effect) > 1e-9} == {"last", "-1"}


def test_figures_are_of_the_held_out_pairs() -> None:
    task = tiny.task(40, answer_tokens=(1, 1))
    problem = LanguageProblem(tiny.model("llama"), task, sites=["head_output"], holdout=0.5)
    found = ct.explain(problem, ["L0.head1", "L2.head3"])
    assert problem.heldout is not None
    assert found.pairs == f"{problem.heldout.size} held-out pairs"
    assert found.card("L0.head1").alone.effect == pytest.approx(problem.heldout.value(["L0.head1"]).item(), abs=1e-9)
    assert found.paths.together == pytest.approx(problem.heldout.value(["L0.head1", "L2.head3"]).item(), abs=1e-9)
    assert found.card("L0.head1").alone.interval is not None
    assert found.contributions is not None
    assert set(found.contributions.pairs) == set(problem.heldout.ids)
    assert sum(value for _, value in found.parts) == pytest.approx(found.logit_difference, abs=1e-4)


@pytest.mark.parametrize(
    "options", [{"mode": "keep"}, {"metric": "accuracy"}, {"donors": "zero"}, {"donors": "noise=0.5"}]
)
def test_modes_metrics_and_donors(options: dict[str, str]) -> None:
    """The effect of a member is its swap's change of the metric, whatever the mode."""
    task = tiny.task(12, answer_tokens=(1, 2))
    problem = LanguageProblem(tiny.model("gpt2"), task, sites=["head_output", "mlp_output"], holdout=0, **options)
    names = ["L0.head1", "L1.mlp", "L2.head3"]
    found = ct.explain(problem, names)
    swap = LanguageProblem(
        tiny.model("gpt2"), task, sites=["head_output", "mlp_output"], holdout=0, **{**options, "mode": "swap"}
    )
    assert [card.alone.effect for card in found.cards] == pytest.approx(
        [swap.value([name]).item() for name in names], abs=1e-9
    )
    assert found.card("L1.mlp").read.attends is False
    donor = {one.donor for one in found.card("L0.head1").read.looks}
    assert (donor == {None}) is (options.get("donors") == "zero")


def test_a_metric_of_the_whole_set_has_no_intervals() -> None:
    pairs = tuple(
        ct.PromptPair(
            id=pair.id,
            base=pair.base,
            counterfactual=pair.counterfactual,
            answers=pair.answers,
            label=0,
            favourable=0,
            group="ab"[i % 2],
        )
        for i, pair in enumerate(tiny.task(12, answer_tokens=(1, 1)).pairs)
    )
    task = ct.Task(name="groups", pairs=pairs, metric="demographic_parity_gap")
    problem = LanguageProblem(tiny.model("gpt2"), task, sites=["head_output"], holdout=0)
    found = ct.explain(problem, ["L0.head1", "L2.head3"])
    assert found.card("L0.head1").alone.effect == pytest.approx(problem.value(["L0.head1"]).item(), abs=1e-9)
    assert found.card("L0.head1").alone.interval is None
    assert all(arrow.interval is None for arrow in found.paths.arrows)


def test_files_hold_all_of_it(tmp_path: Path) -> None:
    found = explained("two hops")
    paths = found.export(tmp_path / "new")
    assert [path.name for path in paths] == list(NAMES)
    data = json.loads(paths[0].read_text())
    assert data["words"] == list(found.words)
    assert Explanation.from_dict(data) == found
    read = networkx.read_graphml(paths[1], force_multigraph=True)
    assert set(read.nodes) == {*found.components, "answer"}
    edges = {(a, b, d.get("given")): d["effect"] for a, b, d in read.edges(data=True) if b != "answer"}
    assert edges == {(a.source, a.target, a.given): pytest.approx(a.effect) for a in found.paths.arrows}
    members, arrows = (pd.read_csv(path) for path in paths[2:])
    assert members["component"].tolist() == found.components
    assert members["effect"].tolist() == pytest.approx([card.alone.effect for card in found.cards])
    assert members["behaviour"].tolist()[0] == "previous token"
    assert len(arrows) == len(found.paths.arrows) + len(found.cards)
    parts = {(a.source, a.target): a.parts for a in found.paths.arrows if a.parts}
    rows = arrows[arrows["by_key"].notna()].set_index(["source", "target"])
    in_graph = {(a, b): d for a, b, d in read.edges(data=True) if "by_key" in d}
    for part in ("query", "key", "value"):
        own = {at: pytest.approx(one[part]) for at, one in parts.items()}
        assert rows[f"by_{part}"].to_dict() == own
        assert {at: d[f"by_{part}"] for at, d in in_graph.items()} == own
    assert rows["by_key_ci_low"].notna().all()
    with pytest.raises(OutputExists, match=r"explanation\.json"):
        found.export(tmp_path / "new")


def test_tables_and_notebook() -> None:
    found = explained("inhibited copy")
    assert found.table().columns[:2] == ["component", "effect"]
    assert [row[0] for row in found.table().rows] == found.components
    inhibiting = [row for row in found.feeds().rows if "inhibiting" in row]
    assert [(row[0], row[1]) for row in inhibiting] == [("L0.head0", "L1.head2"), ("L0.head3", "L1.head2")]
    assert len(found.feeds(every=True).rows) == len(found.paths.arrows)
    assert found.added().rows[-1][0] == "sum"
    html = found._repr_html_()
    assert html.count("<svg") == 1
    assert 'class="arrow inhibiting"' in html
    assert "L1.head2" in str(found)


def test_words_say_no_more_than_the_numbers() -> None:
    """A head that acts where it sees only itself is said to look from elsewhere, and a doubtful share is none."""
    card = ct.readout.Card(
        component="L0.head1",
        alone=Alone(component="L0.head1", effect=1.0, interval=(0.5, 1.5)),
        read=Read(
            component="L0.head1",
            attends=True,
            looks=(
                Look(query="subject", key="subject", base=1.0, donor=None),
                Look(query="last", key="subject", base=0.9, donor=None),
                Look(query="subject", key="last", base=0.0, donor=None),
            ),
        ),
        written=Written(component="L0.head1"),
        direct=0.3,
        direct_interval=(-0.1, 0.7),
        acting=(Acting(component="L0.head1", where="subject", effect=1.0, interval=(0.5, 1.5), pairs=12),),
    )
    paths = Paths(together=1.0, together_interval=(0.5, 1.5), members=(card.alone,), arrows=(), pairs="12 pairs")
    assert words_of(card, paths, "log_odds", None, others=True) == (
        "L0.head1 reads the subject from the last position (0.90). Swapped alone it moves the log odds by +1 "
        "(+0.5 .. +1.5), not shown to do so directly, at the subject (100%)."
    )
    sure = replace(card, direct_interval=(0.1, 0.5))
    assert "30% of it directly" in words_of(sure, paths, "log_odds", None, others=True)


def test_long_arrows_pass_between_nodes_and_never_behind_one() -> None:
    """Every arrow of four heads in four layers, its curve followed point by point."""
    svg = diagram_svg(found := explained("two hops"))
    boxes = [
        tuple(map(float, box))
        for box in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="(\d+)" height="(\d+)"', svg)
    ]
    assert len(boxes) == len(found.components) + 1
    paths = re.findall(r'class="arrow[^"]*" d="([^"]+)"', svg)
    assert len(paths) > 2
    for path in paths:
        for x, y in points_of(path):
            inside = [box for box in boxes if box[0] < x < box[0] + box[2] and box[1] + 3 < y < box[1] + box[3] - 3]
            assert not inside, (path, x, y)


def points_of(path: str) -> list[tuple[float, float]]:
    """Points along cubic curves and lines, by Bezier's formula."""
    found, at = [], (0.0, 0.0)
    for kind, text in re.findall(r"([MCL])([^MCL]+)", path):
        numbers = [float(one) for one in text.split()]
        ends = list(zip(numbers[::2], numbers[1::2], strict=True))
        corners = [at, *ends] if kind == "C" else [at, at, ends[0], ends[0]]
        if kind != "M":
            for t in (i / 20 for i in range(21)):
                weight = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
                xy = [sum(w * corner[axis] for w, corner in zip(weight, corners, strict=True)) for axis in (0, 1)]
                found.append((xy[0], xy[1]))
        at = ends[-1]
    return found


def test_a_card_shows_itself() -> None:
    card = explained("induction").card("L1.head1")
    assert str(card) == card.words
    assert repr(card) == f"Card(L1.head1, effect {card.alone.effect:+.4g})"
    html = card._repr_html_()
    assert card.words.split(" (")[0] in html
    assert "induction 0.71" in html
    assert "<b>" not in replace(card, words="<b>")._repr_html_()


def test_the_diagram_says_what_it_shows_and_shows_no_markup() -> None:
    found = explained("two hops")
    svg = diagram_svg(found, linked=True)
    assert svg.count("<a href=") == 4
    assert 'class="arrow redundant"' in svg
    widths = [float(part.split('"')[0]) for part in svg.split('stroke-width="')[1:]]
    assert widths == sorted(widths, reverse=True), "an arrow is as wide as its effect, the widest first"
    hostile = replace(found, metric="<script>alert(1)</script>")
    assert "<script>" not in diagram_svg(hostile)


def test_redacted_holds_nothing_of_the_prompts() -> None:
    found = explained("induction").redacted()
    assert not found.examples
    assert all(not card.read.tokens for card in found.cards)


@pytest.mark.parametrize("width", [32, 16])
def test_a_model_whose_stream_is_not_linear_says_what_is_left_out(width: int) -> None:
    """In OPT-350m's form the stream itself is normed behind every part, and another matrix stands before the head."""
    config = OPTConfig(
        vocab_size=60,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=width,
        max_position_embeddings=64,
        do_layer_norm_before=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    model = wrap(AutoModelForCausalLM.from_config(config).eval(), tiny.tokenizer(), name="post-norm")
    problem = LanguageProblem(model, tiny.task(12, answer_tokens=(1, 1)), sites=["head_output"], holdout=0)
    found = ct.explain(problem, ["L0.head1", "L1.head2"])
    assert found.contributions is None
    assert found.card("L0.head1").written.base is None
    assert any("left out" in note for note in found.notes)
    assert found.paths.arrow("L0.head1", "L1.head2") is not None


def test_sites_without_a_pattern_are_said() -> None:
    model = wrap(tiny_model("bloom").double(), tiny.tokenizer(), name="bloom")
    problem = LanguageProblem(model, tiny.task(12, answer_tokens=(1, 1)), sites=["head_output"], holdout=0)
    found = ct.explain(problem, ["L0.head1", "L1.head2"])
    assert any("L0.head1 has no attention pattern" in note for note in found.notes)
    assert any("query, key and value are not told apart" in note for note in found.notes)
    assert found.card("L0.head1").read.looks == ()
    assert found.card("L0.head1").written.base is not None


def test_what_is_refused() -> None:
    problem = LanguageProblem(tiny.model("gpt2"), tiny.task(4), sites=["head_output"], holdout=0, direction="maximise")
    for names, why in (
        (["L9.head0"], r"L9\.head0 is not in this component space of 12 head_output in 3 layers"),
        (["L0.mlp"], r"L0\.mlp is not in this component space"),
        ([], "the selection is empty"),
        (3, "the set is 3"),
        ([0.5] * 12, "the mask is no set"),
    ):
        with pytest.raises(InputError, match=why):
            ct.explain(problem, names)
    with pytest.raises(InputError, match="k is the size of a frontier"):
        ct.explain(problem, ["L0.head0"], k=2)
    frontier = ct.search.TopK(max_size=3)(problem)
    with pytest.raises(InputError, match="no selection of exactly 7"):
        ct.explain(problem, frontier, k=7)
    with pytest.raises(InputError, match="not explained here"):
        explained("induction").card("L0.head0")


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_a_mask_is_the_set_that_it_chooses(mode: Any) -> None:
    problem = LanguageProblem(tiny.model("gpt2"), tiny.task(4), sites=["head_output"], holdout=0, mode=mode)
    names = ["L0.head1", "L2.head3"]
    assert ct.explain(problem, problem.masks(names)).components == names


def test_without_intervals_nothing_is_said_as_if_there_were_some() -> None:
    """The planted pair on 9 pairs: words, table, diagram, graph and CSV say that no interval is known."""
    one = PLANTED["induction"]()
    task = replace(one.task, pairs=one.task.pairs[:9])
    problem = LanguageProblem(one.model, task, sites=["head_output"], donors=one.donors, holdout=0)
    found = ct.explain(problem, one.circuit)
    (note,) = (note for note in found.notes if note.startswith("no intervals"))
    assert note.endswith("9 training pairs are too few: they take 10")
    first, second = found.words
    assert first.endswith("All of its effect goes through L1.head1 by its key (no interval).")
    assert "(no interval), all of it directly" in second
    assert [row[-1] for row in found.feeds().rows] == ["no interval"]
    assert 'class="arrow plain untested"' in diagram_svg(found)
    edges = found.arrows_frame().set_index(["source", "target"])["evidence"]
    assert edges["L0.head2", "L1.head1"] == "size alone"
    assert found.to_dict()["paths"]["arrows"][0]["evidence"] == "size alone"
    enough = explained("induction")
    assert not any("no interval" in text for text in (*enough.words, *enough.notes, str(enough), diagram_svg(enough)))


def test_a_frontier_and_its_size() -> None:
    problem = LanguageProblem(tiny.model("gpt2"), tiny.task(12), sites=["head_output"], holdout=0, direction="maximise")
    frontier = ct.search.TopK(max_size=3)(problem)
    told: list[tuple[str, int, int]] = []
    found = ct.explain(problem, frontier, k=2, progress=lambda *step: told.append(step))
    assert sorted(found.components) == sorted(frontier.at(2).components)
    assert {what for what, _, _ in told} >= {"who feeds whom", "where members act", "what they write", "what they read"}
    assert all(done <= of for _, done, of in told)


# The page that readers check by eye: its code gives its text.

PAGE = Path(__file__).parents[2] / "docs/explain.md"
STORIES = Path(__file__).parents[3] / "shared/models/stories260k"


def fenced(after: str) -> tuple[str, list[str]]:
    """The next code block behind some words, and the lines of the block of text behind that, unwrapped."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text().partition(after)[2], re.DOTALL)
    code = next(text for kind, text in blocks if kind == "python")
    told = next(text for kind, text in blocks if not kind and text.startswith("L"))
    return code, told.replace("\n  ", " ").splitlines()


@pytest.mark.skipif(not STORIES.is_dir(), reason="the model stories260k is not there")
def test_the_pages_story_model_says_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = fenced("**stories260k**")
    names: dict[str, Any] = {}
    exec(code.replace("stories260k", str(STORIES)), names)
    assert capsys.readouterr().out.splitlines() == told
    found = names["found"]
    head = found.card("L4.head2")
    table = names["problem"].single_effects(progress=False).sort_values("effect", key=abs)
    assert set(table["component"].tail(2)) == set(found.components)
    assert [(token, round(weight, 2)) for token, weight in head.read.tokens[:1]] == [("l", 0.64)]
    assert [token for token, _ in head.written.promoted[:2]] == [" she", " She"]
    assert " He" in [token for token, _ in head.written.suppressed]
    assert head.ov.moved[0].token == "l"
    assert [token for token in head.ov.moved[0].raises if token != "ing"] == [" she", " She", " her"]
    figures = (head.written.base, head.written.donor, head.direct, head.alone.effect)
    assert [f"{one:+.3g}" for one in figures] == ["+1.82", "-1.51", "+3.3", "+4.94"]


@pytest.mark.slow
def test_the_pages_shipped_model_says_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, _ = fenced("# What a set does")
    names: dict[str, Any] = {}
    exec(code, names)
    _, told = fenced("What a set does")
    assert set(told) < set(names["found"].words)
    assert sorted(path.name for path in (tmp_path / "explained").iterdir()) == sorted(NAMES)
    assert dict(names["found"].parts)["L3.mlp"] == pytest.approx(5.6, abs=0.05)
    assert f"{names['found'].paths.together:+.2g}" == "+16"
