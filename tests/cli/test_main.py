"""The command line as a whole: quick help, one line per error, exit codes, clean streams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekd import cli
from edgekd.errors import InconclusiveError, InputError, MissingDependency, VerificationError

Cli = Callable[..., Any]


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    """All verbs in one process; what one of them imported would be seen."""
    script = (
        "import sys\n"
        "from edgekd.cli import app, main\n"
        "verbs = [command.name for command in app.registered_commands]\n"
        "for arguments in [['--help'], ['--version'], *([verb, '--help'] for verb in verbs)]:\n"
        "    try: main(arguments)\n"
        "    except SystemExit as left: assert not left.code, (arguments, left.code)\n"
        "heavy = {'torch', 'transformers', 'numpy', 'onnx', 'onnxruntime', 'coremltools',\n"
        "         'datasets', 'sklearn', 'pydantic', 'rich.console'}\n"
        "assert {'run', 'export', 'eval', 'verify'} <= set(verbs)\n"
        "print(heavy & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stderr.splitlines()[-1]
    assert not {"torch", "transformers", "onnx", "coremltools", "datasets"} & set(
        loaded.strip("{}").replace("'", "").split(", ")
    ), loaded


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VerificationError("no"), 1),
        (InputError("wrong"), 2),
        (InconclusiveError("perhaps"), 3),
        (MissingDependency("lacking"), 4),
        (ModuleNotFoundError("No module named 'coremltools'", name="coremltools"), 4),
        (OSError(28, "No space left on device", "/runs/x"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_code_and_one_line(
    edgekd: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    answer = edgekd("run")
    assert answer.code == code
    assert answer.out == ""
    assert answer.err.startswith("edgekd: ") and answer.err.count("\n") == 1
    if not isinstance(error, KeyboardInterrupt):
        with pytest.raises(type(error)):
            cli.main(["run", "--debug"])


def test_a_fault_of_ours_is_one_line_and_its_traceback_is_one_flag_away(
    edgekd: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str]) -> None:
        raise AssertionError("a bug")

    monkeypatch.setattr(cli, "app", fail)
    answer = edgekd("run")
    assert answer.code not in (0, 2)
    assert "a bug" in answer.err and "--debug" in answer.err and answer.err.count("\n") == 1
    with pytest.raises(AssertionError):
        cli.main(["run", "--debug"])


@pytest.mark.parametrize(
    "arguments", [["exprot"], ["export"], ["export", "x", "--no-such-option"], ["eval", "x"]]
)
def test_wrong_usage_is_two(edgekd: Cli, arguments: list[str]) -> None:
    answer = edgekd(*arguments)
    assert answer.code == 2
    assert "Traceback" not in answer.err


def test_json_to_a_place_that_cannot_be_written(edgekd: Cli, tmp_path: Path) -> None:
    answer = edgekd("doctor", "--json", tmp_path / "absent" / "x.json")
    assert (answer.code, "cannot write the JSON" in answer.err) == (2, True)


def test_doctor(edgekd: Cli, tmp_path: Path) -> None:
    answer = edgekd("doctor", "--json", "-")
    document = json.loads(answer.out)
    assert (answer.code, document["schema"]) == (0, "edgekd.doctor/1")
    assert {"torch", "onnxruntime"} <= {part["name"] for part in document["parts"]}
    assert "torch" in answer.err
    edgekd("doctor", "--json", tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text())["schema"] == "edgekd.doctor/1"
    answer = edgekd("doctor", "--need", "chromum")
    assert answer.code == 2 and "did you mean 'chromium'" in answer.err


def test_doctor_names_what_is_lacking(edgekd: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    answer = edgekd("doctor", "--need", "npm")
    assert answer.code == 4
    assert answer.err.strip() == "edgekd: npm is missing; install it: apt-get install npm"


def test_init_writes_a_recipe_that_is_read_back(edgekd: Cli, tmp_path: Path) -> None:
    from edgekd import recipe

    file = tmp_path / "my recipe.yaml"
    assert edgekd("init", file).code == 0
    assert recipe.load(file).name == "my-recipe"
    before = file.read_text()
    again = edgekd("init", file)
    assert (again.code, file.read_text()) == (2, before)
    assert "exists already" in again.err
    assert edgekd("init", tmp_path / "absent" / "r.yaml").code == 2
