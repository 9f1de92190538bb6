"""MIB's circuit format: the nodes and edges of a graph, each with whether it is in the circuit.

Mueller et al. 2025, *MIB: A Mechanistic Interpretability Benchmark* (arXiv 2504.13151); the files are those of EAP-IG's
graph (Hanna et al. 2024, arXiv 2403.17806): ``cfg``, ``nodes`` (``input``, ``a3.h1``, ``m3``, ``logits``) and ``edges``
(``a3.h1->m4``, ``m3->a4.h0<q>``). Nodes in the circuit run on, all others are corrupted: cotrace's ``keep``.

Its grid is ten shares of the scored nodes, rounded down, from a thousandth to all; both areas are trapezoids between
the first and the last share. An evaluation integrates from nothing to everything, over the sizes found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.components import OF_DICTIONARIES, Component, Site
from cotrace.errors import DegenerateError, InputError, UnsupportedSite
from cotrace.interchange._document import About
from cotrace.models import LanguageModel
from cotrace.models.hooks import hooked, probe_ids
from cotrace.models.language_model import evaluating
from cotrace.problem.protocol import Problem, chosen_mask
from cotrace.results import Frontier, Selection
from cotrace.text.files import shortened
from cotrace.text.progress_bar import warn
from cotrace.validation import check_kind


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of MIB's ``cfg``."""

    n_layers: int
    """Number of layers."""
    n_heads: int
    """Number of query heads in a layer."""
    d_model: int
    """Width of the residual stream."""
    parallel_attn_mlp: bool
    """Whether a layer's MLP reads what its attention read, not what that added."""

    @classmethod
    def of(cls, model: LanguageModel) -> Shape:
        """The shape of a model. Raises UnsupportedSite where layers differ or lack heads or an MLP."""
        heads = {layer.heads for layer in model.layers}
        mlps = [layer.place(Site.MLP_OUTPUT) for layer in model.layers]
        if len(heads) > 1 or 0 in heads or not all(mlps):
            raise UnsupportedSite(
                f"{model.name}: MIB's format needs the same heads and one MLP in every layer, which this model has not"
            )
        width = next(place.width for place in mlps if place is not None)
        return cls(
            n_layers=len(mlps), n_heads=heads.pop(), d_model=width, parallel_attn_mlp=not mlp_reads_attention(model)
        )

    def check(self, name: str, components: Iterable[Component]) -> None:
        """Raise InputError for a component that a model of this shape has not.

        Args:
            name: Name of the selection in messages.
            components: Its components.
        """
        for component in components:
            if component.layer >= self.n_layers or (component.unit or 0) >= self.n_heads:
                size = f"{self.n_layers} layers of {self.n_heads} heads"
                raise InputError(f"{name} has no {component}: it has {size}; give the selection's own model")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def mlp_reads_attention(model: LanguageModel) -> bool:
    """Whether the MLP's output changes where its own layer's attention output does, everything before it equal."""
    layer = model.layers[0]
    attention, mlp = layer.place(Site.ATTENTION_OUTPUT), layer.place(Site.MLP_OUTPUT)
    assert attention is not None, "a layer with heads has their sum"
    assert mlp is not None, "the shape has been checked"
    seen: list[Tensor] = []

    def note(own: Tensor) -> Tensor:
        seen.append(own.detach().clone())
        return own

    def bend(own: Tensor) -> Tensor:
        return own + torch.linspace(-1, 1, own.shape[-1], device=own.device, dtype=own.dtype)

    with torch.no_grad(), evaluating(model.module):
        for edit in (lambda own: own, bend):
            with hooked(model.module, [(attention, edit), (mlp, note)]):
                model.module(probe_ids(model.module))
    return not torch.equal(*seen)


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

    Args:
        selection: The selection.
        about: Its question.
        shape: The model's numbers, from ``Shape.of``.
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
    missing = [
        name for name, _, _ in _edges(nodes, parallel) if not _in_graph("edges", name, edges.get(name, False), where)
    ]
    if missing:
        raise InputError(
            f"{where}: {len(missing)} edges between nodes of the circuit are out of it, the first {missing[0]}: it is "
            "a circuit of edges, and cotrace swaps whole nodes; to judge its nodes as whole ones, take 'edges' out of "
            "the file"
        )


def _in_graph(kind: str, name: str, entry: object, where: str) -> bool:
    """Whether a node or an edge is in the circuit, in the old form (true) or the new one ({"in_graph": true})."""
    value = entry.get("in_graph") if isinstance(entry, Mapping) else entry
    if not isinstance(value, bool):
        raise InputError(
            f"{where}: {kind}[{shortened(name)}] does not say in_graph true or false; write one of the two"
        )
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
    """Whether a node is in the circuit, whole."""
    value = _in_graph("nodes", name, node, where)
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


SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class MibScore:
    """A ranking judged on MIB's grid. Higher CPR and lower CMD are better."""

    cpr: float
    """Area under the faithfulness."""
    cmd: float
    """Area between the faithfulness and 1."""
    shares: tuple[float, ...]
    """Shares of the nodes that are kept, ascending."""
    sizes: tuple[int, ...]
    """Components kept at each share."""
    faithfulness: tuple[float, ...]
    """Faithfulness at each share."""


def mib_score(problem: Problem, frontier: Frontier) -> MibScore:
    """CPR and CMD of a frontier's ranking (that which its circuit is written with) on a problem's pairs.

    Give the problem's ``heldout`` part for unseen pairs. At each share the best nodes keep running and all others take
    the donor's value; f is (M - M(none)) / (M(all) - M(none)). Costs one forward-equivalent for each different size.
    Raises InputError for another space, DegenerateError where keeping all is no different from keeping none.
    """
    check_kind("interchange.mib_score", "frontier", frontier, Frontier)
    if frontier.space.components != problem.space.components:
        raise InputError(
            f"mib_score: the frontier is of {frontier.space.outline}, the problem of {problem.space.outline}"
        )
    scores = ranking(frontier)
    order = sorted(range(len(problem.space)), key=lambda i: (-scores[problem.space[i]], i))
    sizes = [int(share * len(order)) for share in SHARES]
    found = dict(zip(sorted(set(sizes)), kept(problem, order, sorted(set(sizes))), strict=True))
    values = [float(found[size]) for size in sizes]
    cpr, cmd = areas(SHARES, values)
    return MibScore(cpr=cpr, cmd=cmd, shares=SHARES, sizes=tuple(sizes), faithfulness=tuple(values))


def areas(shares: Sequence[float], faithfulness: Sequence[float]) -> tuple[float, float]:
    """Trapezoids of f and of |1 - f| over the shares: CPR and CMD."""
    f = np.asarray(faithfulness, float)
    return float(np.trapezoid(f, shares)), float(np.trapezoid(np.abs(1 - f), shares))


def kept(problem: Problem, order: Sequence[int], sizes: Sequence[int]) -> Float[np.ndarray, "size"]:
    """Faithfulness when the first k of an order keep running."""
    sets = ([problem.space[i] for i in order[:size]] for size in (*sizes, 0))
    masks = torch.stack([chosen_mask(problem.space, members, "keep", torch.float32) for members in sets])
    values = problem.value(masks).double().cpu().numpy()
    if problem.mode == "keep":
        return np.asarray(values[:-1])
    everything = float(values[-1])
    if abs(everything) < SMALLEST:
        raise DegenerateError(
            f"swapping everything moves {problem.metric} by {everything:.2g}: faithfulness has nothing to be a share of"
        )
    return np.asarray((everything - values[:-1]) / everything)
