"""Pairs as tokens: encoding, alignment of base and counterfactual, and the positions of each role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from cotrace.batches.tokenize import (
    Bos,
    ChatTemplate,
    Text,
    TextTokenizer,
    Tokenised,
    base_text,
    chat_template,
    counterfactual_text,
    every,
)
from cotrace.errors import AlignmentError
from cotrace.prompts import PromptPair, Task

ALL, LAST = "all", "last"


def role_positions(pair_id: str, role: str, text: Text, tokens: Tokenised) -> tuple[int, ...]:
    """The role's positions in the prompt. Raises AlignmentError for one that the pair lacks, naming those it has."""
    count = len(tokens.ids)
    if role == ALL:
        return every(count)
    if role == LAST:
        return (count - 1,)
    if role not in text.spans:
        raise _lacking(pair_id, role, text.spans)
    return span_positions(tokens, *text.spans[role]) or _empty(pair_id, role)


def check_role(pairs: Sequence[PromptPair], role: str) -> None:
    """Raise AlignmentError for a role that no pair has, whatever the tokens; chats name theirs once rendered."""
    if role not in (ALL, LAST) and not any(pair.messages or role in pair.spans for pair in pairs):
        raise _lacking(pairs[0].id, role, pairs[0].spans)


def _lacking(pair_id: str, role: str, spans: Iterable[str]) -> AlignmentError:
    has = ", ".join([ALL, LAST, *spans])
    return AlignmentError(f"pair {pair_id} has no role {role!r}: it has {has}; name the span in the pair's 'spans'")


def span_positions(tokens: Tokenised, start: int, end: int) -> tuple[int, ...]:
    """Tokens that stand for some character of [start, end)."""
    return tuple(i for i, (a, b) in enumerate(tokens.offsets) if a < b and a < end and b > start)


def _empty(pair_id: str, role: str) -> tuple[int, ...]:
    raise AlignmentError(f"pair {pair_id}: no token stands for the span {role!r}; a fast tokenizer is needed for spans")


def named_positions(text: Text, tokens: Tokenised, length: int) -> dict[str, tuple[int, ...]]:
    """Each span that a prompt names -> its tokens among the first ``length``; spans without any are left out."""
    found = {role: span_positions(tokens, *span) for role, span in text.spans.items()}
    kept = {role: tuple(i for i in where if i < length) for role, where in found.items()}
    return {role: where for role, where in kept.items() if where}


Align = Literal["exact", "ends", "spans"]
ALIGNMENTS = ("exact", "ends", "spans")
Tokens = tuple[int, ...]


def donor_positions(
    pair_id: str, base: Tokens, donor: Tokens, tokenizer: PreTrainedTokenizerBase, align: Align
) -> Tokens:
    """For each base position its donor position, -1 where none. Raises AlignmentError with both tokenisations.

    ``exact`` needs equal lengths; ``ends`` aligns the shared tokens at the head and at the tail and leaves the middle,
    at equal lengths too.
    """
    if align == "ends":
        return _ends(pair_id, base, donor)
    if len(base) != len(donor):
        raise AlignmentError(
            f"pair {pair_id}: base has {len(base)} tokens and counterfactual {len(donor)}: "
            f"{_show(base, tokenizer)} against {_show(donor, tokenizer)}; reword the pair, or use align='ends'"
        )
    return every(len(base))


def _ends(pair_id: str, base: Tokens, donor: Tokens) -> Tokens:
    shorter = min(len(base), len(donor))
    head = _shared(base, donor)
    tail = min(_shared(base[::-1], donor[::-1]), shorter - head)
    if head + tail == 0:
        raise AlignmentError(f"pair {pair_id}: base and counterfactual share no token at either end; nothing aligns")
    middle = (-1,) * (len(base) - head - tail)
    return (*range(head), *middle, *range(len(donor) - tail, len(donor)))


def _shared(left: Tokens, right: Tokens) -> int:
    """How many tokens agree from the start."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def span_alignment(pair_id: str, base: tuple[Text, Tokenised], donor: tuple[Text, Tokenised]) -> Tokens:
    """Piece by piece, cut at the spans that both prompts name; pieces of equal length align, unequal spans stay own.

    Prompts of equal length are cut as well: their spans may differ in length. Raises AlignmentError where the spans'
    order differs, or text outside the spans has another number of tokens.
    """
    shared = [role for role in sorted(base[0].spans, key=base[0].spans.__getitem__) if role in donor[0].spans]
    if not shared:
        raise AlignmentError(
            f"pair {pair_id}: align='spans' needs 'spans' and 'counterfactual_spans' with a common name"
        )
    cuts = _cuts(pair_id, base, shared), _cuts(pair_id, donor, shared)
    positions: list[int] = []
    for piece, ((a, b), (c, d)) in enumerate(zip(pairwise(cuts[0]), pairwise(cuts[1]), strict=True)):
        if b - a != d - c and piece % 2 == 0:
            raise AlignmentError(
                f"pair {pair_id}: between its spans base has {b - a} tokens where the counterfactual has {d - c}; "
                "only the spans may differ in length"
            )
        positions += range(c, d) if b - a == d - c else [-1] * (b - a)
    return tuple(positions)


def _cuts(pair_id: str, side: tuple[Text, Tokenised], roles: Sequence[str]) -> list[int]:
    """Token positions at which the prompt is cut: before and after each span, in the order of the roles."""
    text, tokens = side
    cuts = [0]
    for role in roles:
        inside = span_positions(tokens, *text.spans[role])
        if not inside or inside[0] < cuts[-1]:
            raise AlignmentError(f"pair {pair_id}: the spans {', '.join(roles)} overlap or stand in another order")
        cuts += [inside[0], inside[-1] + 1]
    return [*cuts, len(tokens.ids)]


def _show(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> str:
    return "|".join(tokenizer.convert_ids_to_tokens(list(tokens)))


PORTION = 1 << 18
"""Characters of the prompts that are tokenised at once."""


@dataclass(frozen=True)
class EncodedPair:
    """A pair as token ids."""

    pair: PromptPair
    prompt: Tokens
    answers: tuple[Tokens, ...]
    donor: Tokens
    """Tokens of the prompt whose run gives the donor values; empty where it is the base prompt, or none is run."""
    donor_positions: Tokens
    """For each prompt position the aligned position in ``donor``; -1 where the position keeps its own value."""
    roles: Mapping[str, Tokens] = field(default_factory=dict)
    """Position role -> positions in the prompt."""
    text: str = ""
    """The prompt as text, chats rendered."""
    shifted: tuple[str, ...] = ()
    """Roles whose words stand at other tokens in the donor prompt, though positions are aligned one by one."""
    prefix: int = 0
    """Leading prompt tokens at which base and donor run agree in every value, so that no mask changes them."""

    def has_donor(self, role: str) -> bool:
        """Whether some prompt position of a role takes a donor's value."""
        return any(self.donor_positions[position] >= 0 for position in self.roles[role])

    @property
    def span(self) -> int:
        """Tokens of the longer prompt with the longest answer."""
        return max(len(self.prompt), len(self.donor)) + max(map(len, self.answers), default=0)

    @property
    def fed(self) -> int:
        """Answer tokens that the model is given: nothing is read after an answer's last token."""
        return max(len(self.prompt), len(self.donor)) + max([len(answer) - 1 for answer in self.answers], default=0)


def bare_prompts(pairs: Sequence[EncodedPair]) -> list[EncodedPair]:
    """The pairs with one token of each answer, so that the model is given the prompts alone."""
    return [replace(pair, answers=tuple(answer[:1] for answer in pair.answers)) for pair in pairs]


@dataclass(frozen=True)
class Refusal:
    """A pair that cannot be used, and why."""

    id: str
    reason: str
    group: str | None = None


@dataclass(frozen=True)
class Encoding:
    """The pairs of a task that can be used, and those that cannot."""

    pairs: tuple[EncodedPair, ...]
    refused: tuple[Refusal, ...]
    template: ChatTemplate | None = None
    """How chats were rendered; None where there are none."""


def encode_task(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    paired: bool,
    align: Align,
    roles: Sequence[str] = (ALL,),
    prepend_bos: Bos = "auto",
    template_arguments: Mapping[str, Any] | None = None,
    most_tokens: int | None = None,
) -> Encoding:
    """Tokenise a task; ``paired``: the donor is the counterfactual prompt. Raises AlignmentError if nothing is left.

    ``most_tokens``: pairs whose prompt and longest answer, but for its last token, have more are refused.
    """
    encoder = _Encoder(task, tokenizer, prepend_bos, template_arguments or {})
    encoded: list[EncodedPair] = []
    refused: list[Refusal] = []
    for pair, make in zip(task.pairs, encoder.pairs(paired, align, roles), strict=True):
        if isinstance(make, AlignmentError):
            refused.append(Refusal(pair.id, str(make), pair.group))
        elif most_tokens is not None and make.fed > most_tokens:
            reason = f"pair {pair.id}: it has {make.fed} tokens, and the model takes {most_tokens}: shorten it"
            refused.append(Refusal(pair.id, reason, pair.group))
        else:
            encoded.append(make)
    if not encoded:
        raise AlignmentError(f"no pair of {task.name} can be used; the first: {refused[0].reason}")
    return Encoding(tuple(encoded), tuple(refused), encoder.template)


class _Encoder:
    """All texts of a task, tokenised in few calls: one for each kind of text and each portion of the pairs."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, bos: Bos, arguments: Mapping[str, Any]) -> None:
        self.task, self.tokenizer, self.arguments = task, tokenizer, arguments
        self.tokens = TextTokenizer(tokenizer, bos)
        chats = any(pair.messages or pair.counterfactual_messages for pair in task.pairs)
        self.template = chat_template(tokenizer, arguments) if chats else None
        self.base = [base_text(pair, tokenizer, arguments) for pair in task.pairs]

    def _tokenise(self, texts: Sequence[Text]) -> list[Tokenised]:
        """Rendered and plain texts take different calls; the order stays."""
        found: dict[int, Tokenised] = {}
        for rendered in (False, True):
            which = [i for i, text in enumerate(texts) if text.rendered == rendered]
            found |= zip(which, self.tokens.many([texts[i].text for i in which], rendered=rendered), strict=True)
        return [found[i] for i in range(len(texts))]

    def pairs(self, paired: bool, align: Align, roles: Sequence[str]) -> Iterator[EncodedPair | AlignmentError]:
        others: list[Text | None] = [None] * len(self.base)
        if paired:
            others = [counterfactual_text(pair, self.tokenizer, self.arguments) for pair in self.task.pairs]
        for some in self._portions():
            prompts = self._tokenise([self.base[i] for i in some])
            donors = iter(self._tokenise([other for i in some if (other := others[i]) is not None]))
            for i, prompt, answers in zip(some, prompts, self._answers(some), strict=True):
                donor = None if others[i] is None else (others[i], next(donors))
                try:
                    yield self._join(self.task.pairs[i], (self.base[i], prompt), donor, answers, align, roles)
                except AlignmentError as error:
                    yield error

    def _portions(self) -> Iterator[range]:
        """Split pairs into portions of about equal length: offsets of all tokens at once take many times their room."""
        start = length = 0
        for i, text in enumerate(self.base):
            length += len(text.text)
            if length > PORTION:
                yield range(start, i + 1)
                start, length = i + 1, 0
        if start < len(self.base):
            yield range(start, len(self.base))

    def _answers(self, some: range) -> Iterator[list[Tokens]]:
        """For each of some pairs the tokens of each answer: of prompt + answer, or of the answer alone."""
        alone = self.task.encoding == "alone"
        texts = [
            Text(answer if alone else base.text + answer, rendered=base.rendered)
            for pair, base in ((self.task.pairs[i], self.base[i]) for i in some)
            for answer in pair.answers
        ]
        rows = iter(self.tokens.many([t.text for t in texts], bare=True) if alone else self._tokenise(texts))
        for i in some:
            yield [next(rows).ids for _ in self.task.pairs[i].answers]

    def _join(
        self,
        pair: PromptPair,
        base: tuple[Text, Tokenised],
        donor: tuple[Text | None, Tokenised] | None,
        answers: list[Tokens],
        align: Align,
        roles: Sequence[str],
    ) -> EncodedPair:
        text, prompt = base
        if self.task.encoding == "text":
            prompt, answers = _cut_behind_first(pair, answers), [row[1:] for row in answers]
        if not prompt.ids:
            raise AlignmentError(f"pair {pair.id}: the prompt {text.text!r} tokenises to nothing")
        if self.task.encoding == "joint":
            answers = [_added(pair, base, row) for row in answers]
        _check_answers(pair, answers)
        positions = every(len(prompt.ids))
        found = {role: role_positions(pair.id, role, text, prompt) for role in roles}
        shifted: tuple[str, ...] = ()
        if donor is not None and donor[0] is not None:
            other = donor[0], donor[1]
            if align == "spans":
                positions = span_alignment(pair.id, base, other)
            else:
                positions = donor_positions(pair.id, prompt.ids, other[1].ids, self.tokenizer, align)
            shifted = _shifted(found, other) if align == "exact" else ()
        ids = donor[1].ids if donor else ()
        return EncodedPair(pair, prompt.ids, tuple(answers), ids, positions, found, text.text, shifted)


def _shifted(roles: Mapping[str, Tokens], donor: tuple[Text, Tokenised]) -> tuple[str, ...]:
    """Roles that stand at other positions in the donor prompt, of those that it names."""
    named = [role for role in roles if role in donor[0].spans]
    return tuple(role for role in named if span_positions(donor[1], *donor[0].spans[role]) != roles[role])


def _cut_behind_first(pair: PromptPair, rows: Sequence[Tokens]) -> Tokenised:
    """The first token of a whole text, as its prompt."""
    if len(rows) != 1:
        raise AlignmentError(
            f"pair {pair.id}: encoding='text' takes one answer, the rest of the text; it has {len(rows)}"
        )
    return Tokenised(rows[0][:1], ((0, 0),))


def _added(pair: PromptPair, base: tuple[Text, Tokenised], whole: Tokens) -> Tokens:
    prompt = base[1].ids
    if whole[: len(prompt)] != prompt:
        raise AlignmentError(
            f"pair {pair.id}: the tokens of the prompt {list(prompt)} are not the beginning of those of prompt + "
            f"answer {list(whole)}; {_apart(pair, *base, whole)}"
        )
    return whole[len(prompt) :]


def _apart(pair: PromptPair, text: Text, prompt: Tokenised, whole: Tokens) -> str:
    """How prompt and answer can be kept from growing together, which depends on what stands where they meet."""
    if text.rendered:
        return "begin the answers with another character: the end of the chat template grows together with this one"
    blank = text.text[len(text.text.rstrip()) :]
    if blank.strip(" ") == "" < blank and all(answer[:1] == " " for answer in pair.answers):
        return f"take {blank!r} off the end of the prompt: the answers begin with a space of their own"
    same = next((i for i, (a, b) in enumerate(zip(prompt.ids, whole, strict=False)) if a != b), len(prompt.ids) - 1)
    end = blank or text.text[prompt.offsets[same][0] :]
    spaced = blank or any(answer[:1].isspace() for answer in pair.answers)
    forgotten = "" if spaced else "begin the answers with the space before them, as in ' she', or "
    return f"{forgotten}move {end!r} from the end of the prompt to the beginning of the answers"


def _check_answers(pair: PromptPair, answers: Sequence[Tokens]) -> None:
    for text, tokens in zip(pair.answers, answers, strict=True):
        if not tokens:
            raise AlignmentError(f"pair {pair.id}: the answer {text!r} tokenises to nothing; give it some text")
    first: dict[Tokens, int] = {}
    for i, tokens in enumerate(answers):
        if first.setdefault(tokens, i) < i:
            both = f"{pair.answers[first[tokens]]!r} and {pair.answers[i]!r}"
            raise AlignmentError(
                f"pair {pair.id}: the answers {both} are the same tokens, so nothing moves between them; "
                "give answers that differ, or one alone with probability or nll"
            )
