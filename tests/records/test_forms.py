"""The forms of the records: they take what a store really holds, and nothing that lacks what a reader relies on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ablab.records.forms import DONE, RESULT, VERDICT
from tests import finished_store as made

from ablab.core.forms import misfit
from ablab.judging.judge import conclude

FORMS = {"done.json": DONE, "result.json": RESULT, "verdict.json": VERDICT}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The records of a finished and judged store, by the name of their file."""
    plan = made.fill(made.plan(tmp_path_factory.mktemp("records")))
    conclude(plan)
    return {name: [json.loads(p.read_text()) for p in plan.store.root.rglob(name)] for name in FORMS}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_takes_what_a_store_holds_and_nothing_less(name: str, held: dict[str, list[dict[str, Any]]]) -> None:
    assert held[name]
    for record in held[name]:
        assert misfit(record, FORMS[name]) == ""
        for key in FORMS[name]:
            if not key.endswith("?"):
                assert key in misfit({k: v for k, v in record.items() if k != key}, FORMS[name])
            if FORMS[name][key] is not object and key.removesuffix("?") in record:
                assert key.removesuffix("?") in misfit(record | {key.removesuffix("?"): {1, 2}}, FORMS[name])
