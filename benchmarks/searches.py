"""Searches side by side: area under the frontier relative to greedy, wins and losses per size, and cost.

``python -m benchmarks.searches`` runs the closed-form suite; ``--model FOLDER --pairs FILE`` a trained model's heads
(``--model shipped``: the one that comes with the package).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from cotrace.problem.protocol import Mode, Problem
from cotrace.results import Frontier, Table
from cotrace.search import named
from tests.problems import ClosedForm, pairwise, saturating

DEFAULT: tuple[str, ...] = ("pursuit", "pursuit:fast", "topk", "attribution", "pgbct:path", "random")
OPTIONS: dict[str, dict[str, Any]] = {
    "fast": {"effort": "fast"},
    "thorough": {"effort": "thorough"},
    "path": {"path": 12},
}
TIE_OF_PEAK, TIE_OF_OWN = 0.003, 0.03
"""Within 0.3 % of greedy's peak and within 3 % of its value at that size two effects are a tie."""

RANDOM = ("random", "annealing", "hardconcrete", "pgbct")
"""Searches that draw: run under several seeds."""

Maker = Callable[[Mode], Problem]


def closed_forms(seeds: int) -> dict[str, Maker]:
    """Random pairwise interactions and small random networks, 40 components."""
    makers: dict[str, Maker] = {}
    for seed in range(seeds):
        makers[f"pairwise {seed}"] = lambda mode, seed=seed: ClosedForm(pairwise(40, 1.0, seed), 40, mode=mode)  # type: ignore[misc]
        makers[f"network {seed}"] = lambda mode, seed=seed: ClosedForm(saturating(40, seed), 40, mode=mode)  # type: ignore[misc]
    return makers


def trained(model: str, pairs: str, sites: Sequence[str]) -> dict[str, Maker]:
    """A trained model on a file of pairs, three tenths of them held out."""
    import cotrace as ct
    from cotrace import shipped

    loaded = ct.load_model(shipped.MODEL if model == "shipped" else model)
    task = ct.tasks.jsonl(pairs)
    return {Path(pairs).stem: lambda mode: ct.LanguageProblem(loaded, task, sites=sites, mode=mode, holdout=0.3)}


def search_of(word: str) -> Any:
    """``pursuit`` or ``pursuit:fast``."""
    name, _, setting = word.partition(":")
    return named(name, **OPTIONS[setting] if setting else {})


def oriented(frontier: Frontier, sizes: Sequence[int], *, heldout: bool = False) -> list[float] | None:
    """Effects at these sizes, larger always better; None where some were not computed."""
    effects = [(s.effect_heldout if heldout else s.effect) for s in map(frontier.at, sizes)]
    known = [effect for effect in effects if effect is not None]
    return [frontier.sign * effect for effect in known] if len(known) == len(effects) else None


def against(own: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Area, wins, ties and losses, and the worst gap relative to the peak of the other."""
    peak = max(map(abs, base))
    gaps = [a - b for a, b in zip(own, base, strict=True)]
    ties = [abs(g) <= min(TIE_OF_PEAK * peak, TIE_OF_OWN * abs(b)) for g, b in zip(gaps, base, strict=True)]
    wins = sum(g > 0 and not tie for g, tie in zip(gaps, ties, strict=True))
    return {
        "area": sum(own) / sum(base),
        "wins": wins,
        "ties": sum(ties),
        "losses": len(gaps) - wins - sum(ties),
        "worst_gap": min(gaps) / peak,
    }


def row(case: str, mode: Mode, word: str, frontier: Frontier, greedy: Frontier) -> dict[str, Any]:
    """What one search reached, against greedy at the sizes that both have."""
    common = [k for k in frontier.sizes if k in set(greedy.sizes)]
    own, base = oriented(frontier, common) or [], oriented(greedy, common) or []
    unseen = oriented(frontier, common, heldout=True), oriented(greedy, common, heldout=True)
    figures: dict[str, Any] = {
        "case": case,
        "mode": mode,
        "search": word,
        "sizes": len(common),
        **against(own, base),
        "heldout": against(unseen[0], unseen[1]) if unseen[0] and unseen[1] else None,
        "forward_equivalents": frontier.forward_equivalents,
        "greedy_forward_equivalents": greedy.forward_equivalents,
        "elapsed_s": frontier.elapsed_s,
    }
    if (
        mode == "keep" and abs(greedy.full_effect - 1) < 1e-3
    ):  # effects are faithfulness, which a closed form's need not be
        figures |= {"cmd": cmd(own), "greedy_cmd": cmd(base)}
    return figures


def cmd(faithfulness: Sequence[float]) -> float:
    """Mean of |1 - f| over sizes. (MIB, Mueller et al. 2025.)"""
    return fmean(abs(1 - f) for f in faithfulness)


def seeded(
    make: Callable[[], Problem], case: str, mode: Mode, word: str, greedy: Frontier, draws: int
) -> dict[str, Any]:
    """One row; of a search that draws the mean over seeds, with the spread of its area."""
    search = search_of(word)
    if search.name not in RANDOM:
        return row(case, mode, word, search(make()), greedy)
    rows = [row(case, mode, word, replace(search, seed=seed)(make()), greedy) for seed in range(draws)]
    means = {name: fmean(r[name] for r in rows) for name, value in rows[0].items() if isinstance(value, int | float)}
    return rows[0] | means | {"area_spread": pstdev(r["area"] for r in rows), "seeds": draws}


HEADS = ("case", "search", "k", "area", "w/t/l", "worst", "unseen", "w/t/l", "CMD", "cost", "s")


def table(rows: Sequence[dict[str, Any]], mode: Mode) -> Table:
    """The rows of one mode for people; CMD less greedy's; cost also relative to greedy's."""
    cells = [cells_of(r) for r in rows if r["mode"] == mode]
    return Table(f"searches against greedy, {mode}", HEADS, cells, frozenset({0, 1}))


def cells_of(r: dict[str, Any]) -> tuple[str, ...]:
    """One row as text."""
    unseen = r["heldout"]
    return (
        r["case"].replace(" ", "-"),
        r["search"],
        f"{r['sizes']:.0f}",
        f"{r['area']:.3f}" + (f"±{r['area_spread']:.3f}" if "area_spread" in r else ""),
        f"{r['wins']:.0f}/{r['ties']:.0f}/{r['losses']:.0f}",
        f"{r['worst_gap']:+.2%}",
        f"{unseen['area']:.3f}" if unseen else "",
        f"{unseen['wins']}/{unseen['ties']}/{unseen['losses']}" if unseen else "",
        f"{r['cmd'] - r['greedy_cmd']:+.4f}" if "cmd" in r else "",
        f"{r['forward_equivalents']:.0f} ({r['forward_equivalents'] / r['greedy_forward_equivalents']:.2f})",
        f"{r['elapsed_s']:.1f}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite, print a table for each mode, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--pairs")
    parser.add_argument("--sites", default="head_output")
    parser.add_argument("--searches", default=",".join(DEFAULT))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=3, help="seeds of searches that draw")
    given = parser.parse_args(arguments)
    makers = trained(given.model, given.pairs, given.sites.split(",")) if given.model else closed_forms(given.seeds)
    rows: list[dict[str, Any]] = []
    for mode in ("swap", "keep"):
        for case, make in makers.items():
            greedy = named("greedy")(make(mode))
            words = given.searches.split(",")
            rows += [seeded(partial(make, mode), case, mode, word, greedy, given.draws) for word in words]
        print(table(rows, mode))
    if given.json:
        given.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
