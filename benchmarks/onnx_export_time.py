"""Wall time of ``edgekd export MODEL`` against a bare ``torch.onnx.export(dynamo=True)`` script.

The script loads the same model and exports it with the same dynamic shapes; both are whole
processes, imports and edgekd's checks included, taken in turns. The ratio is the median of the
turns' ratios, in wall time and in processor time, which a busy machine disturbs less.

    python benchmarks/onnx_export_time.py [MODEL] [--repeats 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from coreml_export_time import seconds, six_layer_bert

LIMIT = 1.5
BARE = """
import sys
import torch
from transformers import AutoModelForSequenceClassification

class Module(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        mask = (1.0 - attention_mask.float()[:, None, None, :]) * -1e4
        return self.model(input_ids=input_ids, attention_mask=mask).logits

source, out = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32).eval()
inputs = torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64)
axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=128)}
torch.onnx.export(
    Module(model).eval(),
    inputs,
    out,
    input_names=["input_ids", "attention_mask"],
    output_names=["logits"],
    dynamic_shapes=(axes, axes),
    dynamo=True,
)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="a seeded 6-layer BERT by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    took: dict[str, list[tuple[float, float]]] = {"bare": [], "edgekd": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or str(six_layer_bert(folder / "model"))
        ours = [sys.executable, "-m", "edgekd", "export", model, "--target", "onnx", "--out"]
        bare = [sys.executable, "-c", BARE, model]
        for turn in range(arguments.repeats):
            took["bare"].append(seconds([*bare, str(folder / f"{turn}.onnx")]))
            took["edgekd"].append(seconds([*ours, str(folder / f"bundle-{turn}")]))
    pairs = list(zip(took["edgekd"], took["bare"], strict=True))
    wall, processor = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
    report = {
        "schema": "edgekd.benchmark.onnx-export-time/1",
        "seconds": took,  # (wall, processor) of each run
        "wall_ratio": wall,
        "processor_ratio": processor,
    }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if wall <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
