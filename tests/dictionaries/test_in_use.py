"""Features at work: edits of the plain model, what a feature is, and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import cotrace as ct
from cotrace import models
from cotrace.cli.main import run
from cotrace.dictionaries import Dictionary, describe, features_of_heads, save_dictionary
from cotrace.dictionaries.placed import with_dictionaries
from cotrace.errors import InputError, UnsupportedSite
from cotrace.interchange import About
from tests import tiny
from tests.dictionaries.toy import ALL, FEATURES, MODEL, TASK, by_hand, dense, dictionary

MLP = dictionary("blocks.1.hook_mlp_out", 20, neuronpedia="tiny-gpt2/1-mlp")
TRANSCODER = dictionary("blocks.2.mlp.hook_in", 21, hook_out="blocks.2.hook_mlp_out", k=5)
HELD = with_dictionaries(MODEL, [MLP, TRANSCODER])
CHOSEN = ct.Selection.parse(["L1.feature3", "L1.feature8", "L1.error", "L2.feature5", "L2.feature6", "L0.head1"])
IDS = torch.tensor([[3, 14, 15, 9, 26, 5]])


def logits_by_hand(values: dict[str, Tensor], factor: float = 0.0) -> Tensor:
    """Logits with the chosen features and error at these values, or at a factor of their own."""

    def act(layer: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        f = dense(one, read)
        e = written - f @ one.decoder
        g = factor * f
        for i in range(FEATURES):
            if f"L{layer}.feature{i}" in values:
                g[..., i] = values[f"L{layer}.feature{i}"]
        chosen = torch.tensor([f"L{layer}.feature{i}" in CHOSEN.components for i in range(FEATURES)])
        error = values.get(f"L{layer}.error", factor * e) if f"L{layer}.error" in CHOSEN.components else e
        return torch.where(chosen, g, f) @ one.decoder + error

    with by_hand([MLP, TRANSCODER], act), ct.apply(MODEL, ct.Selection.parse(["L0.head1"]), f"scale={factor}"):
        return MODEL.module(IDS).logits


@pytest.mark.parametrize("donor", ["zero", "scale=0.5", "scale=2"])
def test_an_edit_of_features_is_that_of_hooks_by_hand(donor: str) -> None:
    factor = float(donor.partition("=")[2] or 0)
    with torch.no_grad(), ct.apply(HELD, CHOSEN, donor) as edited:
        found = edited(IDS).logits
        past = edited(IDS[:, :4], use_cache=True)
        rest = edited(IDS[:, 4:], past_key_values=past.past_key_values).logits
    with torch.no_grad():
        torch.testing.assert_close(found, logits_by_hand({}, factor))
        assert not torch.allclose(MODEL.module(IDS).logits, found)
    torch.testing.assert_close(rest, found[:, 4:])


def test_a_feature_is_steered_to_a_value() -> None:
    values = {name: torch.tensor([float(i)], dtype=ALL) for i, name in enumerate(CHOSEN.components)}
    values |= {"L1.error": torch.linspace(-1, 1, 32, dtype=ALL), "L0.head1": torch.zeros(8, dtype=ALL)}
    with torch.no_grad(), ct.apply(HELD, CHOSEN, ct.donors.Vector(values=values)) as edited:
        found = edited(IDS).logits
    with torch.no_grad():
        torch.testing.assert_close(found, logits_by_hand(values))


def test_the_mean_of_a_feature_is_that_over_the_reference() -> None:
    means: dict[str, Tensor] = {}
    words = MODEL.require_tokenizer()
    prompts = [torch.tensor([words(pair.base)["input_ids"]]) for pair in TASK.pairs]
    seen: dict[int, list[Tensor]] = {1: [], 2: []}
    errors: list[Tensor] = []

    def note(layer: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        seen[layer].append(dense(one, read)[0])
        if layer == 1:
            errors.append((written - dense(one, read) @ one.decoder)[0])
        return written

    with torch.no_grad(), by_hand([MLP, TRANSCODER], note):
        for prompt in prompts:
            MODEL.module(prompt)
    for name in CHOSEN.components:
        if ".feature" in name:
            means[name] = torch.cat(seen[int(name[1])]).mean(0)[int(name.partition("feature")[2])]
    means["L1.error"] = torch.cat(errors).mean(0)
    features = ct.Selection(members=tuple(c for c in CHOSEN.members if c.site.value != "head_output"))
    with torch.no_grad(), ct.apply(HELD, features, "mean=task", reference=TASK) as edited:
        found = edited(IDS).logits

    def act(layer: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        f = dense(one, read)
        g = f.clone()
        for i in range(FEATURES):
            g[..., i] = means.get(f"L{layer}.feature{i}", f[..., i])
        return g @ one.decoder + (means["L1.error"] if layer == 1 else written - f @ one.decoder)

    with torch.no_grad(), by_hand([MLP, TRANSCODER], act):
        torch.testing.assert_close(found, MODEL.module(IDS).logits)


def test_edits_of_features_are_generated_with_and_not_folded() -> None:
    with ct.apply(HELD, CHOSEN, "zero") as edited:
        edited.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=0)
    with pytest.raises(UnsupportedSite, match="cannot be folded into weights: which features are active is decided"):
        ct.editing.folded(HELD, ct.Selection.parse(["L1.feature3"]), "zero")
    with pytest.raises(UnsupportedSite, match="is a part of a dictionary"):
        ct.apply(MODEL, ct.Selection.parse(["L1.feature3"])).__enter__()
    with pytest.raises(InputError, match=r"has no L1.feature40"):
        ct.apply(HELD, ct.Selection.parse(["L1.feature40"])).__enter__()


def test_names_of_features_are_parsed_and_exported() -> None:
    for name in ("L5.feature1203", "L5.error", "L5.feature7@subject"):
        assert str(ct.Component.parse(name)) == name
    with pytest.raises(InputError, match="is one per layer"):
        ct.Component.parse("L5.error3")
    about = About(model="tiny", donors="zero", align="exact", positions="prompt")
    chosen = ct.Selection.parse(["L5.feature1203"])
    with pytest.raises(InputError, match="TransformerLens has no hook for feature"):
        ct.interchange.transformer_lens(chosen, about)
    assert ct.Selection.from_dict(chosen.to_dict()) == chosen


def test_the_self_check_of_features_is_that_of_the_sites_they_are_parts_of() -> None:
    report = ct.check(HELD, sites=["feature", "error"])
    assert report.ok
    assert report.sites == ("mlp_output",)


# ---- what a feature is


TEXTS = ["w3 w14 w15 w9", "w2 w7 w1 w8 w2", "w8 w28 w18 w28 w45 w9"]


def test_a_card_shows_where_a_feature_is_most_active() -> None:
    activations: list[Tensor] = []

    def note(layer: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        activations.append(dense(one, read)[0, :, 8])
        return written

    ids = [MODEL.require_tokenizer()(text)["input_ids"] for text in TEXTS]
    with torch.no_grad(), by_hand([MLP], note):
        for one in ids:
            MODEL.module(torch.tensor([one]))
    card = describe(HELD, ["L1.feature8", "L0.head1"], TEXTS, examples=2)[0]
    best = sorted(range(3), key=lambda i: -float(activations[i].max()))[:2]
    best = [i for i in best if activations[i].max() > 0]
    assert [entry.activation for entry in card.active_on] == pytest.approx([float(activations[i].max()) for i in best])
    assert [entry.token for entry in card.active_on] == [f"w{ids[i][int(activations[i].argmax())]}" for i in best]
    flat = torch.cat(activations)
    assert card.active_share == pytest.approx(float((flat > 0).double().mean()))
    assert card.link == "https://www.neuronpedia.org/tiny-gpt2/1-mlp/8"
    assert card.words.startswith("L1.feature8: active on ")
    assert json.loads(json.dumps(card.to_dict()))["component"] == "L1.feature8"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_promoted_tokens_are_those_that_a_small_addition_to_the_last_stream_promotes(family: str) -> None:
    model = tiny.model(family)
    one = dictionary("blocks.2.hook_resid_post", 22)
    names = [f"L2.feature{i}" for i in range(FEATURES)]
    cards = describe(with_dictionaries(model, [one]), names, TEXTS, examples=1, tokens=60)
    unit, card = next((unit, card) for unit, card in enumerate(cards) if card.active_on)
    best = card.active_on[0]
    words = model.require_tokenizer()
    text = next(text for text in TEXTS if f"{best.before} {best.token}".strip() in text)
    ids = words(text)["input_ids"]
    at = len(words(f"{best.before} {best.token}")["input_ids"]) - 1
    layer = model.layers[2].module

    def logits(step: float) -> Tensor:
        def add(_: Any, __: Any, out: Any) -> Any:
            value = (out[0] if isinstance(out, tuple) else out) + step * one.decoder[unit]
            return (value, *out[1:]) if isinstance(out, tuple) else value

        handle = layer.register_forward_hook(add)
        with torch.no_grad():
            found = model.module(torch.tensor([ids])).logits[0, at]
        handle.remove()
        return found

    slope = (logits(1e-2) - logits(-1e-2)) / 2e-2
    given = dict(card.promoted)
    for i in range(60):
        assert given[f"w{i}"] == pytest.approx(float(slope[i]), abs=1e-3)
    assert card.promoted[0][0] == f"w{int(slope.argmax())}"
    assert card.suppressed[0][0] == f"w{int(slope.argmin())}"


def test_the_features_of_heads_are_those_whose_rows_lie_in_them() -> None:
    one = dictionary("blocks.0.attn.hook_z", 23)
    rows = one.decoder.clone()
    rows[:, :] = 0.01
    rows[5, 8:16], rows[6, 24:], rows[7, :8] = 1.0, 1.0, 1.0
    held = with_dictionaries(MODEL, [replace(one, decoder=rows)])
    assert [str(c) for c in features_of_heads(held, ["L0.head1", "L0.head3"], share=0.6)] == [
        "L0.feature5",
        "L0.feature6",
    ]
    with pytest.raises(InputError, match="has no dictionary of the heads of layer 2"):
        features_of_heads(held, ["L2.head0"])


def test_features_are_looked_for_in_chats_as_the_template_renders_them(monkeypatch: pytest.MonkeyPatch) -> None:
    words = MODEL.require_tokenizer()
    monkeypatch.setattr(words, "chat_template", "w7 {% for m in messages %}{{ m.content }} {% endfor %}w9")
    said, other = ({"role": "user", "content": text} for text in ("w3 w14 w15", "w3 w28 w15"))
    pair = ct.PromptPair(id="c", messages=(said,), counterfactual_messages=(other,), answers=(" w3", " w4"))
    chat = replace(TASK, pairs=(pair,))
    found = describe(HELD, ["L1.feature8", "L2.feature5"], chat)
    assert found == describe(HELD, ["L1.feature8", "L2.feature5"], ["w7 w3 w14 w15 w9", "w7 w3 w28 w15 w9"])
    assert any(card.active_share > 0 for card in found)


def test_what_cannot_be_described_is_refused() -> None:
    assert describe(HELD, ["L0.head1"], TEXTS) == []
    with pytest.raises(InputError, match=r"has no L0.feature1"):
        describe(HELD, ["L0.feature1"], TEXTS)
    with pytest.raises(InputError, match="there are no texts"):
        describe(HELD, ["L1.feature1"], [])


# ---- the command line


@pytest.fixture
def both_signs(tmp_path: Path, tiny_folder: Path) -> Path:
    """A dictionary that reconstructs exactly: a feature for each coordinate's positive and negative part."""
    eye = torch.cat([torch.eye(16), -torch.eye(16)])
    one = Dictionary(
        name="signs",
        hook="blocks.1.hook_mlp_out",
        hook_out="blocks.1.hook_mlp_out",
        encoder=eye,
        bias=torch.zeros(32),
        decoder=eye,
        offset=torch.zeros(16),
        model_name=tiny_folder.name,
    )
    return save_dictionary(one, tmp_path / "signs" / "layer_1")


def test_features_are_traced_replayed_and_told_from_others(
    both_signs: Path, tiny_folder: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    asked = ["--model", str(tiny_folder), "--task", str(pairs_file), "--holdout", "0.25", "--direction", "maximise"]
    asked += ["--search", "topk", "--max-size", "2", "--quiet"]
    options = [*asked, "--dictionaries", str(both_signs)]
    assert run(["trace", *options, "--sites", "feature,error,head_output", "--out", str(out)]) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["dictionaries"] == str(both_signs)
    assert config["record"]["dictionaries"][0]["hook"] == "blocks.1.hook_mlp_out"
    assert "features of signs/layer_1" in config["record"]["summary"]
    again = tmp_path / "again"
    assert run(["trace", "--config", str(out / "config.yaml"), "--out", str(again), "--quiet"]) == 0
    assert (again / "frontier.csv").read_bytes() == (out / "frontier.csv").read_bytes()
    capsys.readouterr()
    assert run(["evaluate", str(out), "--quiet"]) == 0
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the nurse\n")
    assert run(["generate", str(out), "--k", "2", "--prompts", str(prompts), "--max-new-tokens", "2", "--quiet"]) == 0
    one = ct.load_dictionaries(both_signs)[0]
    save_dictionary(replace(one, bias=one.bias + 0.01), both_signs)
    assert run(["evaluate", str(out), "--quiet"]) == 2
    assert "the dictionaries differs from that of" in capsys.readouterr().err


def test_wrong_dictionaries_are_one_line(
    both_signs: Path, tiny_folder: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ct.load_dictionaries(both_signs)[0]
    other = save_dictionary(replace(one, model_name="gpt2-xl"), tmp_path / "other")
    asked = ["trace", "--model", str(tiny_folder), "--task", str(pairs_file), "--quiet", "--out", str(tmp_path / "no")]
    for options, words in (
        (["--dictionaries", str(other)], "give --dictionaries-of gpt2-xl"),
        (["--dictionaries", str(tmp_path / "nothing")], "there is no such folder"),
        (["--sites", "feature"], "--dictionaries FOLDER"),
        (["--dictionaries", str(both_signs), "--sites", "head_output"], "no site is feature or error"),
        (["--dictionaries-of", "gpt2"], "none are given"),
    ):
        assert run([*asked, *options]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not (tmp_path / "no").exists()


def scaled(one: Dictionary, **change: Any) -> Dictionary:
    """The same with other fields, unchecked where a check would refuse them."""
    other = replace(one)
    for name, value in change.items():
        object.__setattr__(other, name, value)
    return other


def test_bad_files_end_in_one_line_before_the_model_is_loaded(
    both_signs: Path,
    pairs_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(models, "load_model", never)
    one = ct.load_dictionaries(both_signs)[0]
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save({"W_enc": one.encoder}, pickled / "ae.pt")  # noqa: TID251  # what must not be read
    endless = save_dictionary(scaled(one, bias=torch.full((32,), torch.inf)), tmp_path / "endless")
    head = save_dictionary(one, tmp_path / "head")
    cfg = json.loads((head / "cfg.json").read_text())
    (head / "cfg.json").write_text(json.dumps(cfg | {"hook_head_index": "all"}))
    asked = [
        "trace",
        "--model",
        str(tmp_path / "m"),
        "--task",
        str(pairs_file),
        "--quiet",
        "--out",
        str(tmp_path / "no"),
    ]
    for folder, words in (
        (pickled, "may be a pickle, which can run code when it is read: convert it with python -c"),
        (endless, "bias holds values that are not finite"),
        (head, "hook_head_index is 'all' in its cfg.json; give a head's number from 0"),
    ):
        assert run([*asked, "--dictionaries", str(folder)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1, said


def test_dictionaries_that_do_not_fit_the_model_end_in_one_line(
    both_signs: Path, tiny_folder: Path, pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ct.load_dictionaries(both_signs)[0]
    wide = {"encoder": torch.eye(24), "decoder": torch.eye(24), "offset": torch.zeros(24), "bias": torch.zeros(24)}
    at = {"hook": "blocks.9.hook_mlp_out", "hook_out": "blocks.9.hook_mlp_out"}
    asked = ["trace", "--model", str(tiny_folder), "--task", str(pairs_file), "--quiet", "--out", str(tmp_path / "no")]
    for name, other, words in (
        ("wide", replace(one, **wide), "has 24 numbers at blocks.1.hook_mlp_out, and"),
        ("high", replace(one, **at), "is of blocks.9.hook_mlp_out, and"),
        ("silent", replace(one, bias=torch.full((32,), -1e6)), "is active on these pairs where base and donor run"),
    ):
        folder = save_dictionary(other, tmp_path / name)
        assert run([*asked, "--dictionaries", str(folder)]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1, said
    twice = tmp_path / "twice"
    save_dictionary(one, twice / "a")
    save_dictionary(one, twice / "b")
    assert run([*asked, "--dictionaries", str(twice)]) == 2
    assert "twice/a and twice/b both write the mlp_output of layer 1" in capsys.readouterr().err
