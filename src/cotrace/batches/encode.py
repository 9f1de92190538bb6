"""Tokens: prompts and answers to token ids, and the refusal of pairs whose tokens do not fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from cotrace.batches.align import Align, donor_positions, span_alignment
from cotrace.batches.chat import ChatTemplate, chat_template
from cotrace.batches.roles import ALL, role_positions, span_positions
from cotrace.batches.texts import Bos, Text, TextTokenizer, Tokenised, base_text, counterfactual_text, every
from cotrace.errors import AlignmentError
from cotrace.prompts import PromptPair, Task

Tokens = tuple[int, ...]


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
        """Those of them that the model is given: nothing is read after an answer's last token."""
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
        others = self._others() if paired else [None] * len(self.base)
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
        """Consecutive pairs whose prompts are about so long together: each token's place in the text is known at once,
        which takes many times what is kept of it."""
        start = length = 0
        for i, text in enumerate(self.base):
            length += len(text.text)
            if length > PORTION:
                yield range(start, i + 1)
                start, length = i + 1, 0
        if start < len(self.base):
            yield range(start, len(self.base))

    def _others(self) -> list[Text | None]:
        return [counterfactual_text(pair, self.tokenizer, self.arguments) for pair in self.task.pairs]

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
        found = role_positions(pair.id, text, prompt, roles)
        shifted: tuple[str, ...] = ()
        if donor is not None and donor[0] is not None:
            positions = self._aligned(pair, base, (donor[0], donor[1]), align)
            shifted = _shifted(found, (donor[0], donor[1])) if align == "exact" else ()
        ids = donor[1].ids if donor else ()
        return EncodedPair(pair, prompt.ids, tuple(answers), ids, positions, found, text.text, shifted)

    def _aligned(
        self, pair: PromptPair, base: tuple[Text, Tokenised], donor: tuple[Text, Tokenised], align: Align
    ) -> Tokens:
        if align == "spans":
            return span_alignment(pair.id, base, donor)
        return donor_positions(pair.id, base[1].ids, donor[1].ids, self.tokenizer, align)


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
