"""Without Chromium, Playwright or npm: one line with the command that mends it, exit code 4."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from edgekd_exporters.browser import packages
from edgekd_exporters.browser.chromium import Chromium, program
from edgekd_exporters.browser.session import BrowserSession

from edgekd.bundle import Bundle, Manifest
from edgekd.errors import MissingDependency

EMPTY = Manifest("", "browser", "fp32", "", (), (), (), {}, (), {}, {}, 0.0)
PINS = Path(packages.__file__).parent / "npm"


def test_no_chromium(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("EDGEKD_CHROMIUM", raising=False)
    with pytest.raises(MissingDependency, match="run: apt-get install chromium") as told:
        BrowserSession(Bundle(tmp_path, EMPTY))
    assert told.value.exit_code == 4
    monkeypatch.setenv("EDGEKD_CHROMIUM", "/nowhere/chrome")
    with pytest.raises(MissingDependency, match="/nowhere/chrome"):
        program()


def test_no_playwright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright", None)
    with pytest.raises(MissingDependency, match=r"pip install 'edgekd\[browser\]'"):
        Chromium("about:blank")


def test_a_chromium_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    monkeypatch.setenv(
        "EDGEKD_CHROMIUM", script(tmp_path / "chromium", "echo no libnss3.so >&2; exit 127")
    )
    with pytest.raises(MissingDependency, match=r"does not start \(.*libnss3\.so\)") as told:
        Chromium("about:blank")
    assert "\n" not in str(told.value)


def script(file: Path, line: str) -> str:
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)
    return str(file)


def test_no_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="run: apt-get install npm"):
        packages.installed()


def test_an_installation_that_fails_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    script(tmp_path / "npm", "echo 'npm error network request failed' >&2; exit 1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(MissingDependency, match="network request failed") as told:
        packages.installed()
    assert "\n" not in str(told.value)
    assert not list((cache / "edgekd").iterdir())


def test_an_installation_that_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script(tmp_path / "npm", "exec sleep 60")
    monkeypatch.setattr(packages, "TIME_LIMIT", 0.2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(MissingDependency, match="not done after"):
        packages.installed()


def test_every_package_is_pinned_by_hash_and_none_names_a_registry() -> None:
    lock = json.loads((PINS / "package-lock.json").read_text(encoding="utf-8"))
    for name, package in lock["packages"].items():
        assert "resolved" not in package
        assert name == "" or package["integrity"].startswith("sha512-")
    assert "http" not in (PINS / "package-lock.json").read_text(encoding="utf-8")
    for name, wanted in packages.versions().items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == wanted
