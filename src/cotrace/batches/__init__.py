"""Tokens, alignment, and the layout of examples in the rows of a forward pass."""

from cotrace.batches.align import ALIGNMENTS, Align
from cotrace.batches.chat import ChatTemplate, chat_template
from cotrace.batches.encode import EncodedPair, Encoding, Refusal, encode_task
from cotrace.batches.layout import Layout
from cotrace.batches.plan import FrequencyLimit, Packing, answer_layouts, donor_layouts, prefix_layouts, prompt_layouts
from cotrace.batches.roles import check_role
from cotrace.batches.strips import donor_tokens, shared_prefix
from cotrace.batches.texts import Bos, check_counterfactual, token_text

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
