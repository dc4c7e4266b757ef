"""Core ML packages of a text classifier on real test sentences, run by the reference interpreter.

For each precision: bytes, accuracy, agreement with the PyTorch model it was made from, and the
share of its accuracy that it retains, with the interval. Then the interpreter's own speed: all
test sentences in fp32, one at a time, against torch eager on the same padded inputs.

    python benchmarks/coreml_banking77.py MODEL --data test.csv --calibration train.csv
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd import evaluate, models, tasks
from edgekd.bundle import Bundle
from edgekd.data import read_rows
from edgekd.evaluate.run import run_session
from edgekd.exporter import Plan, Runtime, Spec, get
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

CALIBRATION_ROWS = 256
SCHEMA = "edgekd.benchmark.coreml-banking77/1"


def score(bundle: Bundle, rows: list, expected: dict[str, np.ndarray], threads: int) -> dict:
    """Run ``bundle`` over ``rows``; compare with the PyTorch model's outputs and the labels."""
    task = tasks.get(bundle.manifest.task)
    session = get("coreml").open(bundle, Runtime(threads, options={"reference": True}))
    begin = time.perf_counter()
    outputs = run_session(session, bundle, rows)
    seconds = time.perf_counter() - begin
    labels = bundle.manifest.labels
    references = task.references(rows, labels)
    result = evaluate.run.evaluate(task, labels, outputs, references, expected)
    return {
        "precision": bundle.manifest.precision,
        "size_bytes": bundle.size_bytes,
        "accuracy": result.metrics["accuracy"],
        "retained": result.retained,
        "retained_ci": result.retained_ci,
        "agreement": result.agreement,
        "exceptions": bundle.manifest.provenance.get("exceptions", []),
        "evidence": session.kind,
        "seconds": seconds,
    }


def speed(program: Program, bundle: Bundle, arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Seconds for all inputs, one at a time: torch eager and the interpreter in fp32, 1 thread."""
    session = get("coreml").open(
        bundle, Runtime(1, options={"precision": "fp32", "reference": True})
    )
    narrow = {name: value.astype(np.int32) for name, value in arrays.items()}
    count = len(next(iter(arrays.values())))

    def one_by_one(run: Any, values: dict[str, np.ndarray]) -> float:
        feeds = [{name: v[i : i + 1] for name, v in values.items()} for i in range(count)]
        for feed in feeds[:20]:
            run(feed)
        begin = time.perf_counter()
        for feed in feeds:
            run(feed)
        return time.perf_counter() - begin

    eager, reference = one_by_one(program.run, arrays), one_by_one(session.run, narrow)
    return {"torch_eager_s": eager, "interpreter_s": reference, "ratio": reference / eager}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rows", type=int, default=None, help="first rows only")
    parser.add_argument("--precisions", default="fp16,int8,lut6,lut4,w8a8")
    parser.add_argument("--deployment", default="iOS17")
    parser.add_argument("--speed", action="store_true", help="time the interpreter as well")
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = tasks.get("text-classification")
    model = models.load(arguments.model, task, max_length=arguments.length)
    rows = read_rows(arguments.data, task)[: arguments.rows]
    training = read_rows(arguments.calibration, task)
    order = np.random.default_rng(0).permutation(len(training))
    calibration = [training[i] for i in order[:CALIBRATION_ROWS]]
    program = wrap(model.model, task, model.preprocessor, model.labels, calibration[:16])
    arrays = model.preprocessor.encode(rows, arguments.length)
    expected = {"logits": np.concatenate([p["logits"] for p in _batches(program, arrays)])}
    exporter = get("coreml")
    spec = Spec(Shapes(lengths=(arguments.length,)), deployment=arguments.deployment)
    lines: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "model": Path(arguments.model).name,
        "parameters": program.parameters,
        "length": arguments.length,
        "deployment": arguments.deployment,
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = exporter.lower(program, spec, Path(folder) / "fp32")
        if arguments.speed:
            report["speed"] = speed(program, bundle, arrays)
            print(json.dumps(report["speed"]))
        for precision in arguments.precisions.split(","):
            made = bundle
            if precision != "fp32":
                out = Path(folder) / precision
                made = exporter.compress(bundle, Plan(precision), calibration, out)
            line = score(made, rows, expected, 1)
            lines.append(line)
            low, high = line["retained_ci"]
            print(
                f"{precision:12} {line['size_bytes'] / 1e6:6.2f} MB  accuracy {line['accuracy']:.4f}"
                f"  retained {line['retained']:.4f} [{low:.4f}, {high:.4f}]"
                f"  agreement {line['agreement']:.4f}  {line['evidence']}",
                flush=True,
            )
    references = task.references(rows, model.labels)
    plain = evaluate.run.evaluate(task, model.labels, expected, references)
    report |= {"torch_accuracy": plain.metrics["accuracy"], "bundles": lines}
    print(f"PyTorch      accuracy {report['torch_accuracy']:.4f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _batches(program: Program, arrays: dict[str, np.ndarray]) -> Any:
    for start in range(0, len(arrays["input_ids"]), 32):
        yield program.run({name: value[start : start + 32] for name, value in arrays.items()})


if __name__ == "__main__":
    raise SystemExit(main())
