"""EAP-IG (its repository at 795f560, on TransformerLens 3): each row of the page there and here.

It shares no environment with TransformerLens 4. By hand, in one with transformer-lens<4 and cotrace:
PYTHONPATH=.:EAP-IG/src python -m tests.coming_from.of_eap_ig
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

zeros = torch.zeros
if not torch.cuda.is_available():  # it asks for CUDA by name
    torch.zeros = lambda *size, device=None, **rest: zeros(*size, **rest)  # noqa: PLW0108

from eap.attribute_node import attribute_node as attribute  # noqa: E402
from eap.evaluate import evaluate_baseline, evaluate_graph  # noqa: E402
from eap.graph import Graph  # noqa: E402
from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: E402
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

import cotrace as ct  # noqa: E402
from cotrace import interchange  # noqa: E402
from tests.coming_from import rows  # noqa: E402
from tests.coming_from.rows import BASE, CHOSEN, OTHER, compare, row  # noqa: E402

SITES = ("head_output", "mlp_output")
problem = partial(rows.problem, SITES, prepend_bos="yes")
SIZE = 6


@cache
def hooked() -> Any:
    """The same weights in a HookedTransformer, which from_pretrained gives for names on the hub."""
    net, words = rows.model().module, rows.model().tokenizer
    words.bos_token = words.eos_token = words.pad_token = "w0"
    words.save_pretrained(path := mkdtemp())
    config = HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=64, d_head=8, n_heads=4, d_mlp=128, d_vocab=60, act_fn="gelu_new",
        normalization_type="LN", use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True, device="cpu",
    )  # fmt: skip
    found = HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(path))
    found.load_and_process_state_dict(
        convert_gpt2_weights(net, config), fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False,
    )  # fmt: skip
    return found


def data() -> list[Any]:
    """One batch, as EAPDataset(...).to_dataloader gives."""
    return [(BASE, OTHER, CHOSEN)]


def difference(logits: Tensor, clean: Tensor, lengths: Tensor, labels: Tensor, total: bool = False) -> Tensor:
    last = logits[torch.arange(len(logits)), lengths - 1].gather(1, labels)
    both = last[:, 0] - last[:, 1]
    return both.sum() if total else both


def scored(method: str, **options: Any) -> Graph:
    """A graph with scores of nodes; their sum over pairs is divided by the pairs."""
    graph = Graph.from_model(hooked(), node_scores=True)
    attribute(hooked(), graph, data(), partial(difference, total=True), method, quiet=True, **options)
    return graph


def theirs_as(name: str) -> str:
    """a1.h2 -> L1.head2, m1 -> L1.mlp."""
    layer, _, head = name[1:].partition(".h")
    return f"L{layer}.head{head}" if name[0] == "a" else f"L{layer}.mlp"


def nodes(graph: Graph) -> dict[str, Any]:
    return {theirs_as(name): node for name, node in graph.nodes.items() if name not in ("input", "logits")}


def scores_of(graph: Graph) -> Tensor:
    found = nodes(graph)
    return torch.stack([torch.as_tensor(found[name].score) for name in problem().space.names])


def heads(scores: Tensor) -> Tensor:
    """Those of the heads, which come first in the space."""
    return scores[: sum(".head" in name for name in problem().space.names)]


@cache
def ranked() -> ct.Frontier:
    return ct.search.Attribution(at="inputs", points=SIZE)(problem())


@cache
def circuit() -> Graph:
    """The same six nodes in their graph, which always has its input."""
    graph = Graph.from_model(hooked(), node_scores=True)
    chosen = set(ranked().at(SIZE).components)
    graph.nodes["input"].score = 2.0
    for name, node in nodes(graph).items():
        node.score = float(name in chosen)
    graph.apply_topn(SIZE + 1, absolute=True, level="node", prune=False)
    return graph


@row("`Graph.from_model(model)`")
def _() -> tuple[object, object]:
    return sorted(nodes(Graph.from_model(hooked()))), sorted(rows.model().space(list(SITES)).names)


@row('`EAPDataset("ioi.csv")`')
def _() -> tuple[object, object]:
    """Its columns, as the data format asks for them."""
    path = Path(mkdtemp()) / "pairs.csv"
    lines = [f'{a},{b},"[""{x}"", ""{y}""]"' for a, b, (x, y) in zip(BASE, OTHER, rows.ANSWERS, strict=True)]
    path.write_text("\n".join(["base,counterfactual,answers", *lines]))
    pairs = ct.tasks.jsonl(str(path)).pairs
    return [list(one) for one in (BASE, OTHER)], [
        [pair.base for pair in pairs],
        [pair.counterfactual for pair in pairs],
    ]


@row('`attribute(model, graph, data, metric, method="EAP-IG-inputs")`')
def _() -> tuple[object, object]:
    """The heads in order. Theirs are points at one end of each step, ours midpoints, so both take many."""
    theirs = heads(scores_of(scored("EAP-IG-inputs", ig_steps=200)))
    order = [problem().space.names[i] for i in theirs.argsort(descending=True)]
    ours = ct.search.Attribution(at="inputs", points=100)(rows.problem(prepend_bos="yes"))
    return [sorted(order[:k]) for k in ours.sizes], [sorted(one.components) for one in ours]


@row('`method="EAP"`')
def _() -> tuple[Tensor, Tensor]:
    """Of heads: their score of an MLP takes the gradient at its input, which is none of the MLP's output."""
    ours = problem()
    return heads(scores_of(scored("EAP"))), heads(ours.gradient(torch.zeros(len(ours.space))))


@row("`graph.apply_topn(200, absolute=True)`")
def _() -> tuple[object, object]:
    found = sorted(name for name, node in nodes(circuit()).items() if node.in_graph)
    return found, sorted(ranked().at(SIZE).components)


@row("`evaluate_graph(model, graph, data, metric)`")
def _() -> tuple[Tensor, Tensor]:
    """Swap: what is out of the graph takes the corrupted value."""
    kept = evaluate_graph(hooked(), circuit(), data(), difference, quiet=True)
    out = [name for name in problem().space.names if name not in ranked().at(SIZE).components]
    return kept - evaluate_baseline(hooked(), data(), difference, quiet=True), problem().effects(out)


@row("`evaluate_baseline(...)`")
def _() -> tuple[Tensor, Tensor]:
    mean = evaluate_baseline(hooked(), data(), difference, quiet=True).mean()
    scores = problem().scores(torch.zeros(len(problem().space)))  # ct.measure puts no token in front of a prompt
    return mean[None], (scores[:, 0] - scores[:, 1]).mean()[None]


@row("faithfulness")
def _() -> tuple[Tensor, Tensor]:
    clean = evaluate_baseline(hooked(), data(), difference, quiet=True).mean()
    corrupted = evaluate_baseline(hooked(), data(), difference, run_corrupted=True, quiet=True).mean()
    kept = evaluate_graph(hooked(), circuit(), data(), difference, quiet=True).mean()
    # Where the prompt's last token is the same, the embeddings alone change nothing: a full swap is the corrupted run.
    keep = problem(mode="keep")
    return ((kept - corrupted) / (clean - corrupted))[None], keep.value(ranked().at(SIZE))[None]


@row('`graph.to_json("graph.json")`')
def _() -> tuple[object, object]:
    """Ours, read by theirs."""
    about = interchange.About.of(ranked(), "tiny", donors="counterfactual", align="exact", positions="prompt")
    ours = interchange.circuit(
        ranked().at(SIZE), about, interchange.Shape.of(rows.model()), interchange.ranking(ranked())
    )
    path = Path(mkdtemp()) / "graph.json"
    path.write_text(json.dumps(ours))
    read = Graph.from_json(str(path))
    return sorted(n for n, node in nodes(read).items() if node.in_graph), sorted(ranked().at(SIZE).components)


@row("`graph.from_json`")
def _() -> tuple[object, object]:
    """Theirs, read by ours."""
    graph = Graph.from_model(hooked())  # theirs cannot write scores of nodes: the last has none
    for name, node in nodes(graph).items():
        node.in_graph = name in ranked().at(SIZE).components
    for edge in graph.edges.values():
        ends = [theirs_as(end.name) for end in (edge.parent, edge.child) if end.name not in ("input", "logits")]
        edge.in_graph = set(ends) <= set(ranked().at(SIZE).components)
    graph.to_json(str(path := Path(mkdtemp()) / "graph.json"))
    return sorted(n for n, node in nodes(graph).items() if node.in_graph), sorted(
        interchange.read_selection(path).components
    )


if __name__ == "__main__":
    compare()
