"""What the page, the card and the terminal say about a folder of several precisions."""

from __future__ import annotations

from rich.console import Console

from edgekd.report import html, terminal
from edgekd.report.card import model_card
from edgekd.report.document import Document
from edgekd.report.folder import Folder

FOLDER = Folder(
    path="bundles/browser",
    target="browser",
    bundle_bytes=27_000_000,
    holds={"fp32": "bundles/browser-fp32", "q8": "bundles/browser-int8"},
    left_out=["bundles/browser-auto"],
)


def test_what_ships_is_told_with_where_its_figures_are(document: Document) -> None:
    shipped = document.model_copy(update={"folders": [FOLDER]})
    console = Console(width=400, record=True)
    terminal.show(console, shipped)
    for words in (html.render(shipped), model_card(shipped), console.export_text()):
        plain = words.replace("<code>", "").replace("</code>", "").replace("`", "")
        assert "bundles/browser ships 2 models" in plain
        assert "fp32 (bundles/browser-fp32), which opens unless another is asked for" in plain
        assert "q8 (bundles/browser-int8)" in plain
        assert "bundles/browser-auto is not in it" in plain


def test_a_report_without_one_is_silent(document: Document) -> None:
    assert " ships " not in model_card(document)
