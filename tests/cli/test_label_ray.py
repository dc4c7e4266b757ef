"""The teacher over a real Ray cluster on this machine: the same store, byte for byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgekd import cluster, infer, models, tasks
from edgekd.errors import InputError
from edgekd.pipeline.signals import signal_spec
from edgekd.signals import SignalStore
from tests.conftest import intent_rows, write_csv

Cli = Callable[..., Any]
TEXT = tasks.get("text-classification")
RAY = ("--engine", "ray", "--workers", "2")


@pytest.fixture
def ray_installed() -> None:
    if find_spec("ray") is None:
        if "ray" in os.environ.get("EDGEKD_REQUIRE", "").split():
            pytest.fail("EDGEKD_REQUIRE names ray, and it is not installed")
        pytest.skip("needs ray: pip install 'edgekd[ray]'")


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def agent(process: psutil.Process) -> bool:
    """Ray's own agents first tell the dead store of its end, for about a minute."""
    try:
        return process.name().endswith("Agent")
    except psutil.NoSuchProcess:
        return False


@pytest.mark.usefixtures("ray_installed")
def test_two_workers_killed_and_resumed_leave_what_one_process_leaves(
    edgekd: Cli, bert_dir: Path, tmp_path: Path
) -> None:
    """Three shards; the cluster is killed after the first, and dies with the command."""
    rows = intent_rows(2500, seed=5)
    data = write_csv(tmp_path / "rows.csv", rows)
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    local = edgekd("label", bert_dir, "--data", data, "--out", alone)
    assert local.code == 0, local.err

    given = ["label", str(bert_dir), "--data", str(data), "--out", str(spread), *RAY]
    command = [sys.executable, "-m", "edgekd", *given]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(spread.glob("*.safetensors")) and killed.poll() is None:
        time.sleep(0.002)
    cluster_processes = psutil.Process(killed.pid).children(recursive=True)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(cluster_processes) >= 4  # two workers, the raylet, the control store
    assert not psutil.wait_procs([p for p in cluster_processes if not agent(p)], timeout=20)[1]
    for process in filter(agent, cluster_processes):
        process.kill()
    whole = len(list(spread.glob("*.safetensors")))
    assert 1 <= whole < 3

    loaded = models.load(str(bert_dir), TEXT)
    store = SignalStore.open(spread, signal_spec(loaded, TEXT, "float16"))
    with cluster.ray_engine(2) as mapped:
        added = infer.label_into(store, loaded, rows, TEXT, "label", engine=mapped)
        with pytest.raises(InputError, match=r"^row 3 has no half$"):
            list(mapped(_half, range(6)))
    assert added == len(rows) - 1024 * whole
    assert files(spread) == files(alone)
    assert not psutil.Process().children(recursive=True)


def _half(number: int) -> float:
    if number == 3:
        raise InputError("row 3 has no half")
    return number / 2


def test_without_ray_the_command_that_installs_it_is_named(
    edgekd: Cli, bert_dir: Path, intents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    given = [bert_dir, "--data", intents.test, "--out", tmp_path / "store"]
    answer = edgekd("label", *given, *RAY)
    assert answer.code == 4 and "pip install 'edgekd[ray]'" in answer.err
    wrong = edgekd("label", *given, "--engine", "spark")
    assert wrong.code == 2 and "local or ray" in wrong.err
    wrong = edgekd("label", *given, "--workers", 2)
    assert wrong.code == 2 and "--engine ray" in wrong.err
