"""How large a model is: parameters, and arithmetic per token."""

from __future__ import annotations

from ablab.model.decoder import Decoder
from ablab.records.settings import ModelSettings


def parameters(decoder: Decoder) -> dict[str, int]:
    """Count the parameters: embedding (the untied head counted in), body (all others), total."""
    count = {"body": 0, "embedding": 0, "total": 0}
    roles = decoder.roles()
    for name, parameter in decoder.named_parameters():
        count["embedding" if roles[name] in ("embedding", "head") else "body"] += parameter.numel()
        count["total"] += parameter.numel()
    return count


def active_parameters(decoder: Decoder) -> int:
    """Count the parameters that one token meets: of a mixture, its chosen experts alone."""
    owners = decoder.owners()
    return sum(round(p.numel() * owners[name].used) for name, p in decoder.named_parameters())


def flops_per_token(decoder: Decoder, model: ModelSettings) -> float:
    """Count floating-point operations per trained token, forward and backward, attention counted by what its window shows.

    model: the settings that the decoder is of.

    6 per weight of every matrix that a token meets and of the head (2 forward, 4 backward); attention 12 n_heads head_dim
    times the mean number of visible keys in a full row. A layer counts as often as it is met, loops weighed by the share
    of training in which they run. Norms, softmax and the optimizer are not counted.
    """
    owners, roles = decoder.owners(), decoder.roles()
    looped = 1.0 - decoder.loop_from
    met = [decoder.straight.count(i) * (1 - looped) + decoder.looped.count(i) * looped for i in decoder.straight]
    total = 6.0 * decoder.embed.weight.numel()  # the head, tied or not; looking a token up costs nothing
    for name, parameter in decoder.named_parameters():
        if roles[name] == "matrix":
            times = met[int(name.split(".")[1])] if name.startswith("layers.") else 1.0
            total += 6.0 * times * parameter.numel() * owners[name].used
    length = model["seq_len"]
    for i, letter in enumerate(model["layers"]):
        window = min(model["kinds"][letter]["window"] or length, length)
        keys = window * (length - (window - 1) / 2) / length  # mean over i of min(i + 1, window)
        total += 12.0 * met[i] * model["n_heads"] * model["head_dim"] * keys
    return total
