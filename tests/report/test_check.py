"""What the page and the terminal say about a bundle's rows in other runtimes."""

from __future__ import annotations

from rich.console import Console

from edgekd.report import html, terminal
from edgekd.report.check import Check
from edgekd.report.document import Document

AGREES = Check(
    runtime="onnxruntime 1.32.0, CPU, avx512-vnni",
    rows=3080,
    same=0.9987,
    metric=0.9213,
    largest_difference=0.031,
)
ABSENT = Check(runtime="transformers.js 4.3.0", missing="npm is not installed")


def test_how_often_kernels_decide_otherwise_is_told(document: Document) -> None:
    rows = [*document.bundles]
    rows[2] = rows[2].model_copy(update={"checks": [AGREES, ABSENT]})
    checked = document.model_copy(update={"bundles": rows})
    console = Console(width=400, record=True)
    terminal.show(console, checked)
    told = console.export_text()
    assert "onnx-int8 in onnxruntime 1.32.0, CPU, avx512-vnni: the same decision on 99.87" in told
    assert "3,080 rows, accuracy 92.13" in told and "at most 0.031 apart" in told
    assert "onnx-int8 in transformers.js 4.3.0: not asked, npm is not installed" in told
    page = html.render(checked).partition('id="checks"')[2].partition("</table>")[0]
    page = page.replace("\u00a0", " ")
    assert "99.87 %" in page and "0.031" in page and "npm is not installed" in page
    assert Document.model_validate(checked.to_dict()) == checked


def test_a_report_without_any_has_no_table(document: Document) -> None:
    assert 'id="checks"' not in html.render(document)


def test_what_peak_memory_is_in_a_browser_is_told(document: Document) -> None:
    words = html.render(document).partition('id="words"')[2]
    assert "in a browser the peak of the WebAssembly heap alone" in words
