"""How far back a hidden state of a model looks, where that can be known."""

from __future__ import annotations

from ablab.model.decoder import Decoder


def receptive(model: Decoder) -> int | None:
    """Return the most tokens before its own that a hidden state depends on; None where there is no such number.

    A number holds only where nothing sees a token's place as such: every layer met (loops unrolled) has a window, every
    position scheme says `relative`, and the embedding says how far back it looks (`reach`). What does not say so is taken
    to look anywhere. No other part can look back: a forward over a cache equals the whole one, and nothing else keeps
    anything there.
    """
    reach = model.mixer.reach
    if reach is None:
        return None
    total, stack = int(reach), model.stack()
    for i in model.order:
        attention = stack[i].attn
        if attention.window is None or not attention.position.relative:
            return None
        total += int(attention.window) - 1
    return total
