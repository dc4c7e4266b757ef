"""A browser bundle in onnxruntime-web, in a real Chromium. Imports numpy and Playwright alone."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekd.bundle import Bundle
from edgekd.errors import EdgekdError, InputError, MissingDependency, nearest
from edgekd.exporter import Runtime
from edgekd_exporters.browser import packages
from edgekd_exporters.browser.chromium import Chromium, PageError, program
from edgekd_exporters.browser.folder import file_of
from edgekd_exporters.browser.serve import Server

if TYPE_CHECKING:
    import psutil

PAGES = Path(__file__).parent / "pages"
# The build for each device: onnxruntime-web has one engine without and one with WebGPU.
SCRIPTS = {
    "wasm": "ort.wasm.min.mjs",
    "webgpu": "ort.webgpu.min.mjs",
    "webgpu-software": "ort.webgpu.min.mjs",
}
OPTIONS = ("device", "dtype", "time_limit")
TIME_LIMIT = 60.0  # seconds that one question to the page may take
_DIST = f"/runtime/{packages.ORT}/dist/"

Arrays = Mapping[str, np.ndarray]


class BrowserSession:
    """onnxruntime-web on the bundle's own folder, served to a page of its own.

    Every time is taken inside the page by ``performance.now`` (5 µs steps, for the page is
    isolated): what the browser needs, not what it takes to reach it from here.

    ``elapsed_ms`` is the time of the last run; :meth:`timings` has the other steps'.
    """

    kind: Literal["native", "reference"]

    def __init__(self, bundle: Bundle, runtime: Runtime | None = None) -> None:
        """Load ``bundle`` with ``runtime.threads`` WebAssembly threads.

        Options: ``device`` (``wasm``, ``webgpu``, or ``webgpu-software``, which gives WebGPU's
        numbers without a GPU and is a reference, not a measurement; by default what the folder is
        made for, as its page takes it), ``dtype`` (which model of a folder with several; the first
        by default) and ``time_limit``, seconds that the page may take over one question. Raises :class:`MissingDependency` without
        Playwright, Chromium, npm or the WebGPU adapter asked for, :class:`InputError` where
        onnxruntime-web cannot load the model and :class:`InconclusiveError` where the page
        crashes or hangs.
        """
        self._runtime = runtime = runtime or Runtime()
        _check(runtime.options)
        self._limit = seconds_of(runtime.options.get("time_limit", TIME_LIMIT))
        self._version = packages.versions()[packages.ORT]
        self._first_ms: float | None = None
        self.elapsed_ms = 0.0
        program()  # before anything is downloaded
        self._file, own = file_of(bundle, runtime.options.get("dtype"))
        self._device = device_of(runtime.options.get("device", own))
        self.kind = "reference" if self._device == "webgpu-software" else "native"
        mounts = {"/": PAGES, "/bundle/": bundle.path, "/runtime/": packages.installed()}
        self._server = Server(mounts)
        try:
            page = f"{self._server.url}session.html"
            self._chromium = Chromium(page, self._device)
        except BaseException:
            self._server.close()
            raise
        settings = {
            "runtime": _DIST,
            "script": SCRIPTS[self._device],
            "model": f"bundle/{self._file}",
            "threads": runtime.threads,
            "spinning": runtime.spinning,
            **on_page(self._device),
        }
        try:
            self._opened = self._chromium.call("s => edgekd.open(s)", settings, self._limit)
        except PageError as error:
            self.close()
            raise self._refusal(bundle, str(error)) from error
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return self.run_many([feeds])[0]

    def run_many(self, batches: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
        """Run several batches, one after the other, in one exchange with the page.

        ``elapsed_ms`` becomes the time of all of them together.
        """
        question = [{name: _encode(array) for name, array in feeds.items()} for feeds in batches]
        try:
            answers = self._chromium.call("b => edgekd.run(b)", question, self._limit)
        except PageError as error:
            raise InputError(f"onnxruntime-web {self._version} cannot run this: {error}") from error
        self.elapsed_ms = sum(answer["ms"] for answer in answers)
        if self._first_ms is None and answers:
            self._first_ms = answers[0]["ms"]
        return [
            {name: _decode(value) for name, value in answer["outputs"].items()}
            for answer in answers
        ]

    def timings(self) -> dict[str, float | None]:
        """Milliseconds of each step, each measured by itself.

        ``engine_ms`` (fetch and compile onnxruntime-web), ``download_ms`` (the model files, from
        this machine), ``create_ms`` (the session) and ``first_ms`` (the first run, None before).
        """
        return {**self._opened["clock"], "first_ms": self._first_ms}

    @property
    def load_ms(self) -> float:
        """From an engine that is ready to a model that is: download and session creation."""
        clock = self._opened["clock"]
        return clock["download_ms"] + clock["create_ms"]

    @property
    def peak_memory_bytes(self) -> int:
        """The WebAssembly heap's peak: the model, its packed weights and activations.

        Not the page around it, nor what a GPU holds.
        """
        return int(self._chromium.call("() => edgekd.heap()", None, self._limit))

    def describe(self) -> dict[str, Any]:
        sent = dict(self._server.sent)  # a copy: the page may still ask
        return {
            "runtime": "onnxruntime-web",
            "version": self._version,
            "engine": f"Chromium {self._chromium.version}",
            "device": self._device,
            "model": self._file,
            "threads": self._runtime.threads,
            "spinning": self._runtime.spinning,
            "cross_origin_isolated": self._opened["isolated"],
            "download": {
                "engine_bytes": sum(n for path, n in sent.items() if path.startswith("/runtime/")),
                "model_bytes": sum(n for path, n in sent.items() if path.startswith("/bundle/")),
            },
            "timings": self.timings(),
        }

    def processes(self) -> list[psutil.Process]:
        """The browser's processes that are alive."""
        return self._chromium.processes()

    def close(self) -> None:
        self._chromium.close()
        self._server.close()

    def _refusal(self, bundle: Bundle, reason: str) -> EdgekdError:
        if missing := no_adapter(reason):
            return missing
        file = bundle.path / self._file
        return InputError(
            f"onnxruntime-web {self._version} cannot load {file} ({reason}); export it again"
        )


def _check(given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in OPTIONS:
            raise InputError(
                f"unknown runtime option '{name}'{nearest(name, OPTIONS)}; the browser has"
                f" {', '.join(OPTIONS)}"
            )


def seconds_of(value: Any) -> float:
    """A ``time_limit`` as a number; :class:`InputError` where it is none."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(
            f"runtime option time_limit={value!r} is not a number of seconds above 0; write"
            f" time_limit: {TIME_LIMIT:.0f}"
        )
    return seconds


def device_of(name: str) -> str:
    """``name`` where it is a device of the browser; :class:`InputError` where it is not."""
    if name not in SCRIPTS:
        raise InputError(f"runtime option device={name!r} is not one of {', '.join(SCRIPTS)}")
    return name


def on_page(device: str) -> dict[str, Any]:
    """A device as a page is told of it."""
    return {"device": device.removesuffix("-software"), "software": device.endswith("-software")}


def no_adapter(reason: str) -> MissingDependency | None:
    """What is missing, where that is why a page gave up."""
    if "no WebGPU adapter" not in reason:
        return None
    return MissingDependency(
        "Chromium finds no WebGPU adapter here; install the GPU's Vulkan driver, or run with"
        " device: wasm (a profile's runtime.options)"
    )


def _encode(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"type": str(array.dtype), "dims": list(array.shape), "data": data}


def _decode(value: Mapping[str, Any]) -> np.ndarray:
    array = np.frombuffer(base64.b64decode(value["data"]), value["type"]).reshape(value["dims"])
    return array.astype(np.float32) if array.dtype == np.float16 else array.copy()
