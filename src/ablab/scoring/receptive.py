"""How far back a hidden state of a model looks, where that can be known, and how far its places go."""

from __future__ import annotations

from ablab.data import Corpus
from ablab.model.decoder import Decoder, skeleton
from ablab.records.settings import Settings


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


def within(settings: Settings, corpus: Corpus, model: Decoder | None, length: int) -> None:
    """Refuse a part that cannot read `length` tokens in one go.

    Places that were trained are never too many: the model is asked, or made as a skeleton, only beyond them.
    """
    if length <= settings["model"]["seq_len"]:
        return
    for part in made(settings, corpus, model).parts().values():
        part.within(length - 1)


def made(settings: Settings, corpus: Corpus, model: Decoder | None) -> Decoder:
    """Return the model, or its skeleton where there is none yet."""
    return skeleton(settings["model"], vocab_size=corpus.vocab_size) if model is None else model
