"""A report of a run that never was: every value below is made up to exercise the page."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgekd.report.document import Document
from edgekd.report.verdict import check, verdict


def bench(p50: float, **values: Any) -> dict[str, Any]:
    return {
        "profile": "edge-server",
        "evidence": "measured",
        "latency_ms": {"p50": p50, "p50_ci": (p50 * 0.97, p50 * 1.04), "p90": p50 * 1.4},
        "load_ms": 40 + 9 * p50,
        "first_ms": 1.9 * p50,
        "peak_memory_bytes": int(9e6 * p50),
        "runtime": "onnxruntime 1.32",
        "threads": 1,
        "inputs": "256 test sentences, batch 1",
    } | values


def bundle(model: str, target: str, precision: str, size: float, kept: float, **values: Any) -> Any:
    return {
        "path": f"bundles/{target}-{precision}" if model == "student" else f"teacher/{precision}",
        "model": model,
        "target": target,
        "precision": precision,
        "variant": precision,
        "size_bytes": int(size),
        "bundle_bytes": int(size + 400_000),
        "evidence": "measured" if target == "onnx" else "reference",
        "n": 3080,
        "metrics": {"accuracy": 0.9276 * kept, "macro_f1": 0.926 * kept},
        "metrics_ci": {"accuracy": (0.9276 * kept - 0.009, 0.9276 * kept + 0.009)},
        "retained": kept,
        "retained_ci": (kept - 0.006, kept + 0.0055),
        "agreement": 0.5 + kept * 0.47,
        "ece": 0.021,
    } | values


@pytest.fixture
def document() -> Document:
    phone = {
        "profile": "phone-ios",
        "evidence": "projected",
        "latency_ms": {"low": 0.9, "high": 2.1},
        "method": "host × ratio of 3 calibration models; leave-one-out error ×1.4 at p90",
    }
    nowhere = {
        "profile": "raspberry-pi-5",
        "evidence": "projected",
        "missing": "no transformer calibration for this profile; run `edgekd calibrate` on it",
    }
    lines = [
        check("retained", 0.985, 0.9932, evidence="measured"),
        check("size", 6e6, 5.62e6, evidence="measured"),
        check("speedup", 5, 5.9, evidence="measured", profile="edge-server"),
        check("latency_p50", 2, (0.6, 1.9), profile="phone-ios"),
        check("peak_memory", 64e6, 13.2e6, evidence="measured", profile="edge-server"),
    ]
    kd = [(s, 0.93 - 0.85 * math.exp(-s / 500)) for s in range(50, 2501, 50)]
    hard = [(s, 0.92 - 0.87 * math.exp(-s / 560)) for s in range(50, 2501, 50)]
    bins = [(0.35, 0.31), (0.58, 0.5), (0.8, 0.71), (0.93, 0.9), (0.985, 0.98), (0.996, 0.999)]
    return Document.model_validate(
        {
            "name": "banking77",
            "task": "text-classification",
            "created": "2030-01-02T03:04:05Z",
            "chosen": "bundles/onnx-int8",
            "verdict": verdict(lines),
            "models": [
                {
                    "id": "teacher",
                    "params": 22_713_293,
                    "size_bytes": 90_900_000,
                    "n": 3080,
                    "metrics": {"accuracy": 0.9276, "macro_f1": 0.926},
                    "ece": 0.031,
                    "metrics_ci": {"accuracy": (0.918, 0.9366)},
                    "source": "six layers, 384 wide",
                },
                {
                    "id": "student-no-kd",
                    "params": 5_300_000,
                    "size_bytes": 21_300_000,
                    "n": 3080,
                    "metrics": {"accuracy": 0.9172, "macro_f1": 0.915},
                    "ece": 0.041,
                    "retained": 0.9888,
                    "retained_ci": (0.981, 0.9962),
                    "agreement": 0.941,
                },
                {
                    "id": "student",
                    "params": 5_300_000,
                    "size_bytes": 21_300_000,
                    "n": 3080,
                    "metrics": {"accuracy": 0.9224, "macro_f1": 0.9205},
                    "ece": 0.019,
                    "retained": 0.9944,
                    "retained_ci": (0.988, 1.0005),
                    "agreement": 0.966,
                    "source": "layers 0 and 5 of the teacher, vocabulary trimmed to 4,349 pieces",
                },
            ],
            "bundles": [
                bundle("teacher", "onnx", "fp32", 91.2e6, 1.0, agreement=1.0, bench=[bench(8.3)]),
                bundle("student", "onnx", "fp32", 21.4e6, 0.9944, bench=[bench(2.35), phone]),
                bundle(
                    "student",
                    "onnx",
                    "int8",
                    5.62e6,
                    0.9932,
                    bench=[bench(1.41), phone | {"latency_ms": {"low": 0.6, "high": 1.9}}],
                ),
                bundle("student", "coreml", "fp16", 10.7e6, 0.9941, bench=[nowhere]),
                bundle("student", "coreml", "int8", 5.5e6, 0.9926, notes=["embedding in fp16"]),
                bundle("student", "coreml", "w4", 3.1e6, 0.961),
            ],
            "gain": {
                "metric": "accuracy",
                "value": 0.0052,
                "ci": (-0.0003, 0.0107),
                "p_value": 0.071,
            },
            "data": {
                "source": "data/banking77",
                "classes": 77,
                "dropped_overlaps": 7,
                "duplicates": 3,
                "rows": {"train": 9003, "selection": 1000, "test": 3080},
            },
            "blind_spots": [
                {
                    "label": f"intent_{i}",
                    "examples": 40,
                    "teacher_errors": 12 - i,
                    "student_errors": 14 - i,
                    "inherited": max(0, 9 - i),
                    "mistaken_for": "other",
                }
                for i in range(14)
            ],
            "calibration": [
                {
                    "id": name,
                    "ece": 0.031,
                    "bins": [{"confidence": c, "accuracy": a, "count": 513} for c, a in bins],
                }
                for name in ("teacher", "bundles/onnx-int8")
            ],
            "curves": [
                {"model": "student", "name": "accuracy", "points": kd},
                {"model": "student-no-kd", "name": "accuracy", "points": hard},
            ],
            "stages": [
                {"name": "label", "seconds": 41.0, "reused": True},
                {"name": "distil", "seconds": 512.4},
                {"name": "export", "seconds": 31.2},
                {"name": "evaluate", "seconds": 58.0},
                {"name": "bench", "seconds": 44.1},
            ],
            "settings": {"temperature": 2.0, "layers": [0, 5], "learning_rate": 3e-4},
            "environment": {
                "python": "3.11",
                "cpu": "an x86-64 with VNNI",
                "cores": 2,
                "libraries": {"torch": "2.13", "onnxruntime": "1.32"},
            },
            "recipe": "task: text-classification\nteacher: ${EDGEKD_ASSETS}/models/teacher\n",
            "warnings": ["7 training rows also stood in the test data and were dropped."],
        }
    )
