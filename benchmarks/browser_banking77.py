"""Browser bundles of a text classifier on real test sentences, in a real headless Chromium.

For each precision: accuracy in Chromium and in onnxruntime on this machine from the same file,
how often the two and transformers.js give the same label, what is downloaded, and the time of
each step with 1, 2 and 4 WebAssembly threads, interleaved in fresh browsers. Ends with 1 where the
runtimes are further apart than :data:`LIMITS` allow.

    python benchmarks/browser_banking77.py MODEL --data test.csv --out results.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from edgekd_exporters.browser.second_check import transformers_js
from edgekd_exporters.browser.session import BrowserSession
from edgekd_exporters.onnx.session import OnnxSession

from edgekd import models, tasks
from edgekd.bench import environment
from edgekd.bench.statistics import rounds_interval
from edgekd.bundle import Bundle
from edgekd.data import read_rows
from edgekd.exporter import Plan, Runtime, Spec, get
from edgekd.pipeline.context import spread
from edgekd.program import Shapes
from edgekd.wrap import wrap

SCHEMA = "edgekd.benchmark.browser-banking77/1"
THREADS = (1, 2, 4)
LIMITS = {  # runtime -> the same label as Chromium's at least, the accuracy this far off at most
    "onnxruntime": (0.995, 0.003),
    "transformers.js": (0.999, None),
}
CHUNK, ROWS, WARM, PASSES = 64, 64, 32, 2


def export(model: str, rows: list[Any], precisions: list[str], folder: Path) -> dict[str, Bundle]:
    task = tasks.get("text-classification")
    loaded = models.load(model, task)
    samples = spread(rows, 16)
    program = wrap(loaded.model, task, loaded.preprocessor, loaded.labels, samples)
    exporter = get("browser")
    float_bundle = exporter.lower(program, Spec(Shapes()), folder / "fp32")
    made = {"fp32": float_bundle}
    for name in precisions:
        if name != "fp32":
            made[name] = exporter.compress(float_bundle, Plan(name), (), folder / name)
    return {name: made[name] for name in precisions}


def agreement(bundle: Bundle, rows: list[Any]) -> dict[str, Any]:
    """Every row one at a time, in Chromium, in onnxruntime here, and in transformers.js."""
    feeds = [bundle.encode([row]) for row in rows]
    native = OnnxSession(bundle)
    here = np.concatenate([native.run(feed)["logits"] for feed in feeds])
    session = BrowserSession(bundle)
    try:
        parts = [
            outputs["logits"]
            for start in range(0, len(feeds), CHUNK)
            for outputs in session.run_many(feeds[start : start + CHUNK])
        ]
        described = session.describe()
    finally:
        session.close()
    page = np.concatenate(parts)
    said = transformers_js(bundle, rows)
    exp = np.exp(page.astype(np.float64) - page.max(-1, keepdims=True))
    labels = bundle.manifest.labels
    truth = np.array(tasks.get(bundle.manifest.task).references(rows, labels))
    winners = np.array([labels.index(label) for label in said.labels])
    return {
        "rows": len(rows),
        "accuracy": {
            "chromium": float((page.argmax(-1) == truth).mean()),
            "onnxruntime": float((here.argmax(-1) == truth).mean()),
            "transformers.js": float((winners == truth).mean()),
        },
        "same_label_as_chromium": {
            "onnxruntime": float((here.argmax(-1) == page.argmax(-1)).mean()),
            "transformers.js": float((winners == page.argmax(-1)).mean()),
        },
        "largest_difference": {
            "logits, onnxruntime": float(np.abs(here - page).max()),
            "scores, transformers.js": float(
                np.abs(said.scores - exp / exp.sum(-1, keepdims=True)).max()
            ),
        },
        "download": described["download"],
        "native": native.describe(),
    }


def failures(found: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each limit that a bundle of the document does not meet."""
    lines = []
    for name, bundle in found.items():
        for runtime, (least, most) in LIMITS.items():
            same = bundle["same_label_as_chromium"][runtime]
            apart = abs(bundle["accuracy"][runtime] - bundle["accuracy"]["chromium"])
            if same < least:
                lines.append(f"{name}: {runtime} has Chromium's label on {same:.2%} < {least:.1%}")
            if most is not None and apart > most:
                lines.append(f"{name}: {runtime}'s accuracy is {100 * apart:.2f} points off")
    return lines


def latency(bundles: dict[str, Bundle], rows: list[Any], rounds: int) -> list[dict[str, Any]]:
    """Fresh browsers in random order; whole passes over rows whose lengths are spread."""
    feeds = {name: [bundle.encode([row]) for row in rows] for name, bundle in bundles.items()}
    plan = [(name, threads) for name in bundles for threads in THREADS]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {key: [] for key in plan}
    order = random.Random(0)
    for _ in range(rounds):
        for name, threads in order.sample(plan, len(plan)):
            session = BrowserSession(bundles[name], Runtime(threads=threads))
            try:
                for feed in feeds[name][:WARM]:
                    session.run(feed)
                samples = []
                for feed in feeds[name] * PASSES:
                    session.run(feed)
                    samples.append(session.elapsed_ms)
                memory = session.peak_memory_bytes
                found[name, threads].append(
                    {
                        "samples_ms": samples,
                        "wasm_heap_bytes": memory,
                        "evidence": "measured" if session.kind == "native" else "reference",
                        **session.timings(),
                    }
                )
            finally:
                session.close()
    table = []
    for (name, threads), each in found.items():
        p50 = rounds_interval([np.asarray(one["samples_ms"]) for one in each], len(rows))
        steps = ("engine_ms", "download_ms", "create_ms", "first_ms", "wasm_heap_bytes")
        table.append(
            {
                "precision": name,
                "threads": threads,
                "evidence": each[0]["evidence"],
                "p50_ms": p50.value,
                "p50_ci": [p50.low, p50.high],
                **{step: float(np.median([one[step] for one in each])) for step in steps},
            }
        )
    return table


def main() -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = read_rows(asked.data, tasks.get("text-classification"), {})
    with tempfile.TemporaryDirectory(prefix="edgekd-browser-") as folder:
        bundles = export(asked.model, rows, asked.precision, Path(folder))
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "model": Path(asked.model).name,
            "environment": environment.describe(),
            "bundles": {},
        }
        for name, bundle in bundles.items():
            document["bundles"][name] = agreement(bundle, rows)
            print(name, json.dumps(document["bundles"][name], indent=2), flush=True)
        document["failures"] = failures(document["bundles"])
        document["latency"] = latency(bundles, spread(rows, ROWS), asked.rounds)
    print(json.dumps(document["latency"], indent=2))
    if asked.out:
        asked.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for line in document["failures"]:
        print(line, file=sys.stderr)
    return 1 if document["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
