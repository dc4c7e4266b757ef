"""A stage runs once per fingerprint, and what it leaves appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgekd.pipeline import stage
from edgekd.pipeline.stage import Run, content, fingerprint

Make = Callable[[Path], Mapping[str, Any]]


def writes(text: str, calls: list[str]) -> Make:
    def make(scratch: Path) -> Mapping[str, Any]:
        calls.append(text)
        (scratch / "output").mkdir()
        (scratch / "output" / "file").write_text(text)
        return {"text": text}

    return make


def test_it_runs_again_only_for_another_fingerprint(tmp_path: Path) -> None:
    calls: list[str] = []

    def go(value: int, text: str) -> stage.Done:
        return Run(tmp_path).stage("s", {"v": value}, (), writes(text, calls), "made/here")

    first = go(1, "a")
    assert (first.reused, first.result) == (False, {"text": "a"})
    assert go(1, "b").reused and calls == ["a"]
    assert go(1, "b").result == {"text": "a"}
    assert not go(2, "c").reused
    assert (tmp_path / "made/here/file").read_text() == "c"
    assert not list((tmp_path / "partial").iterdir())


def test_a_lost_output_is_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    Run(tmp_path).stage("s", {}, (), writes("a", calls), "here")
    (tmp_path / "here" / "file").unlink()
    (tmp_path / "here").rmdir()
    assert not Run(tmp_path).stage("s", {}, (), writes("a", calls), "here").reused
    (tmp_path / "stages" / "s.json").write_text("{ torn")
    assert not Run(tmp_path).stage("s", {}, (), writes("a", calls), "here").reused
    assert calls == ["a"] * 3


def test_a_failure_leaves_the_earlier_output_and_its_scratch(tmp_path: Path) -> None:
    Run(tmp_path).stage("s", {"v": 1}, (), writes("good", []), "here")

    def fails(scratch: Path) -> Mapping[str, Any]:
        (scratch / "checkpoint").write_text("half way")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        Run(tmp_path).stage("s", {"v": 2}, (), fails, "here")
    assert (tmp_path / "here/file").read_text() == "good"

    def goes_on(scratch: Path) -> Mapping[str, Any]:
        assert (scratch / "checkpoint").read_text() == "half way"
        return writes("better", [])(scratch)

    Run(tmp_path).stage("s", {"v": 2}, (), goes_on, "here")
    assert (tmp_path / "here/file").read_text() == "better"


def test_scratch_of_another_fingerprint_is_not_gone_on_with(tmp_path: Path) -> None:
    def fails(scratch: Path) -> Mapping[str, Any]:
        (scratch / "checkpoint").write_text("of settings 1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Run(tmp_path).stage("s", {"v": 1}, (), fails)

    def looks(scratch: Path) -> Mapping[str, Any]:
        return {"found": (scratch / "checkpoint").exists()}

    assert Run(tmp_path).stage("s", {"v": 2}, (), looks).result == {"found": False}


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_killed_between_two_renames_it_is_mended_by_running_again(
    tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old output aside, new output in, record in: dying before any of them loses nothing."""

    class Killed(BaseException):
        pass

    Run(tmp_path).stage("s", {"v": 1}, (), writes("old", []), "here")
    real, calls = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == moment:
            raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)

    def make(scratch: Path) -> Mapping[str, Any]:
        (scratch / "output").mkdir(exist_ok=True)
        (scratch / "output" / "file").write_text("new")
        return {}

    with pytest.raises(Killed):
        Run(tmp_path).stage("s", {"v": 2}, (), make, "here")
    monkeypatch.undo()
    kept = [p for p in (tmp_path / "here/file", tmp_path / "here.old/file") if p.exists()]
    assert kept and kept[0].read_text() in ("old", "new")
    Run(tmp_path).stage("s", {"v": 2}, (), make, "here")
    assert (tmp_path / "here/file").read_text() == "new"
    assert not (tmp_path / "here.old").exists()


def test_the_fingerprint_follows_values_stages_and_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = fingerprint({"a": 1, "b": 2}, ("edgekd.errors",))
    assert fingerprint({"b": 2, "a": 1}, ("edgekd.errors",)) == base
    assert fingerprint({"a": 1, "b": 3}, ("edgekd.errors",)) != base
    assert fingerprint({"a": 1, "b": 2}, ("edgekd.progress",)) != base
    one = stage.Done("s", "f1", 0.1, {"x": 1}, False)
    slower = stage.Done("s", "f1", 9.9, {"x": 1}, True)
    other = stage.Done("s", "f2", 0.1, {"x": 1}, False)
    assert fingerprint({"s": one}, ()) == fingerprint({"s": slower}, ())
    assert fingerprint({"s": one}, ()) != fingerprint({"s": other}, ())
    monkeypatch.setattr(stage, "_version", lambda library: f"{library}=99")
    assert fingerprint({"a": 1, "b": 2}, ("edgekd.errors",)) != base
    with pytest.raises(TypeError, match="cannot be part of a fingerprint"):
        fingerprint({"a": object()}, ())


def test_every_module_named_in_a_fingerprint_exists() -> None:
    """A module that was moved would silently drop out of the fingerprints."""
    from edgekd.pipeline import learn, ship

    for module in {*learn.TRAINING, *ship.SCORING, "edgekd_exporters.onnx", "edgekd.wrap"}:
        assert len(stage._source(module)) == 64


def test_content_is_of_bytes_and_names_not_of_times(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("1")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    (tmp_path / "b" / "x").rename(tmp_path / "b" / "y")
    assert content(tmp_path / "a") != content(tmp_path / "b")
