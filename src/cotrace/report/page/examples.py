"""Examples: the prompt pairs of a run as a report shows them, with the tokens in which base and donor prompt differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from cotrace.errors import InputError
from cotrace.json_file import parse_json
from cotrace.prompts.fields import given_fields, values_of
from cotrace.prompts.pair import PromptPair
from cotrace.visible import visible_json

if TYPE_CHECKING:
    from cotrace.problem import LanguageProblem

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
    """Where each token ends, in characters, ascending; the tokens together are the text."""
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
        data = {"schema": 1, **asdict(self)}
        return (visible_json(json.dumps(data, ensure_ascii=False, separators=(",", ":"))) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str = EXAMPLES) -> Examples:
        """Inverse of ``to_json``. Raises InputError for a file that is something else."""
        try:
            data = parse_json(content.decode("utf-8-sig"), where)
            parts = [tuple(map(_example, data[part])) for part in ("training", "heldout")]
            return cls(parts[0], parts[1], tuple(map(str, data["refused"])))
        except InputError as error:
            raise InputError(f"{error}; or delete it for a report without texts") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{where} is not what a run writes ({type(error).__name__}: {error}); delete it for a report without "
                "texts"
            ) from None


def _example(data: Mapping[str, Any]) -> Example:
    return Example(
        id=str(data["id"]),
        base=_piece(data["base"]),
        donor=None if data["donor"] is None else _piece(data["donor"]),
        answers=tuple(map(str, data["answers"])),
        target=int(data["target"]),
        weight=float(data["weight"]),
        fields={str(name): str(value) for name, value in data["fields"].items()},
    )


def _piece(data: Mapping[str, Any]) -> Piece:
    return Piece(str(data["text"]), tuple(map(int, data["cuts"])), tuple(map(int, data["changed"])))


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
