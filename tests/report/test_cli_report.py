from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.cli.report import report
from edgekd.errors import InputError
from edgekd.report.document import Document


def test_the_page_is_rendered_again(document: Document, tmp_path: Path) -> None:
    document.write(tmp_path / "report.json")
    report(tmp_path, json_path=str(tmp_path / "copy.json"))
    assert document.name in (tmp_path / "report.html").read_text()
    assert Document.read(tmp_path / "copy.json") == document
    (tmp_path / "report.html").unlink()
    report(tmp_path / "report.json")
    assert (tmp_path / "report.html").is_file()


def test_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        report(tmp_path)
