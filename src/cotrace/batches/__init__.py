"""Tokens, alignment, and the layout of examples in the rows of a forward pass."""

from cotrace.batches.encode import ALIGNMENTS, Align, EncodedPair, Encoding, Refusal, check_role, encode_task
from cotrace.batches.packing import (
    FrequencyLimit,
    Packing,
    answer_layouts,
    donor_layouts,
    prefix_layouts,
    prompt_layouts,
)
from cotrace.batches.segments import Layout, donor_tokens, shared_prefix
from cotrace.batches.tokenize import Bos, ChatTemplate, chat_template, check_counterfactual, token_text

__all__ = [
    "ALIGNMENTS",
    "Align",
    "Bos",
    "ChatTemplate",
    "EncodedPair",
    "Encoding",
    "FrequencyLimit",
    "Layout",
    "Packing",
    "Refusal",
    "answer_layouts",
    "chat_template",
    "check_counterfactual",
    "check_role",
    "donor_layouts",
    "donor_tokens",
    "encode_task",
    "prefix_layouts",
    "prompt_layouts",
    "shared_prefix",
    "token_text",
]
