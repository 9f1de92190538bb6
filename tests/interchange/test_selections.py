"""Selections out to other tools and back: nothing lost, nothing misread, every malformed file one line."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import cotrace as ct
from cotrace import interchange
from cotrace.components import Component, Site
from cotrace.donors import Noise
from cotrace.errors import InputError
from cotrace.interchange import About, Shape
from cotrace.interchange._mib import circuit, ranking
from cotrace.interchange._read import selection_in
from cotrace.results.frontier_file import ORIGIN
from tests import tiny

SET = ct.Selection.parse(["L0.head1", "L2.head3", "L1.mlp"])
GPT2_SMALL = Shape(n_layers=12, n_heads=12, d_model=768, parallel_attn_mlp=False)


def problem(family: str = "gpt2", sites: tuple[str, ...] = ("head_output", "mlp_output"), **options: Any) -> Any:
    return ct.LanguageProblem(tiny.model(family), tiny.task(), sites=sites, holdout=0, **options)


def written(tmp_path: Path, content: str | dict[str, Any]) -> Path:
    path = tmp_path / "selection"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_schema_is_a_schema_and_covers_what_runs_write(tmp_path: Path) -> None:
    from cotrace.runs.result_files import selection_json

    Draft202012Validator.check_schema(dict(interchange.schema()))
    frontier = ct.search.Greedy(max_size=3)(problem())
    data = json.loads(selection_json([frontier]))
    Draft202012Validator(interchange.schema()).validate(data)
    path = written(tmp_path, data)
    assert interchange.read_selection(path) == frontier.enough()


def test_json_round_trip_keeps_every_number(tmp_path: Path) -> None:
    frontier = ct.search.Greedy(max_size=3)(ct.LanguageProblem(tiny.model("gpt2"), tiny.task(), holdout=0.34))
    about = About.of(frontier, "tiny", donors="zero")
    data = interchange.document(frontier.at(2), about, search="greedy", rule="k = 2")
    Draft202012Validator(interchange.schema()).validate(data)
    assert interchange.read_selection(written(tmp_path, data)) == frontier.at(2)
    assert About.from_dict(json.loads(json.dumps(data))["about"]) == about


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, {"donors": "counterfactual", "align": "exact", "positions": "prompt"}),
        ({"donors": "zero", "align": "ends"}, {"donors": "zero", "align": "ends"}),
        ({"donors": Noise(multiple=3, seed=4)}, {"donors": "noise=3x,seed=4"}),
        ({"positions": "prompt+answer"}, {"positions": "prompt+answer"}),
        ({"holdout": 0.34, "seed": 7, "audit": 0.2}, {"split": "holdout=0.34, seed=7, audit=0.2"}),
        ({"roles": ("last",)}, {"roles": ["last"]}),
    ],
)
def test_a_frontier_says_what_was_run(asked: dict[str, Any], said: dict[str, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"holdout": 0} | asked
    posed = ct.LanguageProblem(tiny.model("gpt2"), tiny.task(), **options)
    frontier = ct.search.TopK(max_size=2)(posed)
    again = ct.Frontier.from_dict(json.loads(json.dumps(frontier.to_dict())))
    for one in (frontier, again):
        assert {name: getattr(one, name) for name in said} == said
        assert one.model == posed.model.name
    about = About.of(frontier)
    assert {name: value for name, value in about.to_dict().items() if name in said} == {
        name: value for name, value in said.items() if name != "roles"
    }
    Draft202012Validator(interchange.schema()).validate(interchange.document(frontier.at(1), about))


def test_combined_problems_say_it_too() -> None:
    swapped, zeroed = (
        ct.LanguageProblem(tiny.model("gpt2"), tiny.task(), donors=d) for d in ("counterfactual", "zero")
    )
    both = ct.WeightedSum([(0.5, swapped), (0.5, zeroed)])
    bounded = ct.Constrained(zeroed, [ct.Constraint(swapped, 10.0)])
    for posed, donors in ((both, "counterfactual + zero"), (bounded, "zero")):
        frontier = ct.search.TopK(max_size=1)(posed)
        assert (frontier.donors, frontier.split) == (donors, "holdout=0.3, seed=0")


def test_an_old_frontier_is_read_and_says_what_it_lacks() -> None:
    data = ct.search.TopK(max_size=2)(problem()).to_dict()
    old = ct.Frontier.from_dict({name: value for name, value in data.items() if name not in ORIGIN})
    with pytest.raises(InputError, match="does not say of which model"):
        About.of(old)
    with pytest.warns(UserWarning, match="has no donors, align, positions, split .* give donors=, align="):
        about = About.of(old, "gpt2")
    assert (about.donors, about.align) == ("", "")
    with pytest.raises(InputError, match="comes without its donors"):
        interchange.transformer_lens(old.at(1), about)
    told = About.of(old, "gpt2", donors="zero", align="exact", positions="prompt", split="none")
    assert told.donors == "zero"


def test_mib_counts_of_gpt2_small() -> None:
    """158 nodes and 32,491 edges: the size of GPT-2 small's graph as circuit papers state it."""
    data = circuit(SET, About(model="gpt2"), GPT2_SMALL)
    assert len(data["nodes"]) == 158
    assert len(data["edges"]) == 32491
    assert data["cfg"] == {"n_layers": 12, "n_heads": 12, "d_model": 768, "parallel_attn_mlp": False}


def test_mib_edges_by_hand() -> None:
    """One layer of two heads: six edges into the heads, then the MLP reads heads (or not), the logits everything."""
    one = ct.Selection.parse(["L0.head1"])
    names = {}
    for parallel in (False, True):
        shape = Shape(n_layers=1, n_heads=2, d_model=8, parallel_attn_mlp=parallel)
        names[parallel] = list(circuit(one, About(model="m"), shape)["edges"])
    into_heads = [f"input->a0.h{head}<{part}>" for head in (0, 1) for part in "qkv"]
    to_logits = ["input->logits", "a0.h0->logits", "a0.h1->logits", "m0->logits"]
    assert names[False] == [*into_heads, "input->m0", "a0.h0->m0", "a0.h1->m0", *to_logits]
    assert names[True] == [*into_heads, "input->m0", *to_logits]


def test_mib_says_what_runs_on() -> None:
    """The members, and what could not have been chosen (here the MLPs): kept in every mask of cotrace."""
    space = tiny.model("gpt2").space((Site.HEAD_OUTPUT,))
    chosen = ct.Selection.parse(["L0.head1", "L2.head3"])
    shape = Shape.of(tiny.model("gpt2"))
    data = circuit(chosen, About(model="m", mode="keep", space=space.components), shape)
    inside = {name for name, node in data["nodes"].items() if node["in_graph"]}
    assert inside == {"input", "logits", "a0.h1", "a2.h3", "m0", "m1", "m2"}
    assert {name for name, node in data["nodes"].items() if "score" not in node} == {
        "input",
        "logits",
        "m0",
        "m1",
        "m2",
    }
    for name, edge in data["edges"].items():
        start, end = name.split("->")
        assert edge["in_graph"] == (start in inside and end.split("<")[0] in inside)


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_mib_round_trip(tmp_path: Path, mode: str) -> None:
    asked = problem(sites=("head_output",), mode=mode)
    frontier = ct.search.Greedy(max_size=4)(asked)
    data = circuit(frontier.at(3), About.of(frontier, "tiny"), Shape.of(tiny.model("gpt2")), ranking(frontier))
    read = interchange.read_selection(written(tmp_path, data))
    assert set(read.members) == set(frontier.at(3).members)
    assert {name: node["score"] for name, node in data["nodes"].items() if "score" in node} == {
        f"a{one.layer}.h{one.unit}": score for one, score in ranking(frontier).items()
    }


def test_a_foreign_circuit_is_read_in_both_forms(tmp_path: Path) -> None:
    nodes = {"input": True, "a0.h1": True, "a0.h0": False, "m1": True, "logits": True}
    old = {"cfg": {}, "nodes": nodes, "edges": {}}
    new = old | {"nodes": {name: {"in_graph": kept, "score": 0.5} for name, kept in nodes.items()}}
    for data in (old, new):
        assert interchange.read_selection(written(tmp_path, data)).components == ["L0.head1", "L1.mlp"]


def eap_ig(inside: set[str], out: set[str] = frozenset(), **nodes: Any) -> dict[str, Any]:  # type: ignore[assignment]
    """One layer of two heads as EAP-IG's ``to_json`` writes it: each edge by hand, ``out`` those that are not in."""
    names = ["input", "a0.h0", "a0.h1", "m0", "logits"]
    ends = [("input", f"a0.h{head}<{part}>") for head in (0, 1) for part in "qkv"]
    ends += [(start, end) for end in ("m0", "logits") for start in names[: names.index("m0") + (end == "logits")]]
    edges = {}
    for start, end in ends:
        kept = {start, end.split("<")[0]} <= inside | {"logits"}
        edges[f"{start}->{end}"] = {"score": 0.5, "in_graph": kept and f"{start}->{end}" not in out}
    listed = {name: {"in_graph": name in inside | {"logits"}, "score": 0.5} | nodes.get(name, {}) for name in names}
    cfg = {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 4}
    return {"cfg": cfg, "nodes": listed, "edges": edges}


INSIDE = {"input", "a0.h1", "m0"}


@pytest.mark.parametrize(
    ("nodes", "components"),
    [
        ({}, ["L0.head1", "L0.mlp"]),
        ({"a0.h1": {"score": float("nan")}, "input": {"score": float("nan")}}, ["L0.head1", "L0.mlp"]),
        ({"m0": {"neurons": [True] * 4, "neurons_scores": [float("nan")] * 4}}, ["L0.head1", "L0.mlp"]),
        ({"m0": {"neurons": [False] * 4}}, ["L0.head1"]),
        ({"m0": {"neurons": []}}, ["L0.head1"]),
        ({"a0.h0": {"neurons": [True, False, True, False]}}, ["L0.head1", "L0.mlp"]),
    ],
)
def test_a_circuit_of_nodes_as_eap_ig_writes_it(tmp_path: Path, nodes: dict[str, Any], components: list[str]) -> None:
    assert interchange.read_selection(written(tmp_path, eap_ig(INSIDE, **nodes))).components == components


@pytest.mark.parametrize(
    ("circuit", "reason"),
    [
        (eap_ig(INSIDE, {"a0.h1->m0"}), "1 edges between nodes of the circuit are out of it, the first a0.h1->m0"),
        (eap_ig(INSIDE, {"input->a0.h1<k>", "m0->logits"}), "2 edges between nodes"),
        (eap_ig(INSIDE) | {"edges": {"input->m0": True}}, "the first input->a0.h1<q>"),
        (eap_ig(INSIDE) | {"edges": [1]}, "'edges' is a list"),
        (eap_ig(INSIDE) | {"edges": {"input->a0.h1<q>": {"score": 1}}}, "does not say in_graph"),
        (eap_ig(INSIDE, m0={"neurons": [True, False]}), "part of a node .1 of 2 neurons"),
        (eap_ig(INSIDE, m0={"neurons": [1, 1]}), "no list of true and false"),
        (eap_ig(INSIDE, m0={"in_graph": float("nan")}), "does not say in_graph"),
        (eap_ig({"input"}), r"apply_topn\(n, level='node'\)"),
    ],
)
def test_circuits_that_are_no_set_of_nodes(tmp_path: Path, circuit: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        interchange.read_selection(written(tmp_path, circuit))


def test_a_circuit_of_edges_is_read_as_nodes_without_them_and_beside_a_parallel_mlp(tmp_path: Path) -> None:
    beside = eap_ig(INSIDE, {"a0.h1->m0"})
    beside["cfg"]["parallel_attn_mlp"] = True  # then there is no such edge
    bare = {name: value for name, value in eap_ig(INSIDE, {"a0.h1->m0"}).items() if name != "edges"}
    for data in (beside, bare):
        assert interchange.read_selection(written(tmp_path, data)).components == ["L0.head1", "L0.mlp"]


def test_a_circuit_without_its_input_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="its embeddings are corrupted"):
        interchange.read_selection(written(tmp_path, eap_ig({"a0.h1", "m0"})))


@pytest.mark.parametrize("start", [b"PK\x03\x04\x00\x00", b"\x80\x04\x95"])  # of torch.save, of pickle.dump
def test_a_pickled_circuit_is_refused_with_the_way_out(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "circuit.pt").write_bytes(start + b"\x00" * 50)
    with pytest.raises(InputError, match=r"is a pickle.*Graph.from_pt\(FILE\).to_json"):
        interchange.read_selection(tmp_path / "circuit.pt")


def test_ranking_is_higher_the_earlier_a_component_comes() -> None:
    frontier = ct.search.Greedy(max_size=3)(problem())
    scores = ranking(frontier)
    (first,) = frontier.at(1).members
    assert scores[first] == max(scores.values()) == 1
    assert sum(value > 0 for value in scores.values()) == 3


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_shape_of_sequential_families(family: str) -> None:
    assert Shape.of(tiny.model(family)) == Shape(n_layers=3, n_heads=4, d_model=32, parallel_attn_mlp=False)


def test_shape_of_a_family_whose_mlp_runs_beside_attention() -> None:
    """GPT-NeoX has both wirings behind one switch: the shape follows what the model does."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    for parallel in (True, False):
        size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = GPTNeoXConfig(**size, vocab_size=50, use_parallel_residual=parallel)
        model = ct.wrap(GPTNeoXForCausalLM(config).eval())
        assert Shape.of(model).parallel_attn_mlp is parallel


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("L0.pattern1", "not where it looks"),
        ("L0.neuron5", "coordinates of the residual stream"),
        ("L0.head1@subject", "position role"),
        ("L0.kv1", "single query heads"),
        ("L0.resid", "is its edges"),
        ("L0.attn", "single heads"),
        ("L0.coord3", "whole nodes only"),
        ("L3.head0", "has no L3.head0"),
        ("L0.head4", "has no L0.head4"),
    ],
)
def test_mib_refuses_what_it_cannot_carry(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        circuit(ct.Selection.parse([name]), About(model="tiny"), Shape.of(tiny.model("gpt2")))


# ---- snippets: their constants are applied with plain hooks on the plain model, and must give the problem's scores


def constants(code: str) -> dict[str, Any]:
    """The literals that a snippet assigns; it is parsed, never run."""
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def scores_by_plain_hooks(module: Any, rows: list[Any], pair: Any, donor: str) -> list[float]:
    """log p of each answer, the listed columns of named modules replaced at the prompt's positions."""
    prompt, other = torch.tensor([pair.prompt]), torch.tensor([pair.donor or pair.prompt])
    kept: dict[int, torch.Tensor] = {}

    def hooked(edit: Any) -> list[Any]:
        handles = []
        for i, (path, side, units, width) in enumerate(rows):
            columns = [unit * width + j for unit in units for j in range(width)]
            part = module.get_submodule(path)
            if side == "input":
                handles.append(part.register_forward_pre_hook(lambda _, a, i=i, c=columns: (edit(a[0], i, c), *a[1:])))
            elif side == "output":
                handles.append(part.register_forward_hook(lambda _, a, out, i=i, c=columns: edit(out, i, c)))
            else:
                assert side == "output[0]"
                hook = lambda _, a, out, i=i, c=columns: (edit(out[0], i, c), *out[1:])  # noqa: E731
                handles.append(part.register_forward_hook(hook))
        return handles

    def keep(value: torch.Tensor, i: int, columns: list[int]) -> torch.Tensor:
        kept[i] = value[:, :, columns].clone() * (donor != "zero")
        return value

    def swap(value: torch.Tensor, i: int, columns: list[int]) -> torch.Tensor:
        value = value.clone()
        value[:, : prompt.shape[1], columns] = kept[i]
        return value

    found = []
    with torch.no_grad():
        handles = hooked(keep)
        module(other)
        [handle.remove() for handle in handles]
        handles = hooked(swap)
        for answer in pair.answers:
            row = torch.tensor([[*pair.prompt, *answer]])
            log_p = module(row).logits.log_softmax(-1)[0, len(pair.prompt) - 1 : -1]
            found.append(log_p.gather(-1, row[0, len(pair.prompt) :, None]).sum().item())
        [handle.remove() for handle in handles]
    return found


MIXED = ["L0.head1", "L2.attn", "L1.neuron7", "L1.neuron30", "L2.coord12", "L0.mlp", "L1.resid"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(
    ("names", "mode", "donors"),
    [
        (["L0.head1", "L2.head3", "L1.mlp"], "swap", "counterfactual"),
        (["L0.head1", "L2.head3", "L1.mlp"], "keep", "counterfactual"),
        (["L0.head1", "L2.head3", "L1.mlp"], "swap", "zero"),
        (MIXED, "swap", "counterfactual"),
    ],
)
def test_nnsight_constants_do_the_intervention(family: str, names: list[str], mode: str, donors: str) -> None:
    chosen = ct.Selection.parse(names)
    sites = tuple(dict.fromkeys(member.site.value for member in chosen.members))
    asked = problem(family, sites, mode=mode, donors=donors)
    model = tiny.model(family)
    about = About(model="tiny", mode=mode, donors=donors, space=asked.space.components)  # type: ignore[arg-type]
    code = interchange.nnsight(chosen, about, interchange.columns_of(model, about.changed(chosen)))
    literals = constants(code)
    mask = torch.zeros(len(asked.space), dtype=torch.float64)
    mask[list(asked.space.indices(chosen.members))] = 1
    expected = asked.scores(mask if mode == "swap" else 1 - mask)
    for pair, row in zip(asked.encoding.pairs, expected, strict=True):
        got = scores_by_plain_hooks(model.module, literals["PATCHED"], pair, literals["DONOR"])
        assert got == pytest.approx(row.tolist(), abs=1e-9)


def test_transformer_lens_hooks_are_those_of_the_library() -> None:
    """Names as TransformerLens's documentation lists them; units in order, whole outputs as None."""
    names = [*MIXED, "L0.pattern2", "L0.pattern3"]
    literals = constants(interchange.transformer_lens(ct.Selection.parse(names), About(model="tiny")))
    assert literals["PATCHED"] == {
        "blocks.0.attn.hook_pattern": [2, 3],
        "blocks.0.attn.hook_z": [1],
        "blocks.0.hook_mlp_out": None,
        "blocks.1.mlp.hook_post": [7, 30],
        "blocks.1.hook_resid_post": None,
        "blocks.2.hook_attn_out": None,
        "blocks.2.hook_mlp_out": [12],
    }


HOSTILE = 'x\'"""\\\n\'; import os  # <<PATCHED>> <<QUESTION>> \u2028'


@pytest.mark.parametrize("tool", ["transformer_lens", "nnsight"])
def test_hostile_names_stay_literals(tool: str, tmp_path: Path) -> None:
    about = About(model=HOSTILE, task=HOSTILE, metric=HOSTILE, revision=HOSTILE)
    if tool == "nnsight":
        code = interchange.nnsight(SET, about, interchange.columns_of(tiny.model("gpt2"), SET.members))
    else:
        code = interchange.transformer_lens(SET, about)
    literals = constants(code)
    assert literals["MODEL"] == literals["REVISION"] == HOSTILE
    assert HOSTILE in literals["QUESTION"]
    plain = ast.parse(code.replace(repr(HOSTILE), "'m'"))
    assert {type(node) for node in plain.body} <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef}
    assert interchange.read_selection(written(tmp_path, code)) == SET


@pytest.mark.parametrize(
    ("names", "options", "reason"),
    [
        (["L0.head1@subject"], {}, "position role"),
        (["L0.expert1"], {}, "has no hook for expert"),
        (["L0.head1"], {"donors": "noise=0.5"}, "donors 'noise=0.5'"),
        (["L0.head1"], {"align": "ends"}, "equal length"),
        (["L0.head1"], {"positions": "prompt+answer"}, "the prompt's positions only"),
        (["L0.head1"], {"mode": "keep"}, "give the component space"),
    ],
)
def test_snippets_refuse_what_they_cannot_do(names: list[str], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        interchange.transformer_lens(ct.Selection.parse(names), About(model="m", **options))


def test_nnsight_refuses_patterns_and_strangers() -> None:
    for name, reason in (("L0.pattern0", "no part of one module's"), ("L0.head9", "has no head_output 9")):
        with pytest.raises(InputError, match=reason):
            interchange.columns_of(tiny.model("gpt2"), [Component.parse(name)])


# ---- malformed files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "names no component"),
        ("L0.hed1", "is not a component"),
        ("[", "line 1: not JSON"),
        ('{"schema": 1}', "'chosen' is a required property"),
        ('{"schema": 2, "chosen": {"components": ["L0.head1"]}}', "schema: 1 was expected"),
        ('{"schema": 1, "chosen": {"components": ["L0.hed1"]}}', "no component; write it as L9.head6"),
        ('{"schema": 1, "chosen": {"components": ["L0.head"]}}', "needs a unit"),
        ('{"schema": 1, "chosen": {"k": 2, "components": ["L0.head1"]}}', "chosen.k is 2"),
        ('{"schema": 1, "chosen": {"components": ["L0.head1", "L0.head1"]}}', "non-unique"),
        ('{"schema": 1, "chosen": {"components": ["L0.head1"]}, "x": 1}', "'x' was unexpected"),
        ('{"components": "L0.head1"}', "give a list of component names"),
        ('{"nodes": []}', "'nodes' is a list"),
        ('{"nodes": {"b3": true}}', "is no node"),
        (f'{{"nodes": {{"m{"9" * 5000}": true}}}}', "is no node"),
        (f"L{'9' * 5000}.head1", "is not a component"),
        ('{"nodes": {"m3": 1}}', "in_graph true or false"),
        ('{"nodes": {"m3": false}}', "no head and no MLP"),
        ('{"nodes": {"m3": {"in_graph": true, "neurons": [true, false]}}}', "part of a node"),
        ('{"nodes": {}, "nodes": {}}', "stands twice"),
        ('{"components": [NaN]}', "NaN is not a JSON number"),
        ('["\\ud800"]', "surrogate"),
        ("[" * 100_000, "nested too deeply"),
        ('"""A selection found by cotrace"""', "no list SELECTED"),
        ('"""A selection found by cotrace"""\nSELECTED = [\n    __import__("os"),\n]', "no list SELECTED"),
    ],
)
def test_malformed_files_are_one_line(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as found:
        interchange.read_selection(written(tmp_path, content))
    assert len(str(found.value)) < 600


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path, reason in (
        ("bytes", "not UTF-8"),
        ("absent", "cannot read"),
        (".", "is a folder"),
        ("a\0b", "cannot read"),
    ):
        with pytest.raises(InputError, match=reason):
            interchange.read_selection(tmp_path / path)


KEYS = st.sampled_from(
    ["schema", "chosen", "components", "nodes", "in_graph", "cotrace", "outside", "neurons", "m1", "k"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def read_or_refused(read: Callable[[], ct.Selection]) -> ct.Selection | str:
    """The selection, or the reason why there is none; any other error fails the test."""
    try:
        return read()
    except InputError as error:
        return str(error)


@given(JSON)
def test_any_json_is_a_selection_or_one_line(data: Any) -> None:
    found = read_or_refused(lambda: selection_in(data, "file"))
    assert found.startswith("file") if isinstance(found, str) else found.k > 0


@given(st.text())
def test_any_text_is_a_selection_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_text(text, encoding="utf-8", errors="replace")
    found = read_or_refused(lambda: interchange.read_selection(path))
    assert "\n" not in found if isinstance(found, str) else found.k > 0
