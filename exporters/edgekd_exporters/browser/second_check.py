"""The second check: the folder in transformers.js, its own tokenizer and runtime included, and
its model file in the onnxruntime of this machine, whose kernels are others."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import audio
from edgekd.audio import AudioPreprocessor
from edgekd.bundle import Bundle
from edgekd.errors import InputError, MissingDependency
from edgekd.evaluate.cross import Opinion
from edgekd.exporter import Runtime
from edgekd.preprocess import Preprocessor, Row
from edgekd.progress import track
from edgekd_exporters.browser import packages
from edgekd_exporters.browser.chromium import Chromium, PageError, program
from edgekd_exporters.browser.folder import (
    NESTED,
    PAGES,
    SETTINGS,
    file_of,
    of_dtype,
    read_config,
)
from edgekd_exporters.browser.serve import Server
from edgekd_exporters.browser.session import TIME_LIMIT, device_of, no_adapter, on_page, seconds_of
from edgekd_exporters.onnx.session import OnnxSession

CHUNK = 64  # rows per exchange with the page


@dataclass(frozen=True)
class Answers:
    """What transformers.js said: the winner of each row, and float64 scores [rows, classes].

    Scores are in the order of the bundle's labels and sum to 1. ``device`` is where they were
    computed: only a session of the same device is to say the same.
    """

    labels: tuple[str, ...]
    scores: np.ndarray
    device: str


def transformers_js(
    bundle: Bundle,
    rows: Sequence[Row],
    *,
    threads: int = 1,
    dtype: str | None = None,
    device: str | None = None,
    time_limit: float = TIME_LIMIT,
    progress: Callable[[int], None] | None = None,
) -> Answers:
    """Classify raw rows with transformers.js's pipeline, one by one, as a page would.

    The pinned package runs in a Chromium of its own with the onnxruntime-web that it brings.
    ``dtype`` picks a model of a folder with several; ``device`` is one of a session's, by default
    the folder's own, as a page takes it. ``time_limit`` is in seconds, for loading and for each 64
    rows; ``progress`` is called with the number of rows done since the last call. Raises what a
    session raises, and :class:`InputError` where transformers.js cannot load the folder or take the
    rows.
    """
    if not rows:
        raise InputError("there are no rows to classify")
    if any(row.get("text_pair") is not None for row in rows):
        raise InputError("transformers.js classifies single texts, and a row has a text_pair")
    settings = read_config(bundle)[SETTINGS]
    device = device_of(device or file_of(bundle, dtype)[1])
    picked = {"dtype": dtype or settings["dtype"], **on_page(device)}
    name = f"transformers.js {packages.versions()[packages.TRANSFORMERS]}"
    program()  # before anything is downloaded
    mounts = {"/": PAGES, "/bundle/": bundle.path, "/runtime/": packages.installed()}
    found: list[dict[str, float]] = []
    with Server(mounts) as server:
        chromium = Chromium(f"{server.url}transformers.html", device)
        try:
            asked = {**settings, **picked, "threads": threads, "engine": f"/runtime/{NESTED}/"}
            chromium.call("s => edgekd.open(s)", asked, time_limit)
            for start in range(0, len(rows), CHUNK):
                inputs = [_plain(row, bundle.preprocessor) for row in rows[start : start + CHUNK]]
                question = [inputs, settings.get("channels") == 1]
                answers = chromium.call("q => edgekd.classify(...q)", question, time_limit)
                found += answers
                if progress:
                    progress(len(answers))
        except PageError as error:
            if missing := no_adapter(str(error)):
                raise missing from error
            raise InputError(
                f"{name} cannot classify with {bundle.path} ({error}); 'edgekd verify' says whether"
                " the bundle is whole"
            ) from error
        finally:
            chromium.close()
    labels = bundle.manifest.labels
    scores = np.array([[answer[label] for label in labels] for answer in found])
    return Answers(tuple(labels[i] for i in scores.argmax(1)), scores, device)


def in_transformers_js(bundle: Bundle, rows: Sequence[Row], runtime: Runtime) -> Opinion:
    """Rows in transformers.js as a session with ``runtime`` takes them; or why it takes none.

    The scores come back as their logarithms, whose softmax they are: a bundle says logits.
    """
    options = runtime.options
    name = f"transformers.js {packages.versions()[packages.TRANSFORMERS]}"
    try:
        with track(f"check {bundle.path.name} in transformers.js", len(rows)) as advance:
            said = transformers_js(
                bundle,
                rows,
                threads=runtime.threads,
                dtype=options.get("dtype"),
                device=options.get("device"),
                time_limit=seconds_of(options.get("time_limit", TIME_LIMIT)),
                progress=advance,
            )
    except (InputError, MissingDependency) as error:
        return Opinion(name, missing=str(error))
    logits = np.log(np.maximum(said.scores, np.finfo(np.float64).tiny))
    return Opinion(f"{name}, {said.device}", {bundle.manifest.outputs[0].name: logits})


def natively(bundle: Bundle, rows: Sequence[Row], runtime: Runtime) -> Opinion:
    """Rows in onnxruntime on this machine's CPU, batched as a session's; or why there are none."""
    from edgekd.evaluate.run import run_session

    opened = of_dtype(bundle, runtime.options.get("dtype"))
    try:
        session = OnnxSession(opened, Runtime(threads=runtime.threads))
    except (InputError, MissingDependency) as error:
        return Opinion("onnxruntime", missing=str(error))
    try:
        with track(f"check {bundle.path.name} in onnxruntime", len(rows)) as advance:
            outputs = run_session(session, opened, rows, progress=advance)
        said = session.describe()
    finally:
        session.close()
    # Of an int8 model the numbers are those of this processor's instructions.
    kernels = "" if opened.manifest.precision.startswith("fp") else f", {said['int8_kernels']}"
    return Opinion(f"onnxruntime {said['version']}, CPU{kernels}", outputs)


def _plain(row: Row, preprocessor: Preprocessor) -> Any:
    """A row as the pipeline takes it: a text, or the address of an image or a sound."""
    if isinstance(preprocessor, AudioPreprocessor):
        # At the model's rate: a browser's own resampler would be measured here.
        heard = {"audio": preprocessor.clip(row), "sampling_rate": preprocessor.sampling_rate}
        with tempfile.TemporaryDirectory(prefix="edgekd-sound-") as folder:
            audio.write(Path(folder) / "row.wav", heard)
            content = (Path(folder) / "row.wav").read_bytes()
        return "data:audio/wav;base64," + base64.b64encode(content).decode("ascii")
    if "image" not in row:
        return row["text"]
    from PIL import Image

    image = row["image"]
    if isinstance(image, str | Path):
        image = Image.open(image)
    elif not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image, np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
