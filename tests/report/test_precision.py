"""What the page says about a search for a precision."""

from __future__ import annotations

from edgekd.report import html
from edgekd.report.document import Document
from edgekd.report.precision import Search, Timing, Trial


def search(**values: object) -> Search:
    float_one = Trial(precision="fp32", accuracy=0.92, drop=0.0, size_bytes=22_000_000)
    narrow = Trial(precision="int4-weights", accuracy=0.85, drop=0.07, size_bytes=3_000_000)
    found = Search(
        target="browser",
        max_drop=0.01,
        max_size_bytes=5_000_000,
        timing=Timing(note="latency was not measured (an interpreter)"),
        bundle="bundles/browser-auto",
        chosen=None,
        nearest=narrow,
        missed="no precision stays within a drop of 0.01 and 5,000,000 bytes: the nearest is …",
        trials=[float_one, narrow],
    )
    return found.model_copy(update=values)


def section(document: Document, found: Search) -> str:
    page = html.render(document.model_copy(update={"searches": [found]}))
    return page.partition('id="search"')[2].partition("<h2")[0]


def test_a_budget_that_nothing_meets(document: Document) -> None:
    page = section(document, search())
    assert "latency was not measured" in page and "no precision stays within" in page
    assert "over a limit" in page and "drops too much" in page
    assert "a drop of at most 1" in page and "5.00 MB" in page.replace("\u00a0", " ")
    assert 'class="chosen"' not in page


def test_what_was_chosen_is_marked(document: Document) -> None:
    inside = Trial(precision="int8", drop=0.0, latency_ms=0.2, size_bytes=4_000_000, within=True)
    found = search(chosen=inside, nearest=None, missed=None, trials=[inside])
    page = section(document, found)
    assert 'class="chosen"' in page and "over a limit" not in page


def test_a_drop_that_is_only_expected_is_told(document: Document) -> None:
    lucky = Trial(
        precision="int8",
        accuracy=0.92,
        drop=0.0,
        expected_drop=0.0088,
        drop_bound=0.0131,
        size_bytes=4_000_000,
    )
    page = section(document, search(trials=[lucky]))
    assert "up to 1.31" in page.replace("\u00a0", " ") and "may drop too much" in page
