"""Tiny models as browser bundles, exported once; a real Chromium where a test is marked for one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from edgekd_exporters.browser import BrowserExporter
from edgekd_exporters.browser.chromium import PROGRAMS
from edgekd_exporters.browser.session import BrowserSession

from edgekd import models, tasks
from edgekd.bundle import Bundle
from edgekd.exporter import Plan, Spec
from edgekd.program import Shapes
from edgekd.wrap import wrap

FOUND = {
    "chromium": any(map(shutil.which, PROGRAMS)),
    "npm": shutil.which("npm") is not None,
}


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    """A test marked ``browser`` is skipped without its programs, and fails where they are due."""
    if request.node.get_closest_marker("browser"):
        require_programs()


def require_programs() -> None:
    missing = [name for name, found in FOUND.items() if not found]
    due = [name for name in missing if name in os.environ.get("EDGEKD_REQUIRE", "").split()]
    if due:
        pytest.fail(f"EDGEKD_REQUIRE names {', '.join(due)}, and it is not installed")
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install {' '.join(missing)}")


@pytest.fixture(scope="session")
def exporter() -> BrowserExporter:
    return BrowserExporter()


def _lowered(exporter: BrowserExporter, source: Path, task_name: str, out: Path) -> Bundle:
    require_programs()
    task = tasks.get(task_name)
    loaded = models.load(str(source), task)
    rows = models.example_rows(task, loaded.preprocessor)
    program = wrap(loaded.model, task, loaded.preprocessor, loaded.labels, rows)
    return exporter.lower(program, Spec(Shapes()), out)


@pytest.fixture(scope="session")
def text_fp32(exporter: BrowserExporter, bert_dir: Path, bundles: Path) -> Bundle:
    return _lowered(exporter, bert_dir, "text-classification", bundles / "text")


@pytest.fixture(scope="session")
def text_int8(exporter: BrowserExporter, text_fp32: Bundle, bundles: Path) -> Bundle:
    return exporter.compress(text_fp32, Plan("int8"), (), bundles / "text-int8")


@pytest.fixture(scope="session")
def image_fp32(exporter: BrowserExporter, vit_dir: Path, bundles: Path) -> Bundle:
    return _lowered(exporter, vit_dir, "image-classification", bundles / "image")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="session")
def session(text_int8: Bundle) -> Iterator[BrowserSession]:
    opened = BrowserSession(text_int8)
    yield opened
    opened.close()
