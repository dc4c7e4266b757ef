from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgekd.report import html
from edgekd.report.document import Document, Setting
from edgekd.report.verdict import verdict

VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """Checks that every tag is closed in order; gathers text, ids, links and rows."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labels: set[str] = set()
        self.feed(source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute stands twice in {tag}"
        self.ids += [values["id"]] if values.get("id") else []  # type: ignore[list-item]
        for name in ("href", "src", "action", "data", "srcset", "poster"):
            self.links += [values[name]] if name in values else []  # type: ignore[list-item]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def squeezed(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def test_the_page_is_well_formed_and_complete(document: Document) -> None:
    page = Page(html.render(document))
    text = squeezed(page.text)
    for row in document.bundles:
        assert row.path in text
    for model in document.models:
        assert model.id in text
    for expected in (
        "Passed.",
        "The ONNX int8 bundle keeps 99.3 % of its teacher’s accuracy in 5.62 MB",
        "16× smaller and 5.9× faster",
        "at most 6 MB",
        "a projection does not decide",
        "0.6 to 1.9 ms",
        "the interval includes zero",
        "no transformer calibration for this profile",
        "7 training rows also stood in the test data",
        "edgekd verify bundles/onnx-int8",
    ):
        assert expected in text
    assert {"measured", "reference", "projected"} <= set(text.split())


def test_the_page_stands_alone(document: Document) -> None:
    source = html.render(document)
    page = Page(source)
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    for outside in ("http:", "https:", "@import", "url("):
        assert outside not in source
    assert not page.tags & {"script", "link", "iframe", "img", "object"}


def hostile(value: Any) -> Any:
    """Every free text of a document, turned against the page."""
    if isinstance(value, dict):
        keep = {"id", "model", "path", "evidence", "status", "name", "schema", "chosen"}
        return {k: v if k in keep else hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return f"</td>'\"<script>alert(1)</script>&{value}" if isinstance(value, str) else value


def test_every_text_is_escaped(document: Document) -> None:
    values = hostile(document.to_dict())
    values["name"] = "<script>alert(1)</script>"
    page = Page(html.render(Document.model_validate(values)))
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") > 20


@pytest.mark.parametrize("status", ["failed", "inconclusive"])
def test_a_verdict_other_than_passed_is_said_first(document: Document, status: str) -> None:
    lines = [document.verdict.lines[0].model_copy(update={"status": status, "reason": "so it is"})]
    changed = document.model_copy(update={"verdict": verdict(lines)})
    word = {"failed": "Failed.", "inconclusive": "Undecided."}[status]
    assert squeezed(Page(html.render(changed)).text).split("Budget")[0].count(word) == 1


def test_a_run_that_made_nothing_still_has_a_page() -> None:
    empty = Document(
        name="empty", task="text-classification", models=[], bundles=[], verdict=verdict([])
    )
    text = squeezed(Page(html.render(empty)).text)
    assert "No bundle was chosen." in text and "No bundle was benchmarked." in text


def test_only_the_chosen_bundle_is_marked(document: Document) -> None:
    source = html.render(document)
    assert source.count('class="ring') == 2  # once in each plot
    assert source.count('<tr class="chosen">') == 1 + 2  # one bundle, two profiles


def test_writing_leaves_one_file(document: Document, tmp_path: Path) -> None:
    html.write(document, tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    json.dumps(document.to_dict())


def test_threads_and_devices_have_a_table(document: Document) -> None:
    assert "Threads and devices" not in html.render(document)
    bench = document.bundles[2].bench[0]
    shared = {"download_bytes": 5_600_000, "engine_bytes": 14_300_000, "first_ms": 30.0}
    rows = [
        Setting(
            threads=n,
            device="wasm",
            dtype="q8",
            p50_ms=4.0 / n,
            create_ms=9.0,
            memory_bytes=2**24,
            **shared,
        )
        for n in (1, 2)
    ]
    missing = Setting(threads=1, device="webgpu", missing="Chromium finds no WebGPU adapter here")
    changed = bench.model_copy(update={"settings": [*rows, missing]})
    row = document.bundles[2].model_copy(update={"bench": [changed]})
    bundles = [*document.bundles[:2], row, *document.bundles[3:]]
    page = Page(html.render(document.model_copy(update={"bundles": bundles})))
    for words in (
        "Dtype",
        "q8",
        "Session creation",
        "First run",
        "engine 14.3",
        "no WebGPU adapter",
    ):
        assert words in page.text
