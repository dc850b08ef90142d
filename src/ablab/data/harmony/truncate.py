"""Structured truncation: a conversation that is too long loses reasoning first, then the question's beginning."""

from __future__ import annotations

import numpy as np

from ablab.data.harmony.parse import parts
from ablab.data.harmony.render import Rendered
from ablab.data.tokenizers.o200k_harmony import O200kHarmony


def truncate(rendered: Rendered, max_tokens: int, tokenizer: O200kHarmony) -> Rendered | None:
    """Cut `rendered` to at most `max_tokens` tokens (<|endoftext|> counts), or return None where it must be dropped.

    Cut from the left of their text, as far as needed and in this order: the analyses, oldest first (so the reasoning that
    leads to the last answer goes last), down to a header with no text; then the last user message, of which one character
    at least must stay. Nothing else is touched: every final, every system and developer message, earlier questions and all
    headers stay whole. Where that is not enough the conversation is dropped.

    The cut is on token ids; it moves right to where a character begins, so texts stay valid Unicode. The text that is left
    would not always be encoded as the same ids. Mask and span stay with their tokens.

    Errors: ValueError where max_tokens < 1; FormatError where the ids are no conversation.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens = {max_tokens} is below 1; give at least 1")
    tokens = rendered.tokens
    over = len(tokens) - max_tokens
    if over <= 0:
        return rendered
    spans = parts(tokens, tokenizer)
    inside = tokenizer.table().inside
    keep = np.ones(len(tokens), bool)
    questions = [part for part in spans if part.role == "user"]
    for part in [*(part for part in spans if part.channel == "analysis"), *questions[-1:]]:
        if over <= 0:
            break
        cut = min(part.body + over, part.end)
        while cut < part.end and inside[tokens[cut]]:
            cut += 1
        if part.role == "user" and cut == part.end:
            return None
        keep[part.body : cut] = False
        over -= cut - part.body
    if over > 0:
        return None
    return Rendered(tokens[keep], _shortened(rendered.loss_mask, keep), _shortened(rendered.span, keep))


def _shortened(labels: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Keep label-aligned values with the tokens that stay: the value at i is token i + 1's, so it goes where that token goes.

    The first token, a <|start|>, always stays, and nothing speaks of it.
    """
    return np.append(labels[:-1][keep[1:]], labels[-1:])
