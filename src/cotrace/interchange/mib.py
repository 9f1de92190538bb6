"""MIB's circuit format: the nodes and edges of a graph, each with whether it is in the circuit.

Mueller et al. 2025, *MIB: A Mechanistic Interpretability Benchmark* (arXiv 2504.13151); the files are those of EAP-IG's
graph (Hanna et al. 2024, arXiv 2403.17806): ``cfg``, ``nodes`` (``input``, ``a3.h1``, ``m3``, ``logits``) and ``edges``
(``a3.h1->m4``, ``m3->a4.h0<q>``). Nodes in the circuit run on, all others are corrupted: cotrace's ``keep``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from cotrace.components import OF_DICTIONARIES, Component, Site
from cotrace.errors import InputError
from cotrace.interchange.about import About
from cotrace.interchange.shape import Shape
from cotrace.json_file import shortened
from cotrace.results import Frontier, Selection
from cotrace.showing import warn

_HEAD, _MLP = re.compile(r"a(\d{1,9})\.h(\d{1,9})"), re.compile(r"m(\d{1,9})")
ENDS = ("input", "logits")
WHY = {
    Site.ATTENTION_PATTERN: "its nodes are what a head adds to the residual stream, not where it looks",
    Site.KV_GROUP: "its nodes are single query heads",
    Site.ATTENTION_OUTPUT: "its nodes are single heads",
    Site.MLP_NEURON: "its neurons are coordinates of the residual stream, not hidden neurons",
    Site.MLP_COORDINATE: "cotrace writes whole nodes only",
    Site.EXPERT: "its nodes are whole MLPs",
    **dict.fromkeys(OF_DICTIONARIES, "its nodes are heads and MLPs, not features or errors of a dictionary"),
    Site.RESIDUAL: "the residual stream is its edges, no node",
}


def circuit(
    selection: Selection, about: About, shape: Shape, scores: Mapping[Component, float] | None = None
) -> dict[str, Any]:
    """The circuit whose nodes are the selection's members and all nodes that could not have been chosen.

    ``scores`` rank the nodes of the space (``ranking``); nodes outside it have none, which the benchmark takes as
    always in. Raises InputError for a component that is no node.
    """
    space = about.space or selection.members
    searched = {node_of(component): component for component in space}
    members = {node_of(component) for component in selection.members}
    shape.check(about.model, (*space, *selection.members))
    inside = {node: node not in searched or node in members for node in _nodes(shape)}
    nodes: dict[str, dict[str, Any]] = {node: {"in_graph": kept} for node, kept in inside.items()}
    for node, component in searched.items():
        nodes[node]["score"] = float((scores or {}).get(component, node in members))
    every = _edges(list(_nodes(shape)), shape.parallel_attn_mlp)
    edges = {name: {"score": 0.0, "in_graph": inside[a] and inside[b]} for name, a, b in every}
    outside = [node for node in nodes if node not in searched and node not in ENDS]
    note = {"mode": about.mode, "model": about.model, "task": about.task, "metric": about.metric, "outside": outside}
    return {"cfg": shape.to_dict(), "nodes": nodes, "edges": edges, "cotrace": note}


def ranking(frontier: Frontier) -> dict[Component, float]:
    """Component -> share of the frontier's selections that hold it: higher, the earlier it is taken in and kept."""
    held = Counter(member for selection in frontier for member in selection.members)
    return {component: held[component] / len(frontier) for component in frontier.space}


def node_of(component: Component) -> str:
    """The node of a component. Raises InputError where there is none."""
    if component.role != "all":
        raise InputError(f"{component} is one position role, and MIB's nodes are at all positions; trace without roles")
    if component.site is Site.HEAD_OUTPUT:
        return f"a{component.layer}.h{component.unit}"
    if component.site is Site.MLP_OUTPUT:
        return f"m{component.layer}"
    raise InputError(f"MIB's format has no {component}: {WHY[component.site]}; trace head_output and mlp_output")


def selection_of(data: Mapping[str, Any], where: str) -> Selection:
    """The nodes in a circuit as a selection, without input and logits.

    Raises InputError for what no set of whole nodes says: some neurons of a node, some edges between the nodes.
    """
    nodes = data["nodes"]
    if not isinstance(nodes, Mapping):
        raise InputError(f"{where}: 'nodes' is a {type(nodes).__name__}; MIB's format maps names of nodes to theirs")
    note = data.get("cotrace") or {}
    outside = note.get("outside", ()) if isinstance(note, Mapping) else ()
    skipped = {*ENDS, *(name for name in outside if isinstance(name, str))} if isinstance(outside, list) else {*ENDS}
    found = [_component(name, where) for name, node in nodes.items() if _inside(name, node, where)]
    members = tuple(sorted(component for component, name in found if name not in skipped and component is not None))
    if not members:
        raise InputError(
            f"{where}: no head and no MLP is in the circuit (in_graph); of a graph that has scores only, take the best "
            "nodes with graph.apply_topn(n, level='node'), and write it again"
        )
    inside = {name: component for component, name in found}
    if "input" in nodes and "input" not in inside:
        warn(
            f"{where}: the circuit leaves 'input' out, so its embeddings are corrupted; a selection leaves them as "
            "they are",
            UserWarning,
        )
    _check_edges(data, inside, where)
    return Selection(members=members)


def _check_edges(data: Mapping[str, Any], inside: Mapping[str, Component | None], where: str) -> None:
    """Raise InputError where an edge between two nodes of the circuit is out of it; a file need not list edges."""
    edges, config = data.get("edges") or {}, data.get("cfg")
    if not isinstance(edges, Mapping):
        raise InputError(f"{where}: 'edges' is a {type(edges).__name__}; MIB's format maps names of edges to theirs")
    if not edges:
        return
    parallel = isinstance(config, Mapping) and config.get("parallel_attn_mlp") is True
    order = sorted(
        (c for c in inside.values() if c is not None), key=lambda c: (c.layer, c.site != Site.HEAD_OUTPUT, c)
    )
    nodes = [*(["input"] if "input" in inside else []), *map(node_of, order)]
    missing = [name for name, _, _ in _edges(nodes, parallel) if not _kept(name, edges.get(name, False), where)]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} edges between nodes of the circuit are out of it, the first {missing[0]}: it is "
            "a circuit of edges, and cotrace swaps whole nodes; to judge its nodes as whole ones, take 'edges' out of "
            "the file"
        )


def _kept(name: str, edge: object, where: str) -> bool:
    """Whether an edge is in the circuit, as true or as {"in_graph": true}."""
    value = edge.get("in_graph") if isinstance(edge, Mapping) else edge
    if not isinstance(value, bool):
        raise InputError(f"{where}: edges[{shortened(name)}] does not say in_graph true or false; write one of the two")
    return value


def _component(name: str, where: str) -> tuple[Component | None, str]:
    if head := _HEAD.fullmatch(name):
        return Component(Site.HEAD_OUTPUT, int(head[1]), int(head[2])), name
    if mlp := _MLP.fullmatch(name):
        return Component(Site.MLP_OUTPUT, int(mlp[1])), name
    if name in ENDS:
        return None, name
    raise InputError(f"{where}: nodes[{shortened(name)}] is no node of MIB's format; they are a3.h1, m3, input, logits")


def _inside(name: str, node: object, where: str) -> bool:
    """Whether a node is in the circuit, in the old form (true) or the new one ({"in_graph": true})."""
    value = node.get("in_graph") if isinstance(node, Mapping) else node
    if not isinstance(value, bool):
        raise InputError(f"{where}: nodes[{shortened(name)}] does not say in_graph true or false; write one of the two")
    neurons = node.get("neurons") if isinstance(node, Mapping) else None
    if not value or neurons is None or name == "logits":
        return value
    if not isinstance(neurons, list) or not all(isinstance(one, bool) for one in neurons):
        raise InputError(f"{where}: nodes[{shortened(name)}].neurons is no list of true and false; write one")
    if any(neurons) and not all(neurons):
        raise InputError(
            f"{where}: nodes[{shortened(name)}] holds part of a node ({sum(neurons)} of {len(neurons)} neurons); "
            "cotrace reads whole nodes only: take the best with graph.apply_topn(n, level='node'), and write it again"
        )
    return any(neurons)


def _nodes(shape: Shape) -> Iterator[str]:
    yield "input"
    for layer in range(shape.n_layers):
        yield from (f"a{layer}.h{head}" for head in range(shape.n_heads))
        yield f"m{layer}"
    yield "logits"


def _edges(nodes: Sequence[str], parallel: bool) -> Iterator[tuple[str, str, str]]:
    """Name, start and end of every edge among nodes in order: from each to the heads (as q, k, v) and MLPs behind."""
    stream = [name for name in nodes if name == "input"]
    for _, group in groupby((name for name in nodes if name not in ENDS), lambda name: name.split(".")[0][1:]):
        layer = list(group)
        heads, mlps = [name for name in layer if name[0] == "a"], [name for name in layer if name[0] == "m"]
        yield from ((f"{a}->{head}<{part}>", a, head) for a in stream for head in heads for part in "qkv")
        before = stream if parallel else [*stream, *heads]
        yield from ((f"{a}->{mlp}", a, mlp) for mlp in mlps for a in before)
        stream = [*stream, *layer]
    yield from ((f"{a}->logits", a, "logits") for a in stream)
