"""Searches side by side: area under the frontier relative to greedy, wins and losses per size, and cost.

``python -m benchmarks.searches`` runs the closed-form suite; ``--model FOLDER --pairs FILE`` a trained model's heads
(``--model shipped``: the one that comes with the package). On a real model of 135 M parameters, an hour or two:
``--model FOLDER --gguf FILE --pairs winobias --data FOLDER --split dev --search-pairs 16 --max-size 27 --modes swap
--draws 1 --against matryoshka --searches pursuit:fast,pursuit,attribution,pgbct:six,matryoshka:cool``.
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

from cotrace.problem.evaluator import Evaluator
from cotrace.problem.protocol import Mode, Problem
from cotrace.results import Frontier, Table
from cotrace.search import named
from tests.problems import ClosedForm, pairwise, saturating

DEFAULT: tuple[str, ...] = ("pursuit", "pursuit:fast", "topk", "attribution", "pgbct:path", "random")
OPTIONS: dict[str, dict[str, Any]] = {
    "fast": {"effort": "fast"},
    "thorough": {"effort": "thorough"},
    "path": {"path": 12},
    "six": {"path": 6},
    "cool": {"temperature": 0.1},
    "cooling": {"temperature": 1.0, "final_temperature": 0.05},
    "log": {"budgets": "log"},
    "inputs": {"at": "inputs"},
    "published": {"of": ("none", "inputs", "integrated")},
    "warm": {"start": "integrated"},
}
TIE_OF_PEAK, TIE_OF_OWN = 0.003, 0.03
"""Within 0.3 % of greedy's peak and within 3 % of its value at that size two effects are a tie."""

BELOW = 0.01
"""Share of the peak that a paired interval may lie below greedy."""

RANDOM = ("random", "annealing", "hardconcrete", "matryoshka", "pgbct")
"""Searches that draw: run under several seeds."""

Maker = Callable[[Mode], Problem]


def closed_forms(seeds: int) -> dict[str, Maker]:
    """Random pairwise interactions and small random networks, 40 components."""
    makers: dict[str, Maker] = {}
    for seed in range(seeds):
        makers[f"pairwise {seed}"] = lambda mode, seed=seed: ClosedForm(pairwise(40, 1.0, seed), 40, mode=mode)  # type: ignore[misc]
        makers[f"network {seed}"] = lambda mode, seed=seed: ClosedForm(saturating(40, seed), 40, mode=mode)  # type: ignore[misc]
    return makers


def trained(given: argparse.Namespace, **asked: Any) -> dict[str, Maker]:
    """A trained model on a task or a file of pairs, some of them held out."""
    import cotrace as ct
    from cotrace import shipped

    loaded = ct.load_model(shipped.MODEL if given.model == "shipped" else given.model, gguf_file=given.gguf)
    options = {"split": given.split} if given.split else {}
    task = ct.tasks.load(given.pairs, data=given.data, **options)
    return {Path(given.pairs).stem: lambda mode: ct.LanguageProblem(loaded, task, mode=mode, **asked)}


def search_of(word: str, max_size: int | None = None) -> Any:
    """``pursuit`` or ``pursuit:fast``, up to a size where it has one."""
    name, _, setting = word.partition(":")
    search = named(name, **OPTIONS[setting] if setting else {})
    return replace(search, max_size=max_size) if max_size and "max_size" in search.__dataclass_fields__ else search


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


def paired(problem: Problem, own: Frontier, base: Frontier, sizes: Sequence[int]) -> dict[str, Any] | None:
    """Intervals of the difference on held-out pairs: how many lie below -1 % of the peak, and the lowest upper end.

    None without held-out pairs, or with too few for intervals.
    """
    if problem.heldout is None:
        return None
    mine, theirs = Evaluator(problem.heldout, own.effects_heldout), Evaluator(problem.heldout, base.effects_heldout)
    peak = max(abs(effect) for effect in oriented(base, sizes, heldout=True) or [1.0])
    found = [
        mine.gain_interval(*(mine.rows([one.at(k).members])[0] for one in (own, base)), theirs=theirs) for k in sizes
    ]
    upper = [interval[1] / peak for interval in found if interval is not None]
    return {"below": sum(end < -BELOW for end in upper), "lowest": min(upper)} if upper else None


def row(problem: Problem, mode: Mode, frontier: Frontier, base: Frontier) -> dict[str, Any]:
    """What one search reached, against another at the sizes that both have."""
    common = [k for k in frontier.sizes if k in set(base.sizes)]
    own, other = oriented(frontier, common) or [], oriented(base, common) or []
    unseen = oriented(frontier, common, heldout=True), oriented(base, common, heldout=True)
    figures: dict[str, Any] = {
        "mode": mode,
        "sizes": len(common),
        **against(own, other),
        "heldout": against(unseen[0], unseen[1]) if unseen[0] and unseen[1] else None,
        "paired": paired(problem, frontier, base, common),
        "forward_equivalents": frontier.forward_equivalents,
        "base_forward_equivalents": base.forward_equivalents,
        "elapsed_s": frontier.elapsed_s,
    }
    # Effects are faithfulness, which a closed form's need not be.
    if mode == "keep" and abs(base.full_effect - 1) < 1e-3:
        figures |= {"cmd": cmd(own), "base_cmd": cmd(other)}
    return figures


def cmd(faithfulness: Sequence[float]) -> float:
    """Mean of |1 - f| over sizes. (MIB, Mueller et al. 2025.)"""
    return fmean(abs(1 - f) for f in faithfulness)


def seeded(make: Callable[[], Problem], mode: Mode, word: str, base: Frontier, given: Any) -> dict[str, Any]:
    """One row; of a search that draws the mean over seeds, with the spread of its area."""
    search, problem = search_of(word, given.max_size), make()
    if search.name not in RANDOM:
        return row(problem, mode, search(problem), base)
    rows = [row(problem, mode, replace(search, seed=seed)(make()), base) for seed in range(given.draws)]
    means = {name: fmean(r[name] for r in rows) for name, value in rows[0].items() if isinstance(value, int | float)}
    return rows[0] | means | {"area_spread": pstdev(r["area"] for r in rows), "seeds": given.draws}


HEADS = ("case", "search", "k", "area", "w/t/l", "worst", "unseen", "w/t/l", "< -1 %", "CMD", "cost", "s")


def table(rows: Sequence[dict[str, Any]], mode: Mode) -> Table:
    """The rows of one mode for people; CMD less the other's; cost also relative to the other's.

    ``< -1 %``: sizes at which the paired held-out interval of the difference lies below -1 % of the peak (the lowest
    upper end of all).
    """
    cells = [cells_of(r) for r in rows if r["mode"] == mode]
    return Table(f"searches against {rows[0]['base']}, {mode}", HEADS, cells, frozenset({0, 1}))


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
        f"{r['paired']['below']} ({r['paired']['lowest']:+.2%})" if r["paired"] else "",
        f"{r['cmd'] - r['base_cmd']:+.4f}" if "cmd" in r else "",
        f"{r['forward_equivalents']:.0f} ({r['forward_equivalents'] / r['base_forward_equivalents']:.2f})",
        f"{r['elapsed_s']:.1f}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the suite, print a table for each mode, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--pairs", help="task by name or file")
    parser.add_argument("--gguf", help="GGUF file in the model's folder")
    parser.add_argument("--data", help="folder of the task's files")
    parser.add_argument("--split", help="split of the task")
    parser.add_argument("--search-pairs", type=int, help="pairs that the searches see")
    parser.add_argument("--align", default="exact")
    parser.add_argument("--holdout", type=float, default=0.3)
    parser.add_argument("--against", default="greedy", help="the search that the others are compared with")
    parser.add_argument("--max-size", type=int, help="largest k of all searches")
    parser.add_argument("--modes", nargs="*", default=["swap", "keep"])
    parser.add_argument("--sites", default="head_output")
    parser.add_argument("--roles", default="all")
    parser.add_argument("--searches", default=",".join(DEFAULT))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--draws", type=int, default=3, help="seeds of searches that draw")
    given = parser.parse_args(arguments)
    asked = {"sites": given.sites.split(","), "roles": given.roles.split(",")}
    asked |= {"holdout": given.holdout, "align": given.align, "search_pairs": given.search_pairs}
    makers = trained(given, **asked) if given.model else closed_forms(given.seeds)
    rows: list[dict[str, Any]] = []
    for mode in given.modes:
        for case, make in makers.items():
            base = search_of(given.against, given.max_size)(make(mode))
            for word in given.searches.split(","):
                found = seeded(partial(make, mode), mode, word, base, given)
                rows.append({"case": case, "search": word, "base": given.against, **found})
                print(*cells_of(rows[-1]), flush=True)
                if given.json:
                    given.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
        print(table(rows, mode))


if __name__ == "__main__":
    main()
