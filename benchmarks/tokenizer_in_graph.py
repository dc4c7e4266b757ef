"""Two forms for phones and servers, each against the plain bundle on every test sentence.

``tokenizer=in-graph``: the ids that onnxruntime-extensions makes inside the graph against the
Python tokenizer's, then the labels. ``format=ort`` with fixed shapes: the outputs of ONNX Runtime
Mobile's file against those of the ``.onnx`` file, and the operators a reduced build must keep.

    python benchmarks/tokenizer_in_graph.py STUDENT --data test.csv

Exit code 1 where an id or a label differs, or an ``.ort`` output beyond rounding.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from edgekd_exporters.onnx import tokenizer
from edgekd_exporters.onnx.mobile import MOBILE, OPERATORS

from edgekd import models, tasks
from edgekd.bundle import Bundle
from edgekd.data import read_rows
from edgekd.exporter import Plan, Spec, get, relative_error
from edgekd.pipeline.context import spread
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

SCHEMA = "edgekd.benchmark.tokenizer-in-graph/1"
RESULTS = Path(__file__).parent / "results" / "tokenizer_in_graph.json"
PRECISIONS = ("fp32", "int8")
FIXED = Shapes(1, (64,))
ROUNDING = 1e-5  # of the largest output


def export(program: Program, shapes: Shapes, folder: Path, **options: str) -> dict[str, Bundle]:
    """One bundle per precision."""
    exporter = get("onnx")
    whole = exporter.lower(program, Spec(shapes, options=options), folder / "fp32")
    return {
        name: whole if name == "fp32" else exporter.compress(whole, Plan(name), (), folder / name)
        for name in PRECISIONS
    }


def answers(bundle: Bundle, rows: list[Any]) -> np.ndarray:
    """Logits of every row, one at a time: float32 [rows, classes]."""
    session = get("onnx").open(bundle)
    return np.concatenate([session.run(bundle.encode([row]))["logits"] for row in rows])


def equal_ids(program: Program, rows: list[Any]) -> int:
    """How many rows' inputs are the Python tokenizer's, every id of them."""
    import onnx_ir as ir
    import onnxruntime
    from edgekd_exporters.onnx.lower import DEFAULT_OPSET

    preprocessor: Any = program.preprocessor
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(tokenizer.library()))
    graph = ir.to_proto(tokenizer.graph(preprocessor, None, 10, DEFAULT_OPSET))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    count = 0
    for row in rows:
        expected = preprocessor.encode([row])
        found = session.run(list(expected), {tokenizer.TEXT: np.array([row["text"]])})
        count += all(map(np.array_equal, found, expected.values()))
    return count


def compare(program: Program, rows: list[Any], truth: np.ndarray, folder: Path) -> dict[str, Any]:
    plain = export(program, Shapes(), folder / "plain")
    texts = export(program, Shapes(), folder / "text", tokenizer="in-graph")
    fixed = export(program, FIXED, folder / "fixed")
    mobile = export(program, FIXED, folder / "mobile", format="ort")
    in_graph: dict[str, Any] = {"rows_with_equal_ids": equal_ids(program, rows)}
    ort: dict[str, Any] = {"shapes": FIXED.name}
    for name in PRECISIONS:
        beside, inside = answers(plain[name], rows), answers(texts[name], rows)
        in_graph[name] = {
            "rows_with_equal_labels": int((beside.argmax(-1) == inside.argmax(-1)).sum()),
            "accuracy": float((inside.argmax(-1) == truth).mean()),
            "largest_difference": float(np.abs(inside - beside).max()),
            "size_bytes": texts[name].size_bytes,
        }
        onnx, flat = answers(fixed[name], rows), answers(mobile[name], rows)
        operators = (mobile[name].path / OPERATORS).read_text(encoding="utf-8").splitlines()
        ort[name] = {
            "rows_with_equal_labels": int((onnx.argmax(-1) == flat.argmax(-1)).sum()),
            "accuracy": float((flat.argmax(-1) == truth).mean()),
            "relative_error": relative_error(flat, onnx),
            "size_bytes": (mobile[name].path / MOBILE).stat().st_size,
            "operators": operators,
            "mobile_usability": [found.message for found in get("onnx").check(mobile[name])],
        }
    return {"tokenizer_in_graph": in_graph, "ort": ort}


def holds(document: dict[str, Any]) -> bool:
    rows, text, ort = document["rows"], document["tokenizer_in_graph"], document["ort"]
    return text["rows_with_equal_ids"] == rows and all(
        text[name]["rows_with_equal_labels"] == ort[name]["rows_with_equal_labels"] == rows
        and ort[name]["relative_error"] <= ROUNDING
        and ort[name]["operators"]
        for name in PRECISIONS
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    task = tasks.get("text-classification")
    rows = read_rows(asked.data, task)
    loaded = models.load(asked.student, task)
    program = wrap(loaded.model, task, loaded.preprocessor, loaded.labels, spread(rows, 16))
    truth = np.array(task.references(rows, loaded.labels))
    with tempfile.TemporaryDirectory(prefix="edgekd-forms-") as folder:
        found = compare(program, rows, truth, Path(folder))
    document: dict[str, Any] = {"schema": SCHEMA, "rows": len(rows), **found}
    text = json.dumps(document, indent=1)
    print(text)
    asked.out.write_text(text + "\n", encoding="utf-8")
    return 0 if holds(document) else 1


if __name__ == "__main__":
    raise SystemExit(main())
