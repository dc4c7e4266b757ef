"""The gate on edgekd itself: each example's bundle against the one that the last release makes.

    python benchmarks/against_last_release.py [--ref COMMIT] [--student digits=DIR]

The same student, with seeded weights and no training (or --student, a trained one), is exported by
the last release's code and by the code at hand; then the two bundles are gated side by side on
this machine. A finished gate is kept in benchmarks/results and not run again for the same two
commits and the same student. banking77 needs the folder named by EDGEKD_ASSETS.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd import data, models, profiles, recipe, tasks
from edgekd.bench import render
from edgekd.bench.gate import gate
from edgekd.bench.sequential import Plan
from edgekd.errors import InputError
from edgekd.pipeline.stage import content

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).parent / "results" / "against_last_release.json"
SCHEMA = "edgekd.benchmark.against-last-release/1"
EXAMPLES = ("digits", "banking77")
PRECISIONS = ("fp32", "int8")
SEED = 0


def git(*arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True
    ).stdout


def last_tag() -> str | None:
    tags = git("tag", "--list", "v*", "--sort=-creatordate").decode().split()
    return tags[0] if tags else None


def release(commit: str, work: Path) -> Path:
    """The package of ``commit``, unpacked beside this one."""
    folder = work / f"edgekd-{commit[:12]}"
    if not folder.is_dir():
        archive = git("archive", "--format=tar", commit, "edgekd", "exporters", "pyproject.toml")
        partial = folder.with_suffix(".partial")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(partial, filter="data")
        partial.rename(folder)
    return folder


def seeded_student(example: str, work: Path) -> Path | None:
    """The student of ``examples/<example>.yaml`` before training; None without its assets."""
    import torch

    from edgekd.distill import student
    from edgekd.processors import fresh_preprocessor

    folder = work / f"{example}-student"
    if folder.is_dir():
        return folder
    try:
        settings = recipe.load(ROOT / "examples" / f"{example}.yaml")
    except InputError as error:
        print(f"{example}: left out, {error}")
        return None
    task = tasks.get(settings.task)
    rows = data.read_rows(settings.data.train, task, settings.data.columns)
    torch.manual_seed(SEED)
    if settings.teacher.model:
        teacher = models.load(settings.teacher.model, task, max_length=64)
    else:
        labels = sorted({row["label"] for row in rows}, key=int)
        config = settings.teacher.config or {}
        teacher = models.from_config(config, task, fresh_preprocessor(rows), labels, SEED)
    made = student.build(settings.student, teacher, task, rows, 64, SEED)
    made.save(folder)
    return folder


def export(package: Path, model: Path, precision: str, out: Path) -> None:
    """Let the code in ``package`` export ``model``, in a process that sees no other edgekd."""
    if (out / "bundle.json").is_file():
        return
    paths = os.pathsep.join([str(package), str(package / "exporters")])
    command = [sys.executable, "-P", "-c", "from edgekd.cli import main; main()", "export"]
    command += [str(model), "--target", "onnx", "--precision", precision, "--out", str(out)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise InputError(f"{package.name} cannot export {model.name}: {said[-1] if said else '?'}")


def examine(example: str, precision: str, model: Path, packages: Mapping[str, Path]) -> Any:
    """Gate the two bundles of ``model``; on the example's own test rows."""
    settings = recipe.load(ROOT / "examples" / f"{example}.yaml")
    task = tasks.get(settings.task)
    rows = data.read_rows(settings.data.test, task, settings.data.columns)
    found = {}
    for name, package in packages.items():
        student = content(model)[:6]
        found[name] = package.parent / f"{example}-{student}-{precision}-{package.name}"
        export(package, model, precision, found[name])
    result = gate(found["baseline"], found["candidate"], profiles.load("host"), rows, Plan())
    return result.to_dict() | {"said": [render.sentence(f) for f in result.outcome.findings]}


def here(work: Path) -> Path:
    """The code at hand, committed or not, as a package of its own."""
    digest = hashlib.sha256()
    for name in ("edgekd", "exporters"):
        for file in sorted(p for p in (ROOT / name).rglob("*") if p.is_file()):
            if "__pycache__" not in file.parts:
                digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    folder = work / f"edgekd-here-{digest.hexdigest()[:12]}"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for name in ("edgekd", "exporters"):
            (folder / name).symlink_to(ROOT / name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ref", help="compare with this commit instead of the last tag")
    parser.add_argument("--student", action="append", default=[], metavar="EXAMPLE=DIR")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "against-last-release")
    given = parser.parse_args()
    reference = given.ref or last_tag()
    if reference is None:
        print("there is no release tag (v*) yet; name a commit to compare with: --ref COMMIT")
        sys.exit(2)
    commit = git("rev-parse", f"{reference}^{{commit}}").decode().strip()
    given.work.mkdir(parents=True, exist_ok=True)
    packages = {"baseline": release(commit, given.work), "candidate": here(given.work)}
    trained = {name: Path(path) for name, _, path in (s.partition("=") for s in given.student)}
    document: dict[str, Any] = {"schema": SCHEMA, "gates": []}
    if OUT.is_file():
        document = json.loads(OUT.read_text(encoding="utf-8"))
    for example in EXAMPLES:
        model = trained.get(example) or seeded_student(example, given.work)
        for precision in PRECISIONS if model else ():
            assert model is not None
            key = {
                "example": example,
                "precision": precision,
                "baseline": commit[:12],
                "reference": reference,
                "candidate": packages["candidate"].name.removeprefix("edgekd-here-"),
                "student": content(model)[:12],
            }
            if any(row["key"] == key for row in document["gates"]):
                continue
            print(f"{example} {precision} …", flush=True)
            row = {"key": key, **examine(example, precision, model, packages)}
            document["gates"].append(row)
            text = json.dumps(document, indent=1)
            OUT.with_suffix(".partial").write_text(f"{text}\n", encoding="utf-8")
            OUT.with_suffix(".partial").replace(OUT)
    OUT.with_suffix(".md").write_text(table(document["gates"]), encoding="utf-8")
    print(table(document["gates"]))
    regressed = any(row["verdict"] == "regressed" for row in document["gates"])
    sys.exit(1 if regressed else 0)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| example | precision | against | verdict | p50 | detectable | exact figures that changed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        key, (p50,) = row["key"], row["findings"]
        low, high = p50["ratio_ci"]
        changed = [
            f"{e['metric']} {e['baseline']:,.0f} → {e['candidate']:,.0f}"
            if e["verdict"] != "missing"
            else f"{e['metric']} of one side only"
            for e in row["exact"]
            if e["baseline"] != e["candidate"]
        ]
        lines.append(
            f"| {key['example']} | {key['precision']} | {key['reference']} ({key['baseline']}) |"
            f" {row['verdict']} | {p50['ratio']:.3f} [{low:.3f}, {high:.3f}] | {p50['mde']:.1%} |"
            f" {', '.join(changed) or 'none'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
