"""`python -m ablab.bridges.harness --model ablab --model_args study=S,arm=A --tasks T`: the words of `lm_eval`, and its work.

The harness looks for models in a table of its own and loads no plugins: this puts `ablab` into it, and hands over. Its own
default of --device is a GPU; here it is the CPU.
"""

from __future__ import annotations

import sys

from ablab.bridges.harness import model
from ablab.core.fault import Refused


def main() -> int:
    """Run lm_eval's own command with the model `ablab` known; 3 or 4 where something is refused."""
    try:
        made = model()
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import register_model

        register_model("ablab")(made)
        flags = {word.partition("=")[0] for word in sys.argv}
        if "--model" in flags and "--device" not in flags:
            sys.argv += ["--device", "cpu"]
        cli_evaluate()
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
