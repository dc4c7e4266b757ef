"""What ships, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SIBLINGS = ("distill", "search", "evaluate", "bench", "report")
HEAVY = {"torch", "transformers", "datasets", "accelerate", "coremltools", "sklearn"}
# What a phone-side or browser-side user installs, and what every worker runs.
LIGHT = [
    "edgekd.bundle",
    "edgekd.exporter",
    "edgekd.preprocess",
    "edgekd.tasks",
    "edgekd.evaluate",
    "edgekd.evaluate.run",
    "edgekd.bench.worker",
    "edgekd.bench.runner",
    "edgekd.bench.statistics",
    "edgekd.bench.gate",
    "edgekd.profiles",
    "edgekd.recipe",
    "edgekd.data",
    "edgekd.report.document",
    "edgekd.report.html",
    "edgekd.pipeline",
    "edgekd_exporters.onnx",
    "edgekd_exporters.onnx.session",
]


def imports(file: Path, *, deferred: bool = True) -> Iterator[str]:
    """Modules that ``file`` imports; ``deferred`` counts those inside functions as well.

    What stands under ``if TYPE_CHECKING`` is read by type checkers alone and not counted.
    """

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if typing_only or (inside and not deferred):
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(folder: str) -> list[Path]:
    path = ROOT / folder
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def test_siblings_do_not_import_each_other() -> None:
    for sibling in SIBLINGS:
        others = tuple(f"edgekd.{name}" for name in SIBLINGS if name != sibling)
        for file in modules(f"edgekd/{sibling}"):
            wrong = {name for name in imports(file) if name.startswith(others)}
            assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        *[(name, ("edgekd.pipeline", "edgekd.cli")) for name in SIBLINGS],
        *[
            (name, ("edgekd.pipeline", "edgekd.cli", *(f"edgekd.{s}" for s in SIBLINGS)))
            for name in ("tasks", "signals", "program", "exporter", "bundle", "preprocess", "data")
        ],
        ("pipeline", ("edgekd.cli",)),
    ],
)
def test_dependencies_point_one_way(folder: str, forbidden: tuple[str, ...]) -> None:
    for file in modules(f"edgekd/{folder}"):
        wrong = {name for name in imports(file) if name.startswith(forbidden)}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_exporters_are_imported_by_the_registry_alone() -> None:
    for file in modules("edgekd"):
        wrong = {name for name in imports(file) if name.startswith("edgekd_exporters")}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"
    for file in modules("exporters"):
        wrong = {n for n in imports(file) if n.startswith(("edgekd.pipeline", "edgekd.cli"))}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_workers_import_neither_torch_nor_transformers() -> None:
    script = (
        "import sys, importlib\n"
        f"for name in {LIGHT}: importlib.import_module(name)\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_bundle_runs_where_torch_is_not_installed(intent_bundle: Path, tmp_path: Path) -> None:
    """Evaluating a bundle imports none of the heavy libraries: their import is made to fail."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nmy card,card\nthe money,money\n")
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(HEAVY)}))\n"
        "from edgekd.cli import main\nmain(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "eval", str(intent_bundle), "--data", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_wheel_holds_two_packages_and_their_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"edgekd", "edgekd_exporters"}
    assert "edgekd/profiles/host.yaml" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_every_file_is_one_room() -> None:
    """Files stay short enough to be read at one sitting."""
    long = {
        str(file.relative_to(ROOT)): count
        for folder in ("edgekd", "exporters")
        for file in (ROOT / folder).rglob("*.py")
        if (count := len(file.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long
