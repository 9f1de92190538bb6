"""Inputs of the report: results, examples with their texts, and the words for both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from functools import cached_property
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from cotrace.components import ComponentSpace
from cotrace.errors import InputError
from cotrace.prompts.pair import PromptPair, given_fields, values_of
from cotrace.report.page.plain import Edited, Plain, sentences
from cotrace.results import Frontier, Selection, Tradeoff
from cotrace.results.effects import EffectTable
from cotrace.results.table import number
from cotrace.text.escape import json_bytes
from cotrace.text.files import made_of, parse_json

if TYPE_CHECKING:
    from cotrace.evaluation import Evaluation
    from cotrace.problem import LanguageProblem
    from cotrace.readout import Explanation


def quantity(frontier: Frontier) -> str:
    """The label of the effect's axis."""
    if frontier.mode == "keep":
        return f"faithfulness of {frontier.metric} (keep)"
    return f"effect: change of {frontier.metric} (swap)"


def heading(frontier: Frontier) -> str:
    """Task, mode and direction."""
    verb = (
        "the chosen take the donor's value"
        if frontier.mode == "swap"
        else "the chosen keep running, all others swapped"
    )
    return f"{frontier.task}, mode {frontier.mode} ({verb}), {frontier.direction}"


def level(frontier: Frontier) -> str:
    """Effect at model level in this mode."""
    return "model level: all swapped" if frontier.mode == "swap" else "model level: all kept"


def figure_of(value: float | None) -> str:
    """A signed figure with three significant digits."""
    return number(value, digits=3) or "not computed"


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """The text in lines that fit so many inches at a font's size in points."""
    return wrap(text, int(inches * 130 / size))


EXAMPLES = "examples.json"
"""Name of the file in a run's folder."""
MOST_VALUES = 12
"""A field with more values than this is no subgroup."""
MOST_VALUE = 80
"""Characters of a value that are kept."""
NOT_SUBGROUPS = ("id", "weight", "subject", "split_group")


@dataclass(frozen=True)
class Piece:
    """A prompt as text, cut into tokens."""

    text: str
    cuts: tuple[int, ...] = ()
    """End of each token, in characters, ascending; the tokens together are the text."""
    changed: tuple[int, ...] = ()
    """Indices of the tokens that the other prompt does not have, or that the donor's noise falls on."""

    def spans(self) -> Iterator[tuple[str, bool]]:
        """The text in runs, and whether each is of changed tokens."""
        marked, start = set(self.changed), 0
        run, was = "", False
        for index, end in enumerate(self.cuts or (len(self.text),)):
            token, start = self.text[start:end], end
            if (index in marked) != was and run:
                yield run, was
                run = ""
            run, was = run + token, index in marked
        if run:
            yield run, was


@dataclass(frozen=True)
class Example:
    """One pair. Empty texts where they are not to be shown."""

    id: str
    base: Piece = Piece("")
    donor: Piece | None = None
    """The prompt whose values are swapped in; None where the donor needs none."""
    answers: tuple[str, ...] = ()
    target: int = 0
    weight: float = 1.0
    fields: Mapping[str, str] = field(default_factory=dict)
    """Field -> value, of those with few values: what results are broken down by."""

    def redacted(self) -> Example:
        """The id, the weight and the group, nothing else."""
        kept = {name: value for name, value in self.fields.items() if name == "group"}
        return Example(self.id, weight=self.weight, fields=kept)


@dataclass(frozen=True)
class Examples:
    """The pairs of a run, in the order of its per-example effects."""

    training: tuple[Example, ...]
    heldout: tuple[Example, ...] = ()
    refused: tuple[str, ...] = ()
    """Ids of the pairs that could not be used."""

    def of(self, part: str) -> tuple[Example, ...]:
        """The pairs searched, or those held out."""
        return self.training if part == "training" else self.heldout

    def redacted(self) -> Examples:
        """The same without a text."""
        training, heldout = (tuple(one.redacted() for one in part) for part in (self.training, self.heldout))
        return Examples(training, heldout, self.refused)

    def to_json(self) -> bytes:
        """The content of ``examples.json``."""
        return json_bytes({"schema": 1, **asdict(self)}, indent=None, separators=(",", ":"))

    @classmethod
    def from_json(cls, content: bytes, where: str = EXAMPLES) -> Examples:
        """Inverse of ``to_json``. Raises InputError for a file that is something else."""
        try:
            return made_of(cls, parse_json(content.decode("utf-8-sig"), where))
        except InputError as error:
            raise InputError(f"{error}; or delete it for a report without texts") from None
        except ValueError as error:
            raise InputError(
                f"{where} is not what a run writes ({error}); delete it for a report without texts"
            ) from None


def examples_of(problem: LanguageProblem) -> Examples:
    """The pairs of a problem, cut into tokens by its model's tokenizer; audit pairs are left out."""
    encoded = {one.pair.id: one for one in problem.encoding.pairs}
    cutter = Cutter(problem.model.require_tokenizer())
    fields = subgroup_fields([one.pair for one in encoded.values()])
    role = getattr(problem.donors, "role", None)
    parts = [problem.training.ids, problem.heldout.ids if problem.heldout else []]
    made = [tuple(_of(encoded[name], cutter, fields[name], role) for name in ids) for ids in parts]
    return Examples(made[0], made[1], tuple(refusal.id for refusal in problem.refused))


def _of(encoded: Any, cutter: Cutter, fields: Mapping[str, str], role: str | None) -> Example:
    pair: PromptPair = encoded.pair
    base, donor = cutter.cut(encoded.text or pair.base), None
    text = pair.counterfactual or (cutter.read(encoded.donor) if pair.counterfactual_messages else "")
    if encoded.donor and text:
        base, donor = compared(base, cutter.cut(text))
    elif role is not None:
        base = replace(base, changed=tuple(encoded.roles.get(role, range(len(base.cuts)))))
    return Example(pair.id, base, donor, pair.answers, pair.target, pair.weight, fields)


class Cutter:
    """Cuts texts into tokens, by where each token ends in the text; whole where a tokenizer does not say."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def cut(self, text: str) -> Piece:
        """The text with the ends of its tokens. A space goes with the token behind it, as in most vocabularies."""
        if not self._tokenizer.is_fast:
            return Piece(text, (len(text),))
        offsets = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ends = sorted({int(end) for start, end in offsets if end > start} | {len(text)})
        return Piece(text, tuple(ends))

    def read(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        return str(self._tokenizer.decode(list(tokens)))


def compared(base: Piece, donor: Piece) -> tuple[Piece, Piece]:
    """Both with the tokens marked that the other does not have at that place."""
    one, other = _tokens(base), _tokens(donor)
    matcher = SequenceMatcher(a=one, b=other, autojunk=False)
    changes = [(a, b, c, d) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"]
    left = tuple(index for a, b, _, _ in changes for index in range(a, b))
    right = tuple(index for _, _, c, d in changes for index in range(c, d))
    return replace(base, changed=left), replace(donor, changed=right)


def _tokens(piece: Piece) -> list[str]:
    starts = (0, *piece.cuts[:-1])
    return [piece.text[start:end] for start, end in zip(starts, piece.cuts, strict=True)]


def subgroup_fields(pairs: Sequence[PromptPair]) -> dict[str, dict[str, str]]:
    """Id -> (field -> value), for the fields that divide the pairs into a few groups."""
    found: dict[str, dict[str, str]] = {pair.id: {} for pair in pairs}
    for name in given_fields(pairs):
        values = values_of(pairs, name)
        if name not in NOT_SUBGROUPS and 2 <= len(set(values)) <= MOST_VALUES:
            for pair, value in zip(pairs, values, strict=True):
                found[pair.id][name] = value[:MOST_VALUE]
    return found


Places = Int[np.ndarray, "_"]
"""Mask indices of a set's members, ascending."""
PARTS = ("heldout", "training")
PART_WORDS = {"heldout": "held-out pairs", "training": "training pairs"}


@dataclass(frozen=True)
class ReportInputs:
    """The results of one run. What a run did not compute is None or empty, and the page says so."""

    frontiers: tuple[Frontier, ...]
    """The first is the one that is shown in detail."""
    evaluations: tuple[Any, ...] = ()
    """``Evaluation`` records; the first judges in detail."""
    examples: Examples | None = None
    """The pairs with their texts and effects; None where the run kept none."""
    tradeoff: Tradeoff | None = None
    """The edits that were chosen among; None where there are none."""
    explanation: Explanation | None = None
    """Explanation of a set of the run."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's config.yaml, with its record."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Name -> sha256 of the files that the page was made from."""
    redact: bool = False
    """Whether ids stand in place of texts."""
    plain: Plain | None = None
    """Shares of answers and rates by group, before and under the set that is judged."""
    edited: Edited | None = None
    """Effect and cost of the last edit of the run's selection."""
    language: str = "en"
    """Language of the first screen."""

    def __post_init__(self) -> None:
        sentences(self.language)
        object.__setattr__(
            self, "frontiers", tuple(map(self._with_evidence, (one for one in self.frontiers if len(one))))
        )
        if not self.frontiers:
            raise InputError("a report needs a frontier with at least one selection; run the search again")
        spaces = {one.space.components for one in self.frontiers}
        if len({(one.mode, one.metric, one.direction) for one in self.frontiers}) > 1 or len(spaces) > 1:
            raise InputError("a report is of one question: give frontiers of one metric, mode, direction and space")

    def _with_evidence(self, frontier: Frontier) -> Frontier:
        """The frontier with what its evaluations found, also where the run was judged again later."""
        from cotrace.evaluation import applied

        for judged in self.evaluations:
            if judged.search == frontier.search and set(judged.components) == _names(frontier, judged.k):
                frontier = applied(frontier, judged)
        return frontier

    @property
    def first(self) -> Frontier:
        """The search that is shown in detail."""
        return self.frontiers[0]

    @property
    def judged(self) -> Evaluation | None:
        """The evaluation that judges the first search; None where it was not judged."""
        return next((one for one in self.evaluations if one.search == self.first.search), None)

    @property
    def later(self) -> tuple[Evaluation, ...]:
        """The other evaluations."""
        return tuple(one for one in self.evaluations if one is not self.judged)

    @cached_property
    def chosen(self) -> Selection:
        """The selection that is judged: the evaluation's, or the smallest with 90 % of the best effect."""
        judged = self.judged
        if judged is not None and judged.k in self.first.sizes:
            return self.first.at(judged.k)
        return self.first.enough()

    @property
    def record(self) -> Mapping[str, Any]:
        """Record of the run: versions, hashes, sizes."""
        found = self.config.get("record") or {}
        return found if isinstance(found, Mapping) else {}

    @property
    def heldout(self) -> bool:
        """Whether any effect is known on held-out pairs."""
        return any(one.effect_heldout is not None for frontier in self.frontiers for one in frontier)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the data that effects are known of, the unseen first."""
        return PARTS if self.heldout else PARTS[1:]

    def shown(self) -> ReportInputs:
        """The same without texts where they are not to be shown."""
        if not self.redact:
            return self
        from cotrace.evaluation import with_verdict  # needs torch, which a page of results does not

        examples = None if self.examples is None else self.examples.redacted()
        evaluations = tuple(
            with_verdict(replace(one, notes=tuple(map(_without_quote, one.notes)))) for one in self.evaluations
        )
        explanation = None if self.explanation is None else self.explanation.redacted()
        return replace(self, examples=examples, evaluations=evaluations, explanation=explanation)

    def pairs(self, part: str) -> tuple[Example, ...]:
        """The pairs of a part; by number where no texts are at hand."""
        table = self.table(self.first, part)
        count = 0 if table is None else table.effects.shape[1]
        known = self.examples.of(part) if self.examples is not None else ()
        if len(known) == count:
            return known
        return tuple(Example(f"{PART_WORDS[part].removesuffix('s')} {i}") for i in range(1, count + 1))

    def weights(self, part: str, count: int) -> Float[np.ndarray, "example"]:
        """How much each pair counts.

        Args:
            part: ``training`` or ``heldout``.
            count: Number of pairs.
        """
        known = self.examples.of(part) if self.examples is not None else ()
        return np.array([one.weight for one in known]) if len(known) == count else np.ones(count)

    def table(self, frontier: Frontier, part: str) -> EffectTable | None:
        """Per-example effects of the sets that were evaluated on a part; None where there are none.

        Args:
            frontier: A frontier of this run.
            part: ``training`` or ``heldout``.
        """
        found = frontier.effects if part == "training" else frontier.effects_heldout
        return found if found is not None and found.n == len(frontier.space) else None

    @cached_property
    def space(self) -> ComponentSpace:
        """The components as the page has them: by place, in however small pieces the space names them."""
        return self.first.space.by_place

    @cached_property
    def order(self) -> Places:
        """The mask index of each component of the page."""
        index = {component: i for i, component in enumerate(self.first.space)}
        return np.array([index[component] for component in self.space], np.int64)

    @cached_property
    def _places(self) -> dict[int, Places]:
        return {}

    def places(self, selection: Selection) -> Places:
        """Return the places of a selection's members on the page; looked up once, as large sets take a while."""
        key = id(selection)
        if key not in self._places:
            self._places[key] = np.array(self.space.indices(selection.members), np.int64)
        return self._places[key]

    def example_effects(self, places: Places, part: str) -> Float[np.ndarray, "example"] | None:
        """The effects of the set at these places on each pair; None where no search kept them.

        Args:
            places: Places of the set's members in the space.
            part: ``training`` or ``heldout``.
        """
        chosen = np.zeros(len(self.space), bool)
        chosen[self.order[places]] = True
        key = np.packbits(chosen).tobytes()
        for one in self.frontiers:
            table = self.table(one, part)
            if table is not None and (found := table.find(key)) is not None:
                return found.astype(np.float64)
        return None

    def mean_effect(self, places: Places) -> float | None:
        """The weighted mean of a set's effects on the pairs searched; None where no search evaluated it.

        Args:
            places: Places of the set's members in the space.
        """
        found = self.example_effects(places, "training")
        return None if found is None else float(np.average(found, weights=self.weights("training", len(found))))


def _names(frontier: Frontier, k: int) -> set[str]:
    """The members of the selection of this size; none where there is no such selection."""
    return set(frontier.at(k).components) if k in frontier.sizes else set()


def _without_quote(note: str) -> str:
    """A note up to the error that it quotes, which may hold a text."""
    return note.partition(":")[0]
