"""Features against neurons, searches on features, and what a step over many features costs.

``python -m benchmarks.features --dictionaries FOLDER`` takes the model that ships, its pairs with the planted bias and
top-k dictionaries of its MLPs (``python -m training.dictionaries --kinds topk``); ``--json FILE`` writes the figures.
``--model FOLDER --parts searches`` compares the searches on a story model, on pronouns after a boy or a girl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

import cotrace as ct
from cotrace.components import Component, ComponentSpace, Site
from cotrace.dictionaries import Dictionaries, Dictionary
from cotrace.dictionaries.placed import with_dictionaries
from cotrace.problem.protocol import Problem
from cotrace.results import Frontier, Table
from tests.search.test_on_models import stories

SHARE = 0.9
"""Of the effect of all MLPs swapped, that a set is to carry."""
SPACES: dict[str, tuple[str, ...]] = {
    "neurons": ("mlp_neuron",),
    "features": ("feature",),
    "features and errors": ("feature", "error"),
    "MLP layers": ("mlp_output",),
}
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "pursuit": ("pursuit", {}),
    "IG": ("attribution", {}),
    "gradient at 0": ("attribution", {"at": "none"}),
    "matryoshka": ("matryoshka", {}),
    "matryoshka, sizes drawn on a log scale": ("matryoshka", {"budgets": "log"}),
}
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Sizes of sets that are looked at."""
MANY = 16_384
AREA = 64
"""Largest size of the area under the frontier."""
ACTIVE = 64
"""Features of a token, on average, of the dictionary that steps are timed with."""
REPEATS = 7
Areas = tuple[float, float, float]
"""Of a frontier: held out, on the pairs searched, and what the search cost."""


def problem(model: Any, task: Any, held: Dictionaries, sites: Sequence[str], seed: int = 0) -> ct.LanguageProblem:
    """The question of the shipped pairs over these sites."""
    return ct.LanguageProblem(
        model,
        task,
        sites=list(sites),
        dictionaries=held if "feature" in sites else None,
        align="exact" if model.name == "shipped" else "ends",
        holdout=0.4,
        seed=seed,
    )


def all_of(part: Any) -> float:
    """The effect of everything swapped."""
    return float(part.value(torch.ones(len(part.space))))


def smallest(frontier: Frontier, full: float, field: str) -> int | None:
    """The smallest k whose effect is at least that share of the full one, in its direction."""
    for k in frontier.sizes:
        effect = getattr(frontier.at(k), field)
        if effect is not None and effect / full >= SHARE:
            return k
    return None


def sets(model: Any, task: Any, held: Dictionaries, most: int) -> list[dict[str, Any]]:
    """For each space the smallest set that carries the share of the whole MLPs' effect."""
    whole = problem(model, task, held, ["mlp_output"])
    full, unseen = (all_of(part) for part in (whole, whole.heldout))
    rows = []
    for name, sites in SPACES.items():
        one = problem(model, task, held, sites)
        frontier = ct.search.Pursuit(sizes=tuple(k for k in SIZES if k <= min(most, len(one.space))))(one)
        own = all_of(one.heldout)
        rows.append(
            {
                "space": name,
                "n": len(one.space),
                "full_share_heldout": own / unseen,
                "k": smallest(frontier, full, "effect"),
                "k_heldout": smallest(frontier, unseen, "effect_heldout"),
                "share_heldout": {k: round(heldout(frontier, k) / unseen, 3) for k in frontier.sizes},
                "forward_equivalents": frontier.forward_equivalents,
            }
        )
        print(rows[-1], flush=True)
    return rows


def heldout(frontier: Frontier, k: int) -> float:
    """The held-out effect of the set of k."""
    found = frontier.at(k).effect_heldout
    assert found is not None, "pairs are held out"
    return found


def searches(model: Any, task: Any, held: Dictionaries, most: int, splits: int) -> list[dict[str, Any]]:
    """The held-out area of pursuit on features relative to each search's, on several splits of the pairs.

    Of the areas up to a size, each size that is looked at counting alike. From 1 on, pursuit is ahead.
    """
    found: dict[str, list[Areas]] = {name: [] for name in SEARCHES}
    for seed in range(splits):
        for name, (search, options) in SEARCHES.items():
            one: Problem = problem(model, task, held, ["feature"], seed)
            sizes = tuple(k for k in SIZES if k <= min(most, AREA, len(one.space)))
            frontier = ct.search.named(search, sizes=sizes, **options)(one)
            area = frontier.sign * statistics.fmean(heldout(frontier, k) for k in sizes)
            seen = frontier.sign * statistics.fmean(frontier.at(k).effect for k in sizes)
            found[name].append((area, seen, frontier.forward_equivalents))
            print({"split": seed, "search": name, "area": found[name][-1]}, flush=True)
    return [_against(name, found["pursuit"], areas) for name, areas in found.items()]


def _against(name: str, own: Sequence[Areas], areas: Sequence[Areas]) -> dict[str, Any]:
    """Pursuit's areas over another search's: means over the splits, and the span of the held-out one."""
    held, seen = ([mine[i] / other[i] for mine, other in zip(own, areas, strict=True)] for i in (0, 1))
    return {
        "search": name,
        "pursuit over it, held out": round(statistics.fmean(held), 4),
        "from": round(min(held), 4),
        "to": round(max(held), 4),
        "on pairs searched": round(statistics.fmean(seen), 4),
        "splits": len(held),
        "cost": statistics.fmean(area[2] for area in areas),
    }


def step(model: Any, task: Any) -> dict[str, float]:
    """A gradient step over many features, relative to a plain step and one encoder pass."""
    width = model.module.config.hidden_size
    draw = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(MANY, width, generator=draw) for _ in range(2))
    hook = "blocks.2.hook_mlp_out"
    plain = dict.fromkeys(("bias", "threshold"), torch.zeros(MANY))
    one = Dictionary(
        name="many",
        hook=hook,
        hook_out=hook,
        encoder=encoder,
        decoder=decoder / width,
        offset=torch.zeros(width),
        norm="constant_norm_rescale",
        **plain,
    )
    placed = with_dictionaries(model, [one]).dictionaries[0]
    mlps = problem(model, task, Dictionaries([]), ["mlp_output"])
    values = mlps.training.scorer.donors.values[placed.write]
    raw = (values * (width**0.5 / values.norm(dim=-1, keepdim=True))) @ encoder.T
    threshold = raw.flatten().topk(ACTIVE * len(raw)).values[-1]
    one = Dictionary(**{**fields_of(one), "threshold": torch.full((MANY,), float(threshold))})
    space = ComponentSpace(tuple(Component(Site.FEATURE, 2, i) for i in range(MANY)))
    features = ct.LanguageProblem(model, task, sites=space, dictionaries=[one], holdout=0.4)
    layer = ComponentSpace.parse(["L2.mlp"])
    single = ct.LanguageProblem(model, task, sites=layer, holdout=0.4)
    tokens = sum(int((layout.patched("all")).sum()) for layout in single.training.scorer.all_layouts)
    rows = values[torch.arange(tokens) % len(values)]
    half = {p: torch.full((len(p.space),), 0.5) for p in (features, single)}
    times = timed(
        features=lambda: features.gradient(half[features]),
        plain=lambda: single.gradient(half[single]),
        encoder=lambda: rows @ encoder.T,
    )
    active = len(one.encode(values).value) / len(values)
    ratio = times["features"] / (times["plain"] + times["encoder"])
    return times | {"n": MANY, "active": active, "tokens": tokens, "ratio": ratio}


def fields_of(one: Dictionary) -> dict[str, Any]:
    """What a dictionary was made of."""
    return {field.name: getattr(one, field.name) for field in fields(one)}


def timed(**calls: Callable[[], Any]) -> dict[str, float]:
    """Seconds of processor time of each call: medians of interleaved repeats."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in taken.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dictionaries", type=Path, required=True)
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--max-size", type=int, default=512)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--parts", default="step,sets,searches")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model = ct.load_model(given.model)
    task = ct.tasks.demo_bias() if given.model == "shipped" else stories()
    held = ct.load_dictionaries(given.dictionaries)
    parts: dict[str, Callable[[], Any]] = {
        "step": lambda: step(model, task),
        "sets": lambda: sets(model, task, held, given.max_size),
        "searches": lambda: searches(model, task, held, given.max_size, given.splits),
    }
    found: dict[str, Any] = {name: parts[name]() for name in given.parts.split(",")}
    for name, rows in found.items():
        listed = rows if isinstance(rows, list) else [rows]
        cells = [tuple(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) for row in listed]
        print(Table(name, tuple(listed[0]), cells))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
