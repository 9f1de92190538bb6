"""Whether a model may share rows between examples, decided by trying it, and how many tokens a forward pass holds."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

import torch

from cotrace.batches import EncodedPair, Packing, answer_layouts
from cotrace.batches.plan import longest_span
from cotrace.interventions import Stations, forward, keep_prefixes
from cotrace.models import LanguageModel
from cotrace.models.watch import REFUSALS
from cotrace.prompts import PromptPair

ACTIVATION_BYTES = {"cpu": 2**30}
OTHER_ACTIVATION_BYTES = 2**34
"""Activations that one forward pass with gradient may hold, by kind of device; fixed, so that a batch plan does not
depend on what else the machine is doing."""
BYTES_PER_TOKEN_FACTOR = 34
"""Activations per token and layer, in units of d_model numbers: what a layer saves for its backward pass."""
LOGIT_COPIES = 3
FEWEST_TOKENS, MOST_TOKENS = 256, 16_384
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def choose_packing(
    model: LanguageModel, pairs: Sequence[EncodedPair], batch_tokens: int | None, pack: bool = True
) -> Packing:
    """Packed rows where the model gives the same logits with them and no window or mask is shorter than an example."""
    tokens = batch_tokens or default_batch_tokens(model)
    longest = max(pair.span for pair in pairs)
    window = shortest_window(model)
    fits = window is None or longest <= window
    limit = mask_length(model)
    fits = fits and (limit is None or longest_span(pairs) <= limit)
    packed = pack and fits and takes_packed_rows(model)
    kept = packed and takes_kept_prefixes(model)
    shortcuts = pack and takes_shortcuts(model)
    return Packing(packed, tokens, row_limit=limit, keep_prefix=kept, shortcuts=shortcuts).holding(tokens)


def default_batch_tokens(model: LanguageModel) -> int:
    """Tokens whose activations, logits included, take about a gibibyte (on an accelerator sixteen)."""
    vocabulary, width = model.module.get_input_embeddings().weight.shape
    numbers = BYTES_PER_TOKEN_FACTOR * width * len(model.layers) + LOGIT_COPIES * vocabulary
    budget = ACTIVATION_BYTES.get(model.device.type, OTHER_ACTIVATION_BYTES)
    return int(min(MOST_TOKENS, max(FEWEST_TOKENS, budget // (numbers * model.dtype.itemsize))))


def shortest_window(model: LanguageModel) -> int | None:
    """The shortest attention window or chunk that the configuration names; None where attention is unbounded."""
    config = model.module.config.get_text_config()
    named = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return min((w for w in named if isinstance(w, int) and w > 0), default=None)


def mask_length(model: LanguageModel) -> int | None:
    """The side of the smallest causal mask that the model keeps ready, and cuts to a row; None where there is none.

    GPT-2 has one up to transformers 5.0. Its columns are places in the row, not positions in the text.
    """
    side = getattr(model.module.config.get_text_config(), "max_position_embeddings", None)
    squares = [b for b in model.module.buffers() if b.ndim >= 2 and b.shape[-2:] == (side, side) and not b.is_meta]
    return min((b.shape[-1] for b in squares if _is_causal(b[(0,) * (b.ndim - 2)])), default=None)


def _is_causal(square: torch.Tensor) -> bool:
    seen = square != 0
    return bool(seen.diagonal().all()) and not bool(seen.triu(1).any())


def takes_packed_rows(model: LanguageModel) -> bool:
    """Whether a row of two examples with branches gives the logits of plain rows, tried on a few tokens."""
    if any(layer.attention is None for layer in model.layers):
        return False
    if "position_ids" not in inspect.signature(model.module.forward).parameters:
        return False
    pairs = _probe_pairs(model)
    try:
        packed, plain = (_probe_scores(model, pairs, packed=packed) for packed in (True, False))
    except REFUSALS:
        return False
    return _agree(model, packed, plain)


def takes_kept_prefixes(model: LanguageModel) -> bool:
    """Whether rows that attend to kept keys and values give the logits of whole rows, tried on a few tokens."""
    pairs = _probe_pairs(model)
    shortened = [replace(pair, prefix=len(pair.prompt) - 1 - i) for i, pair in enumerate(pairs)]
    try:
        return _agree(model, *(_probe_scores(model, some, packed=True) for some in (shortened, pairs)))
    except REFUSALS:
        return False


def takes_shortcuts(model: LanguageModel) -> bool:
    """Whether a run that starts in the last layer gives the logits of a whole run, tried on a few tokens."""
    last = len(model.layers) - 1
    layout = answer_layouts(_probe_pairs(model), [0], Packing(packed=False, batch_tokens=1))[0]
    stations = Stations([last])
    try:
        with torch.no_grad():
            whole = forward(model, layout, [], stations=stations)
            if last == 0 or not stations.plain or last not in stations.entries:
                return False
            return _agree(model, forward(model, layout, [], entry=stations.entries[last]), whole)
    except REFUSALS:
        return False


def _agree(model: LanguageModel, one: torch.Tensor, other: torch.Tensor) -> bool:
    scale = other.abs().max().clamp(min=1.0)
    return bool((one - other).abs().max() <= TOLERANCE.get(model.dtype, 1e-4) * scale)


def _probe_pairs(model: LanguageModel) -> list[EncodedPair]:
    vocabulary = model.module.get_input_embeddings().weight.shape[0]

    def ids(start: int, count: int) -> tuple[int, ...]:
        return tuple((start + 7 * i) % vocabulary for i in range(count))

    pair = PromptPair(id="probe", base="probe", answers=("a", "b"))
    prompts = (ids(3, 5), ids(11, 3))
    return [EncodedPair(pair, prompt, (ids(5, 3), ids(17, 2)), (), tuple(range(len(prompt)))) for prompt in prompts]


@torch.no_grad()
def _probe_scores(model: LanguageModel, pairs: Sequence[EncodedPair], *, packed: bool) -> torch.Tensor:
    """Log-probability of every scored token, by example, answer and place, whatever the rows."""
    total: list[torch.Tensor] = []
    packing = Packing(packed, FEWEST_TOKENS)
    kept = keep_prefixes(model, pairs, packing)
    for layout in answer_layouts(pairs, range(len(pairs)), packing):
        cache = None if kept is None else kept.for_layout(layout, 1)
        log_p = forward(model, layout, [], cache=cache)[0].double().log_softmax(-1)
        values = log_p[layout.scored_read.to(log_p.device), layout.scored_token.to(log_p.device)].cpu()
        cells = torch.zeros(len(pairs), layout.answers, dtype=torch.float64)
        at = torch.tensor(layout.examples)[layout.scored_cell // layout.answers]
        total.append(cells.index_put((at, layout.scored_cell % layout.answers), values, accumulate=True))
    return torch.stack(total).sum(0)
