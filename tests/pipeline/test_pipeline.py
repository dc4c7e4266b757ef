"""The main job end to end: whole, repeatable, resumable, and never run twice for nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgekd import pipeline
from edgekd import recipe as recipes
from edgekd.bundle import Bundle
from edgekd.errors import InputError, MissingDependency
from edgekd.pipeline.stage import content

Write = Callable[..., Path]
FIELDS = ("metrics", "metrics_ci", "retained", "retained_ci", "agreement")


def numbers(out: Path) -> dict[str, Any]:
    """What must not depend on how often a run was killed."""
    document = json.loads((out / "report.json").read_text())
    rows = {row["id"]: row for row in document["models"]}
    rows |= {row["path"]: row for row in document["bundles"]}
    return {name: {field: row[field] for field in FIELDS} for name, row in rows.items()}


def bundles(out: Path) -> list[dict[str, Any]]:
    return list(json.loads((out / "report.json").read_text())["bundles"])


def go(path: Path, out: Path) -> Any:
    return pipeline.run(recipes.load(path), path, out)


@pytest.fixture(scope="module")
def calm(
    tmp_path_factory: pytest.TempPathFactory,
    digits_recipe: Write,
    second: Callable[..., tuple[int, str]],
) -> tuple[Path, Path]:
    """A recipe and the directory of its undisturbed run."""
    folder = tmp_path_factory.mktemp("calm")
    path, out = digits_recipe(folder), folder / "run"
    code, said = second(out, path)
    assert code == 0, said
    return path, out


def test_the_run_directory_is_whole(calm: tuple[Path, Path]) -> None:
    path, out = calm
    document = json.loads((out / "report.json").read_text())
    assert document["schema"] == "edgekd.report/1"
    assert [row["id"] for row in document["models"]] == ["teacher", "student-no-kd", "student"]
    teacher, control, student = document["models"]
    assert student["params"] == control["params"] < teacher["params"]
    assert student["metrics"]["accuracy"] > 0.2  # chance is 0.1
    assert [row["precision"] for row in document["bundles"]] == ["fp32", "int8"]
    for row in document["bundles"]:
        bundle = Bundle.open(out / row["path"])
        bundle.check_files()
        assert (row["size_bytes"], row["bundle_bytes"]) == (bundle.size_bytes, bundle.bundle_bytes)
        assert row["evidence"] == "measured"
        accuracy = row["metrics"]["accuracy"] / teacher["metrics"]["accuracy"]
        assert row["retained"] == pytest.approx(accuracy)
    # The float export is the student: it decides the same on every row.
    assert document["bundles"][0]["metrics"] == student["metrics"]
    assert document["verdict"]["status"] == "passed"
    assert document["data"]["rows"] == {"train": 1347, "test": 450}
    assert (out / "recipe.yaml").read_bytes() == path.read_bytes()
    page = (out / "report.html").read_text()
    assert "tiny" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert not list((out / "partial").iterdir())


# Where a run dies, in the order in which it gets there: (what is called, for the how many-th time).
MOMENTS = (
    # Inside the teacher's training: the third checkpoint is written, but not marked as whole.
    ("edgekd.distill.trainer:_Checkpoints.on_save", 3),
    # The teacher is trained and not yet in its place.
    ("edgekd.pipeline.stage:_replace", 1),
    # Between two files of the stage's record: the teacher is in its place, unrecorded.
    ("edgekd.pipeline.stage:Path.replace", 2),
    # Labels of the training rows are computed and not yet stored.
    ("edgekd.signals.store:SignalStore.append", 2),
    # Inside the control's training, after it, and inside the student's.
    ("edgekd.distill.trainer:_Checkpoints.on_save", 2),
    ("edgekd.pipeline.training:predict", 1),
    ("edgekd.distill.trainer:_Checkpoints.on_save", 3),
    # The compressed bundle is written and compared, and not yet published.
    ("edgekd.exporter:publish", 2),
    # Everything is known but the report.
    ("edgekd.report.document:Document.write", 1),
)


def test_killed_again_and_again_it_ends_the_same(
    calm: tuple[Path, Path], second: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path, undisturbed = calm
    out = tmp_path / "run"
    for where, count in MOMENTS:
        code, said = second(out, path, where, count)
        assert code == -signal.SIGKILL, f"{where} was not reached {count} times: {said}"
    code, said = second(out, path)
    assert code == 0, said
    assert numbers(out) == numbers(undisturbed)
    for folder in ("teacher", "student", "student-no-kd"):
        weights = "model.safetensors"
        assert content(out / folder / weights) == content(undisturbed / folder / weights)
    assert not list((out / "partial").iterdir())


def test_nothing_changed_nothing_done(calm: tuple[Path, Path]) -> None:
    """A re-run in a fresh process reuses every stage and does not even import torch."""
    path, out = calm
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    script = (
        "import sys\nfrom edgekd.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as left: code = left.code\n"
        "print('torch' in sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "run", str(path), "--out", str(out), "--json", "-"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert all(stage["reused"] for stage in json.loads(done.stdout)["stages"])
    assert done.stderr.endswith("False\n")
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    changed = {p.name for p in after if after[p] != before.get(p)}
    assert changed <= {"report.json", "report.html", "README.md", "recipe.yaml", ".lock"}


def test_other_profiles_time_again_but_do_not_train_again(
    calm: tuple[Path, Path],
    digits_recipe: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    from edgekd.bench import measure

    monkeypatch.setattr(measure, "compare", partial(measure.compare, rounds=1, seconds=0.01))
    out = tmp_path / "run"
    shutil.copytree(calm[1], out)
    path = digits_recipe(tmp_path, profiles=["host"], budget={"retained": "1%", "speedup": 0.001})
    document = go(path, out)
    stages = {stage.name: stage.reused for stage in document.stages}
    fresh = {name for name, reused in stages.items() if not reused}
    assert fresh == {"export-onnx-fp32-teacher", "score-onnx-fp32-teacher", "bench-host"}
    assert numbers(out).items() >= numbers(calm[1]).items()
    timed = {row.path: row.bench[0] for row in document.bundles}
    assert len(timed) == 3
    assert all(b.evidence == "measured" and b.latency_ms for b in timed.values())
    assert {line.name for line in document.verdict.lines} == {"retained", "speedup"}
    assert document.verdict.exit_code == 0


def test_bundles_are_scored_by_the_runtime_of_their_profile(
    calm: tuple[Path, Path], digits_recipe: Write, tmp_path: Path
) -> None:
    """What a GPU is to compute is never scored on the CPU in its place."""
    import shutil

    assert {row["scored_on"].split()[-1] for row in bundles(calm[1])} == {"CPUExecutionProvider"}
    out = tmp_path / "run"
    shutil.copytree(calm[1], out)
    gpu = "{title: gpu, target: onnx, where: host, runtime: {options: {provider: cuda}}}"
    (tmp_path / "gpu.yaml").write_text(gpu)
    with pytest.raises(MissingDependency, match="no CUDAExecutionProvider"):
        go(digits_recipe(tmp_path, profiles=["gpu"]), out)
    assert not (out / "stages" / "score-onnx-fp32-teacher.json").exists()


def test_a_missed_budget_is_no(calm: tuple[Path, Path], digits_recipe: Write) -> None:
    path = digits_recipe(calm[0].parent / "missed", budget={"size": "1 kB"})
    document = go(path, calm[1])
    assert (document.verdict.status, document.verdict.exit_code) == ("failed", 1)
    assert all(stage.reused for stage in document.stages)


def test_two_runs_in_one_directory(calm: tuple[Path, Path]) -> None:
    path, out = calm
    with pipeline._locked(out), pytest.raises(InputError, match="another edgekd is running in"):
        go(path, out)


def test_a_directory_that_cannot_be_written(calm: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot write to the run directory"):
            go(calm[0], out)
    assert (tmp_path / "file").read_text() == "mine"


def test_bad_input_leaves_earlier_results_as_they_were(
    calm: tuple[Path, Path], digits_recipe: Write
) -> None:
    _, out = calm
    before = content(out / "report.json"), content(out / "bundles"), content(out / "student")
    wrong = digits_recipe(calm[0].parent / "wrong", student={"layers": [5]})
    with pytest.raises(InputError, match=r"names layer 5, but the teacher has 2 \(0 to 1\)"):
        go(wrong, out)
    assert before == (
        content(out / "report.json"),
        content(out / "bundles"),
        content(out / "student"),
    )
