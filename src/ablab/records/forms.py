"""Forms of the records that lie in a store: what a reader may rely on, whoever wrote them (see ablab.core.forms).

A digest tells that a record is as it was written; who forges a record writes its digest too. What is read of a record stands
here, with its type; what else it holds is shown or passed on as it is.
"""

from __future__ import annotations

import re
from typing import Any

_KEY = re.compile(r"[0-9A-Za-z_]{1,64}")  # of a step: it becomes the name of a folder

_MADE_BY: dict[str, Any] = {"source?": {str: str}, "machine?": str}

DONE: dict[str, Any] = {
    "status": str,
    "token_hash": str,
    "tokens": int,
    "seconds": float,
    "tokens_per_second": (float, None),
    "trajectory": [{str: (float, None)}],
    "spikes": int,
    "steps": int,
    "weights": {str: str},
    "untrained": dict,
    "fault?": (str, None),
    "routing?": dict,
    "positions?": ({"edges": [int], "tokens": [int]}, None),
    "validated?": dict,
    "parameters?": {str: int},
    "metrics?": {"rows": int, "chain": str},
    **_MADE_BY,
    "resumed?": [{"step": int, "changed": [str]}],
}
RESULT: dict[str, Any] = {
    "metrics": {str: (float, None)},
    "bytes": int,
    "gates": [str],
    "bands": {str: list},
    "probe": ({"score?": (float, None), "acc?": (float, None)}, None),
    "seconds": float,
    "scores": {"sha256": str},
    "artifact": dict,
    "diverged": object,
    "key": str,
    "timing?": {str: float},
    "checked?": {str: (float, None)},
    "extra?": dict,
    **_MADE_BY,
}
WHERE: dict[str, Any] = {
    "device": str,
    "precision": str,
    "executor": str,
    "micro_rows": int,
    "compiled": bool,
}
VERDICT: dict[str, Any] = {
    "arms": [dict],
    "decided_by": object,
    "environment?": (dict, None),
    "data?": ([object], None),
}
BANKED: dict[str, Any] = {  # a row of a verdict that the bank reads
    "name": str,
    "on": (str, None),
    "word?": (str, None),
    "seeds?": int,
    "s?": (float, None),
    "changes?": [{"path?": object}],
}
_CONTRAST: dict[str, Any] = {
    "arm": str,
    "key": str,
    "ended": int,
    "also": [str],
    "turned?": [str],
    "pairs": [[str]],
    "trained?": [[str]],
}
DECISION: dict[str, Any] = {
    "decision_key": str,
    "study": str,
    "runs": [str],
    "ended": int,
    "decision": {"seeds?": (dict, None)},
    "contrasts?": [_CONTRAST],
    "on_baseline?": int,
    "baseline?": (str, None),
    "bank?": ({"sd": float, "df": float}, None),
    "limits?": (dict, None),
    "expect?": dict,
}
FIRST: dict[str, Any] = {  # a line that says when an arm of a decision first had results
    "when": str,
    "first": str,
    "decision_key": str,
    "kind": str,
    "after": int,
    "because": str,
    "of": str,
}
GIVEN_UP: list[Any] = [{"arm": str, "seed": int, "fault": str, "keys?": [str], "kind?": str}]
CHECKPOINT: dict[str, Any] = {"step": int, "sha256": str, "digest": str, **_MADE_BY}
CORPUS: dict[str, Any] = {  # the manifest of a prepared corpus
    "key": str,
    "identity": dict,
    "inputs": [{"files?": (int, [{"path": str, "sha256": str}])}],  # a number for the interpreter's library
    "tokenizer": {"choice": {"name": str}, "vocab_size": int, "bos_id": int, "fingerprint": str},
    "files": {str: {"size": int, "sha256": str}},
    "parts": [{"path": str, "kind": str}],
    "dtype": str,
    "counts": {str: object},
    "digest": str,
}
GROUPS: dict[str, Any] = {"corpus": str, "by": str, "names": str, "groups": [str], "numbers": [int]}


def keyed(row: dict[str, Any]) -> bool:
    """Whether a decision's contrasts name steps by keys, two of a pair beside its label and as many trainings as pairs."""
    for entry in row.get("contrasts", ()):
        pairs, trained = entry["pairs"], entry.get("trained") or [()] * len(entry["pairs"])
        if len(trained) != len(pairs) or not all(len(pair) == 3 for pair in pairs):
            return False
        if not all(map(_KEY.fullmatch, (key for keys in (*(pair[1:] for pair in pairs), *trained) for key in keys))):
            return False
    return True
