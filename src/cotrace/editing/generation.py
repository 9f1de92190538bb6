"""Generation under a selection: settings, continuations beside the base run's, and judges of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from cotrace.batches.tokenize import TextTokenizer
from cotrace.donors import DonorSource
from cotrace.editing.apply import apply
from cotrace.errors import InputError
from cotrace.metrics.named import guarded, load_function
from cotrace.models import LanguageModel
from cotrace.models.attention_interface import fresh_frequencies
from cotrace.models.language_model import evaluating
from cotrace.problem.passes import Trials
from cotrace.prompts import Task
from cotrace.results import Selection, Table
from cotrace.results.outcomes import Outcome
from cotrace.statistics import Units, mean_interval
from cotrace.text.escape import visible_json
from cotrace.validation import checked, names_of

if TYPE_CHECKING:
    import pandas as pd

Judge = Callable[[Sequence[str], Sequence[str]], Any]
"""(prompts, continuations) -> one number for each."""


def judged(judge: str | Judge, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """One finite number for each text. Raises InputError where the judge returns anything else."""
    function = load_judge(judge)
    name = getattr(function, "__name__", "judge")
    found = guarded(lambda: function(list(prompts), list(texts)), f"judge {name} fails")
    try:
        scores = np.asarray(found, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"judge {name} returns {type(found).__name__}, not one number for each text") from None
    if scores.shape != (len(texts),):
        raise InputError(
            f"judge {name} returns shape {list(scores.shape)}, not one number for each of {len(texts)} texts"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"judge {name} returns numbers that are not finite")
    return [float(score) for score in scores]


def load_judge(judge: str | Judge) -> Judge:
    """The judge named by ``package.module:function`` or ``path/to/file.py:function``. Raises InputError."""
    return load_function(judge, "judge") if isinstance(judge, str) else judge


MOST_ROWS = 40


@dataclass(frozen=True)
class Continuation:
    """One prompt continued twice."""

    prompt: str
    """The prompt."""
    base: str
    """Continuation by the base model."""
    edited: str
    """Continuation by the edited model."""
    base_score: float | None = None
    """The judge's number for ``base``; None without a judge."""
    edited_score: float | None = None
    """The same for ``edited``."""


@dataclass(frozen=True)
class Continuations:
    """Every prompt continued by both models."""

    rows: tuple[Continuation, ...]
    """One for each prompt and sample."""
    samples: int = 1
    """Continuations of each prompt, which stand one behind the other."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All that decided which tokens were taken: what was asked for, and what the model's own generation_config sets."""

    @property
    def drawn(self) -> str:
        """How tokens were taken, in words."""
        if not self.settings.get("do_sample"):
            return "the likeliest token each time"
        rest = {name: value for name, value in self.settings.items() if name != "do_sample"}
        return f"drawn with {', '.join(f'{name} {value}' for name, value in rest.items())}"

    @property
    def changed(self) -> float:
        """Share of continuations that the edit changes."""
        return sum(row.base != row.edited for row in self.rows) / len(self.rows)

    @property
    def scores(self) -> Outcome | None:
        """The judge's mean score before and after; intervals over prompts. None without a judge."""
        if any(row.base_score is None for row in self.rows):
            return None
        base = self._by_prompt([row.base_score or 0.0 for row in self.rows])
        edited = self._by_prompt([row.edited_score or 0.0 for row in self.rows])
        units = Units.made(len(base))
        return Outcome(
            task="generated text",
            metric="score",
            pairs=len(base),
            before=float(base.mean()),
            after=float(edited.mean()),
            before_interval=mean_interval(base, units),
            after_interval=mean_interval(edited, units),
            change_interval=mean_interval(edited - base, units),
        )

    def _by_prompt(self, scores: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Mean over the samples of each prompt, which are not independent."""
        found: np.ndarray[tuple[int], np.dtype[np.float64]] = np.array(scores, float).reshape(-1, self.samples).mean(1)
        return found

    def jsonl(self) -> bytes:
        """One JSON object a line."""
        lines = (json.dumps(row, ensure_ascii=False) for row in self.to_dict()["rows"])
        return "".join(f"{visible_json(line)}\n" for line in lines).encode()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; each row with the settings."""
        own = dict(self.settings)
        return {"settings": own, "rows": [asdict(row) | {"settings": own} for row in self.rows]}

    def table(self) -> Table:
        """Both continuations of each prompt."""
        judged = self.scores is not None
        heads = ("prompt", "base", "edited", *(("score", "edited score") if judged else ()))
        rows = [(row.prompt, row.base, row.edited, *(_scores(row) if judged else ())) for row in self.rows[:MOST_ROWS]]
        return Table(
            f"Continuations: the edit changes {self.changed:.0%} of {len(self.rows)}; {self.drawn}",
            heads,
            rows,
            frozenset({0, 1, 2}),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each continuation."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])


def _scores(row: Continuation) -> tuple[str, str]:
    return f"{row.base_score:.3g}", f"{row.edited_score:.3g}"


NOT_DRAWING = (
    "transformers_version",
    "_from_model_config",
    "bos_token_id",
    "pad_token_id",
    "max_length",
    "max_new_tokens",
    "num_return_sequences",
    "return_dict_in_generate",
    "do_sample",
    "use_cache",
)
"""Settings of a generation_config that do not change how tokens are drawn here, or that every call gives itself."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How continuations are drawn."""

    max_new_tokens: int = 20
    """Most new tokens of each continuation."""
    temperature: float = 0.0
    """0 takes the likeliest token each time, whatever the model's own generation_config says; above 0 its top_k, top_p,
    penalties and the like are kept, and the result's ``settings`` name them."""
    samples: int = 1
    """Continuations of each prompt."""
    seed: int = 0
    """Seed of the random numbers."""
    batch_size: int = 16
    """Prompts in a batch."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: give at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}: give 0 (the likeliest token) or more")
        if self.samples > 1 and self.temperature == 0:
            raise InputError(f"samples is {self.samples}, but at temperature 0 all are the same; give a temperature")


@checked("ct.editing.generate")
def generate(
    model: LanguageModel,
    prompts: Sequence[str],
    selection: Selection | Sequence[str],
    donor: str | DonorSource = "zero",
    *,
    reference: Task | None = None,
    sampling: Sampling | None = None,
    judge: str | Judge | None = None,
) -> Continuations:
    """Continuations of each prompt by the base model and by the edited one, drawn with the same random numbers.

    ``judge(prompts, texts)`` gives each text a number; ``module:function`` or ``file.py:function`` names one.

    Args:
        model: The base model.
        prompts: The prompts as text.
        selection: Components to edit: a Selection or names.
        donor: Donor that stands alone, such as ``zero`` or ``scale=0.2``.
        reference: Task over whose base prompts ``mean`` is taken; needed for it alone.
        sampling: Settings of the sampling; None for 20 tokens at temperature 0.
    """
    sampling, prompts = sampling or Sampling(), names_of("ct.editing.generate", "prompts", prompts)
    base = continuations(model, prompts, sampling)
    with apply(model, selection, donor, reference=reference):
        edited = continuations(model, prompts, sampling)
    asked = [prompt for prompt in prompts for _ in range(sampling.samples)]
    scores = [judged(judge, asked, texts) if judge else [None] * len(asked) for texts in (base, edited)]
    rows = zip(asked, base, edited, *scores, strict=True)
    settings = settings_of(model, sampling)
    return Continuations(tuple(Continuation(*row) for row in rows), samples=sampling.samples, settings=settings)


def own_settings(model: LanguageModel) -> dict[str, Any]:
    """Return the sampling settings of the model's own generation_config."""
    found: dict[str, Any] = model.module.generation_config.to_diff_dict()
    return {name: value for name, value in found.items() if name not in NOT_DRAWING and value is not None}


def settings_of(model: LanguageModel, sampling: Sampling) -> dict[str, Any]:
    """All that decides which tokens are taken: at temperature 0 the likeliest, else the model's own settings too."""
    eos = model.module.generation_config.eos_token_id
    ends = {"max_new_tokens": sampling.max_new_tokens} | ({} if eos is None else {"eos_token_id": eos})
    if sampling.temperature == 0:
        return {"do_sample": False, **ends}
    drawn = {"do_sample": True, "temperature": float(sampling.temperature)}
    return {"top_k": 0, **own_settings(model), **drawn, **ends, "seed": sampling.seed}


@contextmanager
def _configured(model: LanguageModel, sampling: Sampling) -> Iterator[None]:
    """The model with no generation_config of its own but its special tokens, where the likeliest token is asked for.

    transformers fills whatever a call leaves open from the model's own, penalties and beams included.
    """
    own = model.module.generation_config
    if sampling.temperature == 0:
        special = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.module.generation_config = GenerationConfig(**special)
    try:
        yield
    finally:
        model.module.generation_config = own


def continuations(model: LanguageModel, prompts: Sequence[str], sampling: Sampling) -> list[str]:
    """``samples`` texts for each prompt, as the model is now. The global random state is left as it was.

    Args:
        model: The model, edited or not.
        prompts: The prompts as text.
        sampling: Settings of the sampling.
    """
    if not prompts:
        raise InputError("there are no prompts to continue: give at least one")
    tokenizer = model.require_tokenizer()
    rows = [list(text.ids) for text in TextTokenizer(tokenizer).many(list(prompts))]
    _check_rows(model, prompts, rows, sampling)
    asked = [row for row in rows for _ in range(sampling.samples)]
    texts: list[str] = []
    with evaluating(model.module), _configured(model, sampling), torch.random.fork_rng(devices=_accelerators(model)):
        torch.manual_seed(sampling.seed)
        for batch in _batches(asked, _rows_together(model, asked, sampling)):
            texts += tokenizer.batch_decode(_extend(model, batch, sampling), skip_special_tokens=True)
    return texts


@torch.no_grad()
def _extend(model: LanguageModel, rows: Sequence[Sequence[int]], sampling: Sampling) -> Tensor:
    """The new tokens of each row."""
    ids, mask = left_padded(rows, pad_token(model))
    ids, mask = ids.to(model.device), mask.to(model.device)
    drawn: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        top_k = model.module.generation_config.top_k
        drawn |= {"temperature": float(sampling.temperature), "top_k": top_k or 0}
    with fresh_frequencies(model.module):
        whole: Tensor = model.module.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=pad_token(model),
            num_return_sequences=1,
            return_dict_in_generate=False,
            **drawn,
        )
    return whole[:, ids.shape[1] :]


def _rows_together(model: LanguageModel, rows: Sequence[Sequence[int]], sampling: Sampling) -> int:
    """Rows of a batch: one alone where a longer one beside it would change its RoPE."""
    longest = max(map(len, rows)) + sampling.max_new_tokens
    return sampling.batch_size if model.once(Trials).frequency_limit(longest) is None else 1


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [row, pos], real tokens on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def pad_token(model: LanguageModel) -> int:
    """The token that fills rows up; nothing attends to it."""
    tokenizer = model.require_tokenizer()
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in found if token is not None)


def _check_rows(
    model: LanguageModel, prompts: Sequence[str], rows: Sequence[Sequence[int]], sampling: Sampling
) -> None:
    room = getattr(model.module.config.get_text_config(), "max_position_embeddings", None)
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise InputError(f"the prompt {prompt[:40]!r} tokenises to nothing")
        if isinstance(room, int) and len(row) + sampling.max_new_tokens > room:
            raise InputError(
                f"the prompt {prompt[:40]!r} has {len(row)} tokens; with {sampling.max_new_tokens} new ones that is "
                f"more than the {room} that {model.name} takes: give fewer with max_new_tokens, or a shorter prompt"
            )


def _batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[Sequence[Sequence[int]]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _accelerators(model: LanguageModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
