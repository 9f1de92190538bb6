"""Ensemble: components ranked by what several attribution methods say together.

Source: Mondorf et al., BlackboxNLP-2025 MIB shared task: Exploring ensemble strategies for circuit localization
methods, 2025 (arXiv 2510.06811): scores of attribution patching, of EAP-IG along inputs and along activations are
averaged (best there), or their least or largest taken. Their sequential ensemble is ``Matryoshka(start="inputs")``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import InputError, unknown
from cotrace.problem.protocol import Problem
from cotrace.search.archive import SearchState
from cotrace.search.attribution import POINTS, path, slope_at
from cotrace.search.hyperparameters import at_least, gaps, largest, nested_sizes
from cotrace.search.sets import SetFunction, prefixes, ranked
from cotrace.search.solve import Search

METHODS = tuple(point for point in POINTS if point != "dropped")
REDUCTIONS = ("mean", "min", "max")


@dataclass(frozen=True, kw_only=True)
class Ensemble(Search):
    """Scores components by several attribution methods, combines the scores, and evaluates the nested sets exactly.

    All scores are in units of the metric. Costs 2 forward-equivalents for each gradient (12 in all), and 1 for each
    size. Deterministic.
    """

    max_size: int | None = None
    """Largest k; None for N."""
    of: tuple[str, ...] = ("none", "integrated")
    """Methods, as ``Attribution(at=...)`` names them; with counterfactual donors ``inputs`` too, as published."""
    combine: str = "mean"
    """``mean``, ``min`` (high where all methods agree) or ``max`` (high where one does)."""
    points: int = 5
    """Midpoints of each integral."""
    sizes: tuple[int, ...] | None = None
    """Sizes to evaluate; None for all of them, or 60 in a geometric grid where the largest is above 256."""

    name: ClassVar[str] = "ensemble"

    def __post_init__(self) -> None:
        super().__post_init__()
        for method in self.of:
            if method not in METHODS:
                raise unknown("method of an ensemble", method, METHODS)
        if len(set(self.of)) != len(self.of) or len(self.of) < 2:
            raise InputError(f"ensemble: of is {', '.join(self.of) or 'empty'}; give at least two different methods")
        if self.combine not in REDUCTIONS:
            raise unknown("combination of scores", self.combine, REDUCTIONS)
        at_least(self.name, "points", self.points, 1)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components."""
        return 2.0 * len(self._stops) + len(self._grid(n))

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after each gradient, one after the nested sets; ``tensors["scores"]`` holds one row a method."""
        function = SetFunction(self.name, problem, state)
        stops, grid = self._stops, self._grid(function.n)
        begun = state if state and state.step else None
        scores = begun.tensors["scores"].clone() if begun else torch.zeros(len(self.of), function.n)
        for step in range(begun.step if begun else 0, len(stops)):
            method, share, weight = stops[step]
            scores[self.of.index(method)] += weight * slope_at(function, method, share)
            yield function.state("gradients", step + 1, len(stops) + 1, tensors={"scores": scores})
        if begun is None or begun.step <= len(stops):
            function.scores(prefixes(ranked(self._combined(scores)), grid, function.n))
            numbers = {"advice": gaps(grid, self.sizes, grid[-1])}
            yield function.state("nested sets", len(stops) + 1, len(stops) + 1, numbers, {"scores": scores})

    @property
    def _stops(self) -> list[tuple[str, float, float]]:
        """Method, share and weight of every gradient."""
        paths = {method: path(method, self.points) for method in self.of}
        return [(method, share, 1 / len(shares)) for method, shares in paths.items() for share in shares]

    def _grid(self, n: int) -> list[int]:
        return nested_sizes(self.name, self.sizes, largest(self.name, self.max_size, n))

    def _combined(self, scores: Float[Tensor, "method n"]) -> Float[Tensor, "n"]:
        return {"mean": scores.mean(0), "min": scores.amin(0), "max": scores.amax(0)}[self.combine]
