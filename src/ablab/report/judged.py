"""A study's answer in a notebook: a table on the screen, a data frame for whoever computes further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from ablab.core.fault import CheckFailed, Fault, to_install
from ablab.records.answer import Answer
from ablab.records.ladder import LadderAnswer

if TYPE_CHECKING:
    import pandas

# Of an arm's row, what is one number or one word each.
COLUMNS = ("on", "word", "delta", "low", "high", "seeds", "p", "more_seeds", "mean")
PAID = ("bytes", "parameters", "tokens_per_second", "train_seconds")


A = TypeVar("A", Answer, LadderAnswer)


@dataclass(frozen=True)
class Answered(Generic[A]):
    """An answer as its file says it, and the folder that the file and its page lie in."""

    answer: A
    folder: Path

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @property
    def words(self) -> dict[str, str | None]:
        """Every arm's word by its name, without the baseline; None where it has none."""
        return {arm["name"]: arm["word"] for arm in self.answer["arms"] if arm["on"] is not None}

    @property
    def of(self) -> str:
        """What was asked, for `repr`."""
        return self.answer["study"]

    def __repr__(self) -> str:
        words = ", ".join(f"{name} {word or 'without a word'}" for name, word in self.words.items())
        return f"<{self.of}: {words}; {self.page}>"


class Judged(Answered[Answer]):
    """What verdict.json says, beside the study's pages."""

    @property
    def winner(self) -> str | None:
        """The arm that won, or None."""
        return self.answer["winner"]

    def to_frame(self) -> pandas.DataFrame:
        """Return a row per arm, the baseline first, indexed by its name. CheckFailed where pandas is not installed.

        word, delta (to `on`, in the deciding metric), low and high (of its interval), seeds, p and more_seeds as
        verdict.json has them, mean (the arm's own level), and what it costs: bytes, parameters, tokens_per_second,
        train_seconds.
        """
        try:
            import pandas
        except ImportError as error:
            raise CheckFailed(Fault("to_frame()", "pandas is not installed", to_install("pandas"))) from error
        rows = []
        for arm in self.answer["arms"]:
            said: Mapping[str, object] = arm
            paid: Mapping[str, object] = arm["cost"]
            rows.append({**{key: said[key] for key in COLUMNS}, **{key: paid[key] for key in PAID}})
        names = pandas.Index([arm["name"] for arm in self.answer["arms"]], name="arm")
        return pandas.DataFrame(rows, index=names, columns=[*COLUMNS, *PAID])

    def _repr_html_(self) -> str:
        """Write the sentence and the verdict's table, for notebooks; everything that a file may have said is escaped."""
        from markupsafe import Markup, escape

        from ablab.report import prose, tables
        from ablab.report.view import View
        from ablab.report.words import Html

        view = View(self.answer)
        table = tables.verdict_table(view, Html())
        cell = Markup("<{0} style='text-align:left;vertical-align:top'>{1}</{0}>").format
        head = Markup("").join(cell("th", title) for title, _ in table.head)
        rows = [Markup("").join(cell("td", one) for one in row) for row in table.rows]
        body = Markup("").join(Markup("<tr>{}</tr>").format(row) for row in rows)
        said = [Markup("<p><b>{}:</b> {}</p>").format(head, text) for _, head, text in prose.warnings(view)]
        answer = Markup("<p>{}</p>").format(view.verdict["sentence"])
        drawn = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)
        return str(Markup("").join([*said, answer, drawn, Markup("<p>{}</p>").format(escape(self.page))]))
