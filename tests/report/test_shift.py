"""Served rows that look different: said wherever the report is read, quoted only to their owner."""

from __future__ import annotations

from rich.console import Console

from edgekd.report.card import model_card
from edgekd.report.document import Document, FarRow, Shift
from edgekd.report.html import render
from edgekd.report.terminal import show

PRIVATE = "my <b>account</b> [bold]4711"
FOUND = Shift(
    statistic=0.058,
    p_value=0.001,
    rows=(1000, 700),
    found=True,
    farthest=[FarRow(row=PRIVATE, distance=2.7)],
)


def with_shift(document: Document, shift: Shift) -> Document:
    warnings = [shift.sentence] if shift.found else []
    return document.model_copy(update={"shift": shift, "warnings": warnings})


def test_rows_are_quoted_in_the_page_and_the_terminal_as_text(document: Document) -> None:
    found = with_shift(document, FOUND)
    page = render(found)
    assert "energy coefficient 0.058, p = 0.001" in page
    assert "my &lt;b&gt;account&lt;/b&gt; [bold]4711" in page and "2.7 times" in page
    console = Console(record=True, width=300, file=None, quiet=False)
    with console.capture() as captured:
        show(console, found)
    assert PRIVATE in captured.get()


def test_a_card_that_is_published_quotes_none(document: Document) -> None:
    card = model_card(with_shift(document, FOUND), license=None, base_model=None)
    assert "do not look like the training data" in card and "4711" not in card


def test_without_a_shift_nothing_is_said(document: Document) -> None:
    alike = FOUND.model_copy(update={"found": False, "p_value": 0.4})
    assert "4711" not in render(with_shift(document, alike))


def test_it_survives_the_file(document: Document) -> None:
    found = with_shift(document, FOUND)
    assert Document.model_validate(found.to_dict()).shift == FOUND
