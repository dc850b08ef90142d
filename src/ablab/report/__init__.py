"""The report: verdict.json as one web page and one Markdown file."""

from __future__ import annotations

from pathlib import Path

from ablab.records.answer import Answer


def write(verdict: Answer, out: Path) -> None:
    """Write report.html and report.md into `out`, each whole or not at all. A verdict made mid-run is fine."""
    from ablab.core.files import write_atomic
    from ablab.report import html, markdown

    write_atomic(out / "report.html", html.page(verdict))
    write_atomic(out / "report.md", markdown.page(verdict))
