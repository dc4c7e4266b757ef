from __future__ import annotations

import numpy as np

from edgekd import profiles
from edgekd.bench.settings import device, setting

BROWSER = {
    "threads": 2,
    "device": "wasm",
    "download": {"engine_bytes": 14, "model_bytes": 5},
    "timings": {"engine_ms": 100.0, "download_ms": 3.0, "create_ms": 20.0, "first_ms": None},
}


def test_each_figure_stands_apart() -> None:
    rounds = [
        {"load_ms": 23.0, "first_ms": 7.0, "samples_ms": [2.0, 2.0, 4.0]},
        {"load_ms": 25.0, "first_ms": 9.0, "samples_ms": [2.0, 2.0, 4.0]},
    ]
    row = setting(BROWSER, rounds, 3, 1000, "q8")
    assert (row.threads, row.device, row.dtype) == (2, "wasm", "q8")
    assert (row.download_bytes, row.engine_bytes) == (5, 14)
    assert (row.engine_ms, row.download_ms, row.create_ms) == (100.0, 3.0, 20.0)
    assert (row.first_ms, row.p50_ms, row.memory_bytes) == (8.0, 2.0, 1000)
    assert row.missing is None


def test_a_runtime_that_times_nothing_apart_has_its_load() -> None:
    rounds = [{"load_ms": 23.0, "first_ms": 7.0, "samples_ms": np.ones(4)}]
    row = setting({"threads": 1, "provider": "CPUExecutionProvider"}, rounds, 4, None, "fp32")
    assert row.create_ms == 23.0 and row.download_ms is None and row.memory_bytes is None
    assert row.device == "CPUExecutionProvider"


def test_the_browser_profile_tabulates_threads_and_webgpu() -> None:
    profile = profiles.load("browser")
    settings = [(r.threads, device(r.options)) for r in (profile.runtime, *profile.also)]
    assert settings == [(1, "wasm"), (2, "wasm"), (4, "wasm"), (1, "webgpu")]
