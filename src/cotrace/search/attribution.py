"""Rankings: TopK by single effects, Attribution by gradient x (donor - own), which is the gradient along the mask.

Sources: attribution patching, Nanda 2023, and Syed, Rager, Conmy, arXiv 2310.10348 (the gradient at z = 0); integrated
gradients, Sundararajan, Taly, Yan, ICML 2017, along z, or along the inputs (EAP-IG, Hanna, Pezzelle, Belinkov, arXiv
2403.17806); bootstrapped over examples as in the MIB shared task at BlackboxNLP 2025. AtP* (Kramar et al., arXiv
2403.00745) has two corrections:
GradDrop, here with the donor's values in the dropped layer (``dropped``), and one for queries and keys where the
softmax is saturated; every site here lies behind the softmax, so of that nothing is to correct.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import InputError, unknown
from cotrace.problem.protocol import Problem
from cotrace.search.archive import SearchState
from cotrace.search.hyperparameters import at_least, gaps, largest, nested_sizes, within
from cotrace.search.sets import SetFunction, prefixes, ranked
from cotrace.search.solve import Search
from cotrace.statistics import Units


@dataclass(frozen=True, kw_only=True)
class TopK(Search):
    """Single-component causal tracing: effects of one component at a time, then the nested sets of the k largest.

    Costs N + K - 1 forward-equivalents up to size K. Deterministic.
    """

    max_size: int | None = None
    """Largest k; None for N."""

    name: ClassVar[str] = "topk"

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components."""
        return n + min(self.max_size or n, n) - 1

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after the single effects, one after the nested sets."""
        function = SetFunction(self.name, problem, state)
        most = largest(self.name, self.max_size, function.n)
        singles = function.flipped(function.empty(), range(function.n))
        if not state or state.step < 1:
            yield function.state("single effects", 1, 2)
        if not state or state.step < 2:
            function.scores(prefixes(ranked(singles), list(range(1, most + 1)), function.n))
            yield function.state("nested sets", 2, 2)


MOST_LAYERS = 128
"""Layers counted where the cost is predicted from N alone."""
POINTS = ("none", "all", "integrated", "inputs", "dropped")


@dataclass(frozen=True, kw_only=True)
class Attribution(Search):
    """Ranks components by the gradient with nothing chosen, with everything chosen, or averaged between the two.

    Then evaluates the nested sets exactly. Costs 2 forward-equivalents for each gradient (``points`` of them where
    integrated, folds of examples add nothing), and 1 for each size. Deterministic under its seed.
    """

    max_size: int | None = None
    """Largest k; None for N."""
    at: str = "integrated"
    """``none``, ``all``, ``integrated``; ``inputs``: token embeddings interpolated, no activation (EAP-IG on nodes); or
    ``dropped``: mask 0 but for one layer at a time, sizes averaged (AtP*)."""
    points: int = 5
    """Midpoints of the integral."""
    sizes: tuple[int, ...] | None = None
    """Sizes to evaluate; None for all of them, or 60 in a geometric grid where the largest is above 256."""
    bootstrap: int = 0
    """Resamples of the examples; 0 ranks by the plain mean, otherwise by ``quantile`` of the resampled mean."""
    quantile: float = 0.25
    """Lower quantile to rank by; 0.5 is about the mean, lower prefers components that help all over the data."""
    folds: int = 20
    """Groups of examples that are resampled together."""
    seed: int = 0

    name: ClassVar[str] = "attribution"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at not in POINTS:
            raise unknown("attribution point", self.at, POINTS)
        at_least(self.name, "points", self.points, 1)
        at_least(self.name, "bootstrap", self.bootstrap, 0)
        at_least(self.name, "folds", self.folds, 2)
        within(self.name, "quantile", self.quantile, 0, 1)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components; where layers are dropped, at most."""
        layers = min(n, MOST_LAYERS) if self.at == "dropped" else len(self._path())
        return 2.0 * layers + len(self._grid(n))

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after each gradient, one after the nested sets. ``tensors["slopes"]`` holds one row a fold."""
        function = SetFunction(self.name, problem, state)
        path, grid = self._points(function), self._grid(function.n)
        folds = self._folds(problem.size)
        begun = state if state and state.step else None
        slopes = (
            begun.tensors["slopes"] if begun else torch.zeros(len(folds) * (1 + (self.at == "dropped")), function.n)
        )
        for step in range(begun.step if begun else 0, len(path)):
            found = self._slopes(function, path[step], folds)
            if self.at == "dropped":  # the dropped layer's own components have no path left
                found = torch.cat([found, found.abs()]) * (function.mask(path[step]) == 0)
            slopes = slopes + found / len(path)
            yield function.state("gradients", step + 1, len(path) + 1, tensors={"slopes": slopes})
        if begun is None or begun.step <= len(path):
            weight = torch.as_tensor(problem.weights).double().cpu()
            order = ranked(self._rank(signed(slopes) if self.at == "dropped" else slopes, folds, weight))
            function.scores(prefixes(order, grid, function.n))
            numbers = {"advice": gaps(grid, self.sizes, grid[-1])}
            yield function.state("nested sets", len(path) + 1, len(path) + 1, numbers, {"slopes": slopes})

    def _points(self, function: SetFunction) -> list[Float[Tensor, "n"]]:
        """Return the points where gradients are taken."""
        if self.at != "dropped":
            return [torch.full((function.n,), t) for t in self._path()]
        layers = torch.tensor([component.layer for component in function.problem.space])
        return [function.mask((layers == layer).float()) for layer in sorted(set(layers.tolist()))]

    def _path(self) -> list[float]:
        return path(self.at, self.points)

    def _grid(self, n: int) -> list[int]:
        return nested_sizes(self.name, self.sizes, largest(self.name, self.max_size, n))

    def _folds(self, size: int) -> list[list[int] | None]:
        """Examples of each fold; one fold of all where nothing is resampled."""
        if not self.bootstrap:
            return [None]
        if size < 2:
            raise InputError(f"attribution: {size} pair cannot be resampled; set bootstrap=0 or give more pairs")
        order = np.random.default_rng([self.seed, 0]).permutation(size)
        return [sorted(part.tolist()) for part in np.array_split(order, min(self.folds, size))]

    def _slopes(
        self, function: SetFunction, point: Float[Tensor, "n"], folds: list[list[int] | None]
    ) -> Float[Tensor, "fold n"]:
        if self.at == "inputs":  # the share of the donor's embeddings, the same whatever the mode
            return torch.stack([function.input_gradient(float(point[0]), fold) for fold in folds])
        return torch.stack([function.soft_gradient(point, fold) for fold in folds])

    def _rank(
        self, slopes: Float[Tensor, "fold n"], folds: list[list[int] | None], weight: Float[Tensor, "example"]
    ) -> Float[Tensor, "n"]:
        """Return the mean gradient, or a quantile of it over resamples of the folds."""
        if not self.bootstrap:
            return slopes[0]
        resamples = Units.made(len(folds)).resamples(self.bootstrap, [self.seed, 1])
        drawn = torch.from_numpy(np.concatenate(list(resamples)))
        sizes = torch.tensor([float(len(fold or ())) for fold in folds])
        # A fold's gradient is its part in the whole, scaled by all examples / its own: see Problem.gradient.
        own = torch.stack([weight[fold].sum() for fold in folds]).float() / float(weight.mean())
        totals = drawn.float() @ own
        means = (drawn.float() * sizes) @ slopes / totals[:, None]
        return means[totals > 0].quantile(self.quantile, dim=0)


def path(at: str, points: int) -> list[float]:
    """Shares, of every component or of the inputs, at which gradients are averaged: an end, or midpoints between."""
    ends = {"none": [0.0], "all": [1.0]}
    return ends.get(at) or [(i + 0.5) / points for i in range(points)]


def slope_at(function: SetFunction, at: str, share: float) -> Float[Tensor, "n"]:
    """The gradient with so much of every component chosen, or of the inputs the donor's."""
    if at == "inputs":
        return function.input_gradient(share)
    return function.soft_gradient(torch.full((function.n,), share))


def signed(sums: Float[Tensor, "row n"]) -> Float[Tensor, "fold n"]:
    """Mean sizes with the sign of the mean: a direct effect and one through a dropped layer add up, not cancel."""
    means, sizes = sums.chunk(2)
    return torch.where(means < 0, -sizes, sizes)
