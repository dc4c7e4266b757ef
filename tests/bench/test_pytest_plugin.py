import subprocess
import sys

from edgekd.bench.runner import local_environment

TEST = """
def test_gate(edgekd_gate):
    plan = dict(looks=(2,), errors=(0.3,), confirm=1, slices=2, control_tolerance=1e9)
    edgekd_gate({base!r}, {other!r}, profile={profile!r}, **plan)
"""


def run(tmp_path, base, other, *options):
    profile = tmp_path / "here.yaml"
    profile.write_text("title: here\ntarget: probe\nwhere: host\n")
    file = tmp_path / "test_it.py"
    file.write_text(TEST.format(base=str(base.path), other=str(other.path), profile=str(profile)))
    command = [sys.executable, "-m", "pytest", "-q", "-rs"]  # found by its entry point
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *options, "--rootdir", str(tmp_path), str(file)],
        capture_output=True,
        text=True,
        env=local_environment(),
        cwd=tmp_path,
    )


def test_regression_fails_the_test_with_the_table(tmp_path, make_bundle):
    done = run(tmp_path, make_bundle("base"), make_bundle("slow", work=400))
    assert done.returncode == 1
    assert "edgekd gate: ❌ regressed" in done.stdout and "| p50 |" in done.stdout


def test_plugin_imports_nothing_heavy():
    code = (
        "import sys, edgekd.bench.pytest_plugin;"
        "print([m for m in ('numpy', 'torch', 'pydantic', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
