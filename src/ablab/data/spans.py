"""What a target is for: reasoning, the final answer, or neither. The numbers stand in span files and in batches."""

NONE, REASONING, FINAL = 0, 1, 2
NAMES = ("none", "reasoning", "final")  # by number
SPANS = {"reasoning": REASONING, "final": FINAL}


def metric_of(span: str) -> str:
    """Name the metric that is nats per token of a span."""
    return f"nats_per_{span}_token"
