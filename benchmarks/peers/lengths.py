"""fp32 at fixed sequence lengths: our export beside optimum-onnx's, on the same tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import artifacts
import cases
import numpy as np
from interleaved import Protocol, measure
from judge import LIMIT, latency

LENGTHS = (16, 64, 128)
PIECES, SENTENCES = 2000, 64


def compare(runs: Sequence[Path], work: Path, protocol: Protocol) -> dict[str, Any]:
    """banking77's student and a seeded 4-layer, 256-wide BERT, each at every length."""
    students = {
        "banking77": cases.known("banking77", runs).student,
        "bert-4x256": seeded_bert(work / "bert-4x256-student"),
    }
    arms = {}
    for name, student in students.items():
        folder = work.parent / f"lengths-{name}"
        folder.mkdir(exist_ok=True)
        texts: list[dict[str, Any]] = [{"text": "w1 w2 w3"}] * 2
        task = "text-classification"
        ours = artifacts.export(student, task, ["--precision", "fp32"], folder / "edgekd")
        out = artifacts.make("optimum", student, task, texts, texts, folder, ["fp32"])
        theirs = artifacts.as_bundle(out / "fp32.onnx", out / "bundle", task)
        for length in LENGTHS:
            feeds = tokens(length, vocabulary(student))
            arms[f"{name} {length} ours"] = (ours, artifacts.fitting(ours, feeds))
            arms[f"{name} {length} theirs"] = (theirs, artifacts.fitting(theirs, feeds))
    rounds = measure(arms, protocol, work)
    rows = []
    for name in students:
        for length in LENGTHS:
            found = latency(rounds, f"{name} {length} ours", f"{name} {length} theirs")
            rows.append(
                {
                    "model": name,
                    "tokens": length,
                    **asdict(found),
                    "fast": found.ratio.high <= LIMIT,
                }
            )
    medians = [{n: round(float(np.median(v)), 5) for n, v in r.items()} for r in rounds]
    return {"rows": rows, "rounds_ms": medians}


def tokens(length: int, vocabulary: int) -> artifacts.Feeds:
    """Sentences of exactly ``length`` random pieces, nothing padded."""
    picks = np.random.default_rng(length).integers(5, vocabulary, (SENTENCES, 1, length))
    ones = np.ones((1, length), np.int64)
    return [
        {"input_ids": ids, "attention_mask": ones, "token_type_ids": np.zeros_like(ones)}
        for ids in picks.astype(np.int64)
    ]


def vocabulary(student: Path) -> int:
    """How many pieces the student's table has."""
    config = json.loads((student / "config.json").read_text(encoding="utf-8"))
    return int(config["vocab_size"])


def seeded_bert(folder: Path) -> Path:
    """A BERT with random weights and a word-level tokenizer, saved once."""
    if (folder / "tokenizer.json").is_file():
        return folder
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=PIECES,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    words = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(PIECES - 2))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512
    ).save_pretrained(folder)
    # The class by the name that the peers' older transformers knows as well.
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder
