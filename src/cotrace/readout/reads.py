"""Reads of each member: where a head looks, by role and token, and how much it behaves like the known kinds of heads.

The behaviours are those of Olsson et al. 2022 (In-context Learning and Induction Heads, arXiv 2209.11895) and Wang et
al. 2022 (arXiv 2211.00593): a head's mean attention to the tokens that such a head looks at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import EncodedPair
from cotrace.components import Component, Site
from cotrace.models import LanguageModel, hooked
from cotrace.models.attention_interface import fresh_frequencies
from cotrace.models.hooks import Edit
from cotrace.models.language_model import evaluating
from cotrace.problem import LanguageProblem
from cotrace.problem.capture import Captured
from cotrace.readout.paths import Groups, prompt_groups
from cotrace.readout.records import Behaviour, Example, Look, Read, Token

HEADS = (Site.HEAD_OUTPUT, Site.ATTENTION_PATTERN)
BEHAVIOURS = ("previous token", "duplicate token", "induction", "beginning of text", "self")
ROWS, HALF = 8, 25
"""Random sequences, and tokens of each half of one."""
TOKENS = 6
MOST_PAIRS = 64
"""Pairs whose patterns are looked at."""
EXAMPLES, LONGEST = 4, 48
"""Pairs whose patterns are kept to be shown, and their most tokens."""


def read(
    problem: LanguageProblem, members: Sequence[Component], pairs: Sequence[EncodedPair]
) -> tuple[list[Read], list[Example], dict[str, str]]:
    """Measure what the members read on these pairs; with patterns to show, and reasons where a member has none."""
    pairs = pairs[:: -(-len(pairs) // MOST_PAIRS)]
    lacking = {}
    for member in members:
        if member.site in HEADS and Site.ATTENTION_PATTERN not in problem.model.layers[member.layer].places:
            why = problem.model.layers[member.layer].missing.get(Site.ATTENTION_PATTERN, "its weights cannot be read")
            lacking[str(member)] = f"{member} has no attention pattern: {why}"
    heads = [member for member in members if member.site in HEADS and str(member) not in lacking]
    others = [member for member in members if member.site not in HEADS]
    found: dict[str, Read] = {}
    examples: list[Example] = []
    if heads:
        found |= _heads(problem, heads, pairs, examples)
    if others:
        found |= _others(problem, others, pairs)
    return [found.get(str(m), Read(component=str(m), attends=m.site in HEADS)) for m in members], examples, lacking


def _runs(problem: LanguageProblem) -> list[str]:
    return ["base", "donor"] if problem.donors.name in ("counterfactual", "noise", "resample") else ["base"]


def _heads(
    problem: LanguageProblem, heads: Sequence[Component], pairs: Sequence[EncodedPair], examples: list[Example]
) -> dict[str, Read]:
    ids = [pair.pair.id for pair in pairs]
    runs = {run: problem.attention(heads, ids, run) for run in _runs(problem)}
    groups = {run: prompt_groups(problem, pairs, donor=run == "donor") for run in runs}
    random = random_scores(problem.model, heads)
    own = {run: [prompt_scores(captured, i) for i in range(len(heads))] for run, captured in runs.items()}
    for run, captured in runs.items():
        examples += _examples(captured, run, heads)
    found = {}
    for i, head in enumerate(heads):
        looks = {run: _looks(captured, groups[run], ids, i) for run, captured in runs.items()}
        donor = looks.get("donor")
        shown = sorted(looks["base"] | dict.fromkeys(donor or {}, 0.0), key=lambda at: -looks["base"].get(at, 0.0))
        found[str(head)] = Read(
            component=str(head),
            attends=True,
            looks=tuple(
                Look(
                    query=q,
                    key=k,
                    base=looks["base"].get((q, k), 0.0),
                    donor=None if donor is None else donor.get((q, k), 0.0),
                )
                for q, k in shown
            ),
            tokens=_attended(runs["base"], i),
            behaviours=tuple(
                Behaviour(
                    name=name,
                    random=None if random is None else random[i].get(name),
                    base=own["base"][i].get(name),
                    donor=own["donor"][i].get(name) if "donor" in own else None,
                )
                for name in BEHAVIOURS
            ),
        )
    return found


def _looks(
    captured: Captured[Float[Tensor, "head query key"]], groups: Sequence[Groups], ids: Sequence[str], head: int
) -> dict[tuple[str, str], float]:
    """(from, to) -> mean attention over the queries of the one, summed over the keys of the other."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for id_, one in zip(ids, groups, strict=True):
        pattern = captured[id_][head].double()
        for query, rows in one.items():
            weights = pattern[list(rows)].mean(0)
            for key, columns in one.items():
                sums[query, key].append(float(weights[list(columns)].sum()))
    return {at: sum(values) / len(values) for at, values in sums.items()}


def _attended(captured: Captured[Float[Tensor, "head query key"]], head: int) -> tuple[Token, ...]:
    sums: dict[str, float] = defaultdict(float)
    for id_, patterns in captured.items():
        for token, weight in zip(captured.tokens[id_], patterns[head, -1].tolist(), strict=True):
            sums[token] += weight / len(captured)
    return tuple(sorted(sums.items(), key=lambda row: -row[1])[:TOKENS])


def _examples(
    captured: Captured[Float[Tensor, "head query key"]], run: str, heads: Sequence[Component]
) -> list[Example]:
    short = [id_ for id_ in captured if len(captured.tokens[id_]) <= LONGEST][:EXAMPLES]
    return [
        Example(
            pair=id_,
            run=run,
            tokens=captured.tokens[id_],
            patterns={
                str(head): tuple(tuple(round(w, 3) for w in row) for row in captured[id_][i].tolist())
                for i, head in enumerate(heads)
            },
        )
        for id_ in short
    ]


# Behaviours: which keys a head of some kind looks at from each query.


def looked_at(tokens: Sequence[object]) -> dict[str, Float[Tensor, "query key"]]:
    """Behaviour -> 1 where it looks from a query to a key; queries without any such key do not count.

    The first token's query has one key only and never counts; nor does the second's for the beginning, which is then
    the previous token.
    """
    count = len(tokens)
    same = torch.tensor([[a == b for b in tokens] for a in tokens]).tril(-1)
    after = torch.zeros(count, count, dtype=torch.bool)
    after[:, 1:] = same[:, :-1]
    after = after.tril()
    previous, itself = torch.eye(count).roll(-1, 1).tril(-1).bool(), torch.eye(count).bool()
    begin = torch.zeros(count, count, dtype=torch.bool)
    begin[2:, 0] = True
    previous[:2], itself[0] = False, False
    rows = (previous, same, after & ~itself, begin, itself)
    return {name: row.double() for name, row in zip(BEHAVIOURS, rows, strict=True)}


def scores_of(patterns: Iterable[Tensor], tokens: Sequence[Sequence[object]]) -> dict[str, float]:
    """Behaviour -> mean attention over the queries at which it has something to look at."""
    sums: dict[str, list[float]] = defaultdict(list)
    for pattern, row in zip(patterns, tokens, strict=True):
        for name, where in looked_at(row).items():
            counts = where.any(1)
            sums[name] += (pattern.double() * where).sum(1)[counts].tolist()
    return {name: sum(values) / len(values) for name, values in sums.items() if values}


def prompt_scores(captured: Captured[Float[Tensor, "head query key"]], head: int) -> dict[str, float]:
    """Scores on the prompts of a task."""
    return scores_of([captured[id_][head] for id_ in captured], [captured.tokens[id_] for id_ in captured])


def random_scores(model: LanguageModel, heads: Sequence[Component], seed: int = 0) -> list[dict[str, float]] | None:
    """Scores on random tokens that are repeated once, all different within a half; None where no such row fits."""
    ids = random_rows(model, seed)
    if ids is None:
        return None
    seen = _patterns(model, heads, ids)
    return [scores_of(seen[head.layer][:, head.unit or 0], ids.tolist()) for head in heads]


def random_rows(model: LanguageModel, seed: int = 0) -> Int[Tensor, "row pos"] | None:
    """The rows: the token that texts begin with, where there is one, and two equal halves."""
    words = model.require_tokenizer()
    size = min(len(words), int(model.module.get_input_embeddings().weight.shape[0]))
    usable = torch.tensor([token for token in range(size) if token not in set(words.all_special_ids)])
    begin = [] if words.bos_token_id is None else [words.bos_token_id]
    half = min(HALF, len(usable), ((model.most_tokens or 2 * HALF + 1) - len(begin)) // 2)
    if half < 3:
        return None
    draw = torch.Generator().manual_seed(seed)
    rows = [usable[torch.randperm(len(usable), generator=draw)[:half]].repeat(2) for _ in range(ROWS)]
    return torch.stack([torch.cat([torch.tensor(begin, dtype=torch.int64), row]) for row in rows])


@torch.no_grad()
def _patterns(
    model: LanguageModel, heads: Sequence[Component], ids: Int[Tensor, "row pos"]
) -> dict[int, Float[Tensor, "row head query key"]]:
    """Layer -> attention of all its heads on these rows."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int) -> Edit:
        def edit(own: Tensor) -> Tensor:
            seen[layer] = own.detach().cpu()
            return own

        return edit

    places = model.places(Site.ATTENTION_PATTERN)
    edits = [(places[layer], keep(layer)) for layer in sorted({head.layer for head in heads})]
    rows = ids.to(model.device)
    with evaluating(model.module), fresh_frequencies(model.module), hooked(model.module, edits, eager=True):
        model.module(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False)
    return seen


# Members that do not attend: where they are active.


def _others(problem: LanguageProblem, members: Sequence[Component], pairs: Sequence[EncodedPair]) -> dict[str, Read]:
    ids = [pair.pair.id for pair in pairs]
    names = [str(member) for member in members]
    runs = {run: problem.activations(list(members), ids, run) for run in _runs(problem)}
    groups = {run: prompt_groups(problem, pairs, donor=run == "donor") for run in runs}
    sizes = {
        run: {name: [captured[id_][name].double().norm(dim=-1) for id_ in ids] for name in names}
        for run, captured in runs.items()
    }
    found = {}
    for name in names:
        by_run = {run: _sizes(sizes[run][name], groups[run]) for run in runs}
        base, donor = by_run["base"], by_run.get("donor")
        found[name] = Read(
            component=name,
            attends=False,
            looks=tuple(
                Look(query=where, key="", base=size, donor=None if donor is None else donor.get(where))
                for where, size in sorted(base.items(), key=lambda row: -row[1])
            ),
            tokens=_most_active(runs["base"], ids, sizes["base"][name]),
        )
    return found


def _sizes(sizes: Sequence[Tensor], groups: Sequence[Groups]) -> dict[str, float]:
    sums: dict[str, list[float]] = defaultdict(list)
    for size, one in zip(sizes, groups, strict=True):
        for where, positions in one.items():
            sums[where].append(float(size[list(positions)].mean()))
    return {where: sum(values) / len(values) for where, values in sums.items()}


def _most_active(
    captured: Captured[dict[str, Tensor]], ids: Sequence[str], sizes: Sequence[Tensor]
) -> tuple[Token, ...]:
    """Tokens by the mean size over their places, those that stand in one place of all pairs only as well."""
    found: dict[str, list[float]] = defaultdict(list)
    for id_, size in zip(ids, sizes, strict=True):
        for token, one in zip(captured.tokens[id_], size.tolist(), strict=True):
            found[token].append(one)
    means = {token: sum(values) / len(values) for token, values in found.items()}
    return tuple(sorted(((t, m) for t, m in means.items() if m > 0), key=lambda row: -row[1])[:TOKENS])
