"""Wall time of ``edgekd export MODEL --target coreml`` against a bare conversion script.

The script loads the same model, captures it at the same shape and calls ``coremltools.convert``;
both are whole processes, taken in turns, imports included. The fastest of each is compared, in
wall time and in processor time, which a busy machine disturbs less.

    python benchmarks/coreml_export_time.py [MODEL] [--length 64] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import sys
import coremltools as ct
import torch
from transformers import AutoModelForSequenceClassification

class Module(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        mask = (1.0 - attention_mask.float()[:, None, None, :]) * -1e4
        return self.model(input_ids=input_ids, attention_mask=mask).logits

source, out, length = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32).eval()
inputs = torch.ones(1, length, dtype=torch.int64), torch.ones(1, length, dtype=torch.int64)
with torch.no_grad():
    program = torch.export.export(Module(model), inputs, strict=False).run_decompositions({})
package = ct.convert(
    program,
    minimum_deployment_target=ct.target.iOS17,
    compute_precision=ct.precision.FLOAT16,
    skip_model_load=True,
)
package.save(out)
"""


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of a process."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # no threads that wait by spinning
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} … ended with {done.returncode}:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - begin, processor


def six_layer_bert(folder: Path) -> Path:
    """A seeded 6-layer BERT of MiniLM's size with a word tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8000,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=16,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(7995))]
    table = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=128
    ).save_pretrained(folder)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="a seeded 6-layer BERT by default")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or str(six_layer_bert(folder / "model"))
        length = str(arguments.length)
        ours = [sys.executable, "-m", "edgekd", "export", model, "--target", "coreml"]
        ours += ["--length", length, "--out"]
        bare = [sys.executable, "-c", BARE, model]
        took: dict[str, list[tuple[float, float]]] = {"edgekd": [], "bare": []}
        for turn in range(arguments.repeats):
            took["bare"].append(seconds([*bare, str(folder / f"{turn}.mlpackage"), length]))
            took["edgekd"].append(seconds([*ours, str(folder / f"bundle-{turn}")]))
    wall, processor = (
        min(run[i] for run in took["edgekd"]) / min(run[i] for run in took["bare"]) for i in (0, 1)
    )
    report = {
        "schema": "edgekd.benchmark.coreml-export-time/1",
        "seconds": took,  # (wall, processor) of each run
        "wall_ratio": wall,
        "processor_ratio": processor,
    }
    print(json.dumps(report, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if wall <= 1.5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
