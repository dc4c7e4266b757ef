"""A session in a real Chromium: threads, exactness, times and memory; and how it ends badly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from edgekd_exporters.browser import chromium
from edgekd_exporters.browser.chromium import Chromium, PageError, runs
from edgekd_exporters.browser.serve import Server
from edgekd_exporters.browser.session import BrowserSession, _decode, _encode

from edgekd.bundle import Bundle
from edgekd.errors import InconclusiveError, InputError
from edgekd.exporter import Runtime

pytestmark = pytest.mark.browser


def test_threads_memory_and_times(text_fp32: Bundle) -> None:
    session = BrowserSession(text_fp32, Runtime(threads=2))
    family = session.processes()
    try:
        _, inputs, outputs = text_fp32.golden()
        assert session.timings()["first_ms"] is None
        np.testing.assert_allclose(session.run(inputs)["logits"], outputs["logits"], atol=1e-4)
        first, said = session.timings()["first_ms"], session.describe()
        assert first is not None and first == session.elapsed_ms > 0
        assert said["cross_origin_isolated"] is True and said["threads"] == 2
        assert said["engine"].startswith("Chromium ") and said["version"] == "1.30.0"
        assert said["download"]["model_bytes"] == text_fp32.size_bytes
        assert said["download"]["engine_bytes"] > 10_000_000
        assert session.peak_memory_bytes > text_fp32.size_bytes
        parts = session.timings()
        assert session.load_ms == parts["download_ms"] + parts["create_ms"]  # type: ignore[operator]
    finally:
        session.close()
    assert not any(map(runs, family))


def test_many_batches_in_one_exchange_are_the_same_as_one_by_one(
    text_int8: Bundle, session: BrowserSession
) -> None:
    feeds = [text_int8.encode([row]) for row in text_int8.golden()[0]]
    together = session.run_many(feeds)
    for feed, found in zip(feeds, together, strict=True):
        np.testing.assert_array_equal(session.run(feed)["logits"], found["logits"])


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "float64"])
def test_arrays_survive_the_exchange_bit_by_bit(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 5)).astype(dtype) / np.asarray(3, dtype)
    np.testing.assert_array_equal(_decode(_encode(values.astype(dtype).T)), values.astype(dtype).T)


def test_wrong_inputs_are_told_and_the_session_goes_on(
    text_int8: Bundle, session: BrowserSession
) -> None:
    feeds = text_int8.encode(text_int8.golden()[0][:1])
    with pytest.raises(InputError, match=r"cannot run this: .*input_ids"):
        session.run({"attention_mask": feeds["attention_mask"]})
    assert np.isfinite(session.run(feeds)["logits"]).all()


def test_a_broken_model_is_told(text_int8: Bundle, copied: Callable[[Path], Path]) -> None:
    folder = copied(text_int8.path)
    (folder / "onnx/model_quantized.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"cannot load .*model_quantized\.onnx"):
        BrowserSession(Bundle.open(folder))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"devcie": "wasm"}, "did you mean 'device'"),
        ({"device": "webgl"}, "not one of wasm"),
        ({"time_limit": "soon"}, "time_limit='soon' is not a number of seconds above 0"),
        ({"time_limit": -1}, "write time_limit: 60"),
    ],
)
def test_unknown_options_are_refused(text_int8: Bundle, options: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        BrowserSession(text_int8, Runtime(options=options))


def test_a_browser_that_is_killed_is_one_error(text_int8: Bundle) -> None:
    session = BrowserSession(text_int8)
    feeds = text_int8.encode(text_int8.golden()[0][:1])
    family = session.processes()
    family[0].kill()
    with pytest.raises(InconclusiveError, match="Chromium ended"):
        session.run(feeds)
    assert not any(map(runs, family))
    with pytest.raises(InconclusiveError, match="session is over"):
        session.run(feeds)
    session.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "index.html").write_text("<!doctype html><title>empty</title>")
    with Server({"/": tmp_path}) as server:
        yield server.url


def test_a_page_that_never_answers_is_ended_within_its_limit(page: str) -> None:
    browser = Chromium(page)
    family = browser.processes()
    start = time.monotonic()
    with pytest.raises(InconclusiveError, match="did not answer for 1 s"):
        browser.call("() => { while (true); }", seconds=1)
    assert time.monotonic() - start < 30
    assert family and not any(map(runs, family))


def test_a_driver_that_never_answers_is_ended_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\nexec sleep 60\n")
    node.chmod(0o755)
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", str(node))
    monkeypatch.setattr(chromium, "_START_LIMIT", 1.0)
    before = {process.pid for process in psutil.Process().children()}
    with pytest.raises(InconclusiveError, match="did not show a page within 1 s"):
        Chromium("about:blank")
    new = [one for one in psutil.Process().children() if one.pid not in before]
    assert not any(map(runs, new))


def test_what_a_page_throws_is_its_own_words(page: str) -> None:
    browser = Chromium(page)
    try:
        with pytest.raises(PageError, match="RangeError: too far"):
            browser.call("() => { throw new RangeError('too far') }")
        assert browser.call("(x) => x + 1", 2) == 3
    finally:
        browser.close()
