"""The workflow that users copy: its commands exist, and exit code 3 is said."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from edgekd.cli import app

WORKFLOW = Path(__file__).parents[2] / "examples" / "ci" / "gate.yml"


def steps():
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def test_options_of_the_workflow_exist():
    verbs = typer.main.get_command(app).commands
    lines = "\n".join(steps()).replace("\\\n", " ")
    used = re.findall(r"^\s*edgekd (\w+)(.*)$", lines, re.MULTILINE)
    assert {verb for verb, _ in used} == {"export", "gate"}
    for verb, arguments in used:
        known = {name for parameter in verbs[verb].params for name in parameter.opts}
        options = set(re.findall(r"(?<=\s)--[\w-]+", arguments))
        assert options and options <= known, options - known


@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("jq"), reason="needs bash and jq")
@pytest.mark.parametrize("code", [0, 1, 3])
def test_inconclusive_passes_with_a_warning_that_says_why(tmp_path, code):
    """The step itself, with a gate that ends as asked and has written its document."""
    document = {"findings": [{"metric": "p50", "why": "needs about 9 more pairs"}]}
    (tmp_path / "gate.json").write_text(json.dumps(document))
    (tmp_path / "edgekd").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "edgekd").chmod(0o755)
    script = next(run for run in steps() if "edgekd gate" in run)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env={"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if code == 3 else code)
    said = "::warning title=latency gate inconclusive::p50: needs about 9 more pairs"
    assert (said in done.stdout) == (code == 3)
