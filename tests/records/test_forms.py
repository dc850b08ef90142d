"""The types of the records: they take what a store really holds, and nothing that lacks what a reader relies on."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import pytest
from tests import finished_store as made

from ablab.core.forms import misfit
from ablab.judging.judge import conclude
from ablab.records import answer as records
from ablab.records.answer import Answer, Kept
from ablab.records.result import Result
from ablab.records.run import Trained
from ablab.report import html, markdown
from ablab.verdict import rows

FORMS: dict[str, type] = {"done.json": Trained, "result.json": Result, "verdict.json": Kept}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The records of a finished and judged store, by the name of their file."""
    plan = made.fill(made.plan(tmp_path_factory.mktemp("records")))
    answer = conclude(plan)
    assert misfit(answer, Answer) == "" and html.page(answer) and markdown.page(answer)
    return {name: [json.loads(p.read_text()) for p in plan.store.root.rglob(name)] for name in FORMS}


def test_a_verdict_is_of_the_form_that_the_report_reads(held: dict[str, list[dict[str, Any]]]) -> None:
    for verdict in held["verdict.json"]:
        assert misfit(verdict, Answer) == "" and verdict.keys() == typing.get_type_hints(Answer).keys()


@pytest.mark.parametrize("name", ["Row", "Band", "StageBand", "Gap", "Step", "Inversion", "Rate", "Price", "Verdict"])
def test_what_the_verdict_says_has_the_fields_of_its_record(name: str) -> None:
    """`ablab.verdict` imports no record, so they stand twice."""
    record = records.Said if name == "Verdict" else getattr(records, name)
    said = {field.name for field in dataclasses.fields(getattr(rows, name))}
    assert typing.get_type_hints(record).keys() == said - ({"rows"} if name == "Verdict" else set())


@pytest.mark.parametrize("name", FORMS)
def test_a_form_takes_what_a_store_holds_and_nothing_less(name: str, held: dict[str, list[dict[str, Any]]]) -> None:
    assert held[name]
    hints = typing.get_type_hints(FORMS[name], include_extras=True)
    for record in held[name]:
        assert misfit(record, FORMS[name]) == ""
        for key, hint in hints.items():
            optional = typing.get_origin(hint) is typing.NotRequired
            if not optional:
                assert key in misfit({k: v for k, v in record.items() if k != key}, FORMS[name])
            inside = typing.get_args(hint)[0] if optional else hint
            if inside is not object and key in record:
                assert key in misfit(record | {key: {1, 2}}, FORMS[name])
