"""Goals that combine problems over one component space: constraints, and side problems beside the main one.

Source: the penalty on the violation, exact for a large enough multiplier, Nocedal and Wright, Numerical Optimization,
2nd ed. 2006, chapter 17.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cotrace.components import sign_of
from cotrace.donors import Counterfactual, DonorSource, Mean, Scale, Vector, Zero
from cotrace.errors import InputError
from cotrace.metrics import AnyMetric
from cotrace.models import LanguageModel
from cotrace.models.language_model import evaluating
from cotrace.problem.language import LanguageProblem
from cotrace.problem.protocol import Cost, Examples, Loss, Problem, check_same, inner, mask_of
from cotrace.problem.scored import PairProblem
from cotrace.problem.scorer import executing
from cotrace.prompts import Task
from cotrace.results import Bound
from cotrace.shipped import SHIPS
from cotrace.text.progress_bar import warn
from cotrace.validation import checked, guarded

Sides = Literal["both", "above", "below"]
MARGIN = 0.2
"""Margin in units of eps, where none is given: training values spread around held-out ones."""
MULTIPLIER = 10.0


@guarded("ct.Constraint", fields=False)
class Constraint:
    """The effect on another problem must stay within eps: |B| <= eps, B <= eps (``above``), or B >= -eps (``below``).

    While searching it must keep ``margin`` inside (default a fifth of eps). ``multiplier`` weighs the violation, in
    units of |effect of everything on A| / |effect of everything on B|.

    Args:
        problem: The side problem, over the same components, in ``swap`` mode.
        eps: The bound, in units of the side problem's metric; above 0.
        sides: ``both`` (default), ``above`` or ``below``.
        margin: Distance from the bound that is kept while searching; None for a fifth of eps.
        multiplier: Price of a violation; larger finds more feasible sizes, smaller finds better sets.
    """

    @checked("ct.Constraint")
    def __init__(
        self,
        problem: Problem,
        eps: float,
        *,
        sides: Sides | str = "both",
        margin: float | None = None,
        multiplier: float = MULTIPLIER,
    ) -> None:
        self.problem, self.eps, self.sides = problem, float(eps), sides
        self.margin = MARGIN * eps if margin is None else float(margin)
        self.multiplier = multiplier
        if not 0 < eps < float("inf"):
            raise InputError(f"constraint on {self.name}: eps is {eps}; give a finite number above 0")
        if not 0 <= self.margin < eps:
            raise InputError(f"constraint on {self.name}: the margin {margin} must be at least 0 and below eps {eps}")
        if sides not in ("both", "above", "below"):
            raise InputError(f"constraint on {self.name}: sides is {sides!r}; choose both, above or below")
        if problem.mode != "swap":
            raise InputError(
                f"constraint on {self.name}: a side problem measures a change, so build it with mode='swap' "
                "(its masks mean the same in both modes)"
            )

    @property
    def name(self) -> str:
        """Name of the bounded quantity."""
        return f"{self.problem.metric} on {self.problem.task}"

    def on(self, problem: Problem) -> Constraint:
        """The same of another problem, such as on other pairs or on workers."""
        return Constraint(problem, self.eps, sides=self.sides, margin=self.margin, multiplier=self.multiplier)

    def bound(self, effect: float) -> Bound:
        """The bound, priced by what everything together does to A (``effect``) and to this side value."""
        everything = self.problem.value(torch.ones(1, len(self.problem.space))).abs().item()
        return Bound(
            name=self.name,
            lower=None if self.sides == "above" else -self.eps,
            upper=None if self.sides == "below" else self.eps,
            margin=self.margin,
            price=self.multiplier * max(effect, 1e-12) / max(everything, self.eps),
        )


@guarded("ct.Constrained", fields=False)
class Constrained(Problem):
    """Problem A subject to constraints on other problems: every search keeps only sets whose side values are within.

    ``value`` and ``effects`` are those of A. ``gradient`` is that of A less the price times that of the violation.

    Args:
        problem: Problem A, whose effect is searched.
        side: The constraints, at least one.
        bounds: The bounds with their prices, where they are known already; None to measure them.
        full: A's effect of everything, where it is known already; None to measure it.
    """

    space, mode, direction, metric, size = inner("space", "mode", "direction", "metric", "size")
    weights, clusters, strata, parts, ids, drawn = inner("weights", "clusters", "strata", "parts", "ids", "drawn")
    effects, value, value_and_effects = inner("effects", "value", "value_and_effects")
    redraws, redrawn = inner("redraws", "redrawn")
    surrogate, reported, reported_base, target = inner("surrogate", "reported", "reported_base", "target")
    full_is_clear, question = inner("full_is_clear", "question")

    @checked("ct.Constrained")
    def __init__(
        self,
        problem: Problem,
        side: Sequence[Constraint],
        *,
        bounds: tuple[Bound, ...] | None = None,
        full: float | None = None,
    ) -> None:
        if not side:
            raise InputError("a constrained problem needs at least one constraint")
        self.problem, self.side, self.sign = problem, tuple(side), sign_of(problem.direction)
        for constraint in side:
            check_same(problem, constraint.problem, mode=False)
            if problem.heldout is not None and constraint.problem.heldout is None:
                raise InputError(f"constraint on {constraint.name}: it holds nothing out; build it with holdout too")
        everything = torch.ones(1, len(problem.space))
        self._full = problem.value(mask_of(problem, everything)).abs().item() if full is None else full
        self._bounds = bounds or tuple(constraint.bound(self._full) for constraint in side)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The bound of each side value."""
        return self._bounds

    @property
    def made_of(self) -> list[Problem]:
        """A, and the problems whose effects are bounded."""
        return [self.problem, *(constraint.problem for constraint in self.side)]

    @property
    def task(self) -> str:
        return f"{self.problem.task}, constrained"

    @property
    def summary(self) -> str:
        """The question in words, with the constraints."""
        return f"{self.problem.summary} Subject to {'; '.join(bound.words for bound in self.bounds)}"

    @property
    def cost(self) -> Cost:
        """Cost of A and the side problems together."""
        return Cost(sum(problem.cost.forward_equivalents for problem in self.made_of))

    @property
    def heldout(self) -> Constrained | None:
        """The same on unseen pairs, with the same bounds."""
        unseen = self.problem.heldout
        sides = [each.problem.heldout or each.problem for each in self.side]  # each holds something out: checked
        return None if unseen is None else self._on(unseen, sides)

    @property
    def audit(self) -> Constrained | None:
        """The same on audit pairs, with the same bounds; side problems on theirs, or else on their held-out pairs."""
        sealed, sides = self.problem.audit, [each.problem for each in self.side]
        return None if sealed is None else self._on(sealed, [side.audit or side.heldout or side for side in sides])

    @property
    def searched(self) -> Constrained:
        """The same on the pairs that searches see, with the same bounds; side problems stay whole."""
        seen = self.problem.searched
        return self if seen is self.problem else self._on(seen, [each.problem for each in self.side])

    def _on(self, problem: Problem, sides: Sequence[Problem]) -> Constrained:
        """The same on other pairs of each problem, with the same bounds."""
        moved = [each.on(side) for each, side in zip(self.side, sides, strict=True)]
        return Constrained(problem, moved, bounds=self.bounds, full=self._full)

    def side_values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask side"]:
        """The effect of each mask on each side problem.

        Args:
            masks: One mask [n] or several [mask, n].
        """
        return torch.stack([constraint.problem.value(masks).double() for constraint in self.side], -1)

    def feasible(self, masks: Float[Tensor, "*mask n"]) -> Bool[Tensor, "*mask"]:
        """Whether each mask keeps every bound by its margin, on the training pairs.

        Args:
            masks: One mask [n] or several [mask, n].
        """
        values = self.side_values(masks)
        return self._violations(values).sum(-1) == 0

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Gradient of A's value less, or of its loss plus, price x violation. ``examples`` are A's; sides take all.

        A loss moves by about one where the value moves by what everything together does, so prices are in that unit.

        Args:
            z: Soft mask [n], from 0 to 1.
            objective: Function of A's effects whose mean is differentiated; None for the reported value.
            examples: Indices of A's training pairs; None for all.
        """
        slope = self.problem.gradient(z, objective, examples).double()
        unit = -self.sign if objective is None else 1 / max(self._full, 1e-12)
        return slope + unit * self._violation_slope(z)

    def _violation_slope(self, z: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Gradient of the priced violation; zero inside the bounds, where no gradient is taken."""
        total = torch.zeros(len(self.space), dtype=torch.float64)
        for bound, constraint, value in zip(self.bounds, self.side, self.side_values(z).tolist(), strict=True):
            if bound.violation(value, bound.margin):
                way = 1.0 if bound.upper is not None and value > bound.upper - bound.margin else -1.0
                total += bound.price * way * constraint.problem.gradient(z).double()
        return total

    def _violations(self, values: Float[Tensor, "*mask side"]) -> Float[Tensor, "*mask side"]:
        flat = [
            [b.violation(v, b.margin) for b, v in zip(self.bounds, row, strict=True)]
            for row in values.reshape(-1, len(self.bounds)).tolist()
        ]
        return torch.tensor(flat, dtype=torch.float64).reshape(values.shape)


SAME_FOR_ALL = (Zero, Scale, Vector, Mean)
"""Donors whose values do not depend on the prompt."""
CHOOSING_LINES = 20
"""Lines of each neutral text that are read to choose between them."""
HIGH = 0.5
"""Share of the loss of guessing among all tokens alike, above which a model does not know a text."""


class UnknownText(UserWarning):
    """A model does not know the neutral text by which side effects are judged."""


@checked("ct.side_problem")
def side_problem(
    problem: LanguageProblem,
    task: Task,
    *,
    metric: str | AnyMetric | Callable[..., Any] | None = None,
    holdout: float | int = 0.3,
    seed: int = 0,
) -> LanguageProblem:
    """Problem that measures how masks of ``problem`` change another task's metric, in ``swap`` mode.

    Donors that are the same for all prompts (zeros, a mean, vectors, a factor) are the problem's own. Else pairs with
    a counterfactual take its run. Text without one takes, at all its tokens, the mean value over the
    base runs of ``problem``'s training pairs, and its name says so.

    Args:
        problem: Problem A, whose masks are applied.
        task: The pairs whose change is measured.
        metric: Name, metric or function of your own; None for the task's.
        holdout: Share of the pairs that no search sees.
        seed: Seed of the holdout.
    """
    paired = all(pair.counterfactual or pair.counterfactual_messages for pair in task.pairs)
    donors: DonorSource = Counterfactual()
    if isinstance(problem.donors, SAME_FOR_ALL) and not getattr(problem.donors, "per_position", False):
        donors = problem.donors
    elif not paired:
        seen = set(problem.training.ids)
        donors = Mean(reference=[pair for pair in problem.encoding.pairs if pair.pair.id in seen])
        task = replace(task, name=f"{task.name} (mean donor of {problem.task})")
    with executing(problem.training.scorer.executor):
        made = LanguageProblem(
            problem.model,
            task,
            sites=problem.space,
            donors=donors,
            positions="prompt" if paired else "prompt+answer",
            metric=metric,
            direction="maximise",  # what is measured is a change, whichever way it goes
            holdout=holdout,
            seed=seed,
            **problem.manner,
        )
    if task.source.endswith(SHIPS) and (said := unknown_text(made)):
        warn(said, UnknownText)
    return made


def language_problems(problem: Problem) -> Iterator[LanguageProblem]:
    """The problem itself where it is of a language model, and those of such that it is made of."""
    if isinstance(problem, LanguageProblem):
        yield problem
    for one in problem.made_of:
        yield from language_problems(one)


def loss_before(side: Problem) -> float | None:
    """The loss per token of a neutral text before anything is changed; None for other problems."""
    if not isinstance(side, LanguageProblem) or side.source_task.encoding != "text":
        return None
    part = side.training
    nll = isinstance(part, PairProblem) and part.metric.name == "nll"
    return float(part.base_levels.double().mean()) if isinstance(part, PairProblem) and nll else None


def unknown_text(side: Problem) -> str:
    """Return a caution where the model does not know the text of a side problem; else empty."""
    loss = loss_before(side)
    if loss is None or not isinstance(side, LanguageProblem):
        return ""
    return high_loss(side.model, side.source_task, loss)


def high_loss(model: LanguageModel, task: Task, loss: float) -> str:
    """Return a caution where a neutral text has so high a loss that the model does not know it; else empty."""
    chance = math.log(model.module.get_input_embeddings().weight.shape[0])
    if loss <= HIGH * chance:
        return ""
    return (
        f"the neutral text {task.source} has a loss of {loss:.2f} per token in {model.name} before anything is changed "
        f"(guessing has {chance:.2f}): it is no text that this model knows, so what happens to it says little; name a "
        "file with text of the model's kind"
    )


@torch.no_grad()
def loss_of(model: LanguageModel, task: Task, most: int = CHOOSING_LINES) -> float:
    """Mean over the first lines of a text of the model's loss per token; infinite where its tokenizer has no words."""
    losses = []
    for pair in task.pairs[:most]:
        ids = _ids(model, pair.base + pair.answers[0])
        if ids is None:
            return math.inf
        if len(ids) > 1:
            row = torch.tensor([ids], device=model.device)
            with evaluating(model.module):
                logits = model.module(input_ids=row, use_cache=False).logits[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, row[0, 1:].to(logits.device)).item())
    return sum(losses) / len(losses) if losses else math.inf


def _ids(model: LanguageModel, line: str) -> list[int] | None:
    """The line as tokens; None where some of it has none."""
    tokenizer = model.require_tokenizer()
    try:
        ids: list[int] = tokenizer(line)["input_ids"][: model.most_tokens]
    except Exception:  # a tokenizer without a token for unknown words raises no class of its own
        return None
    alike = len(set(ids)) < len(ids) / 4  # one token stands for every word that is not known
    return None if alike or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids) else ids
