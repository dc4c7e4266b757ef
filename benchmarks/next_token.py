"""Does a stored top-k teach a language model as well as the whole distribution does?

    python benchmarks/next_token.py TEXT --work FOLDER

A teacher of four layers is fitted on TEXT (its last tenth is the test text), with a byte-level BPE
learned from it. Students of one of its layers are trained for the same steps from the same start:
on the text alone, on the teacher's whole next-token distribution, and on its k likeliest tokens
with the mass of the rest. Everything goes through the pipeline of ``edgekd distill``, so FOLDER
keeps what is finished and a second call goes on where the first was stopped; the table and every
row are kept in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import pipeline
from edgekd.recipe import Recipe

OUT = Path(__file__).parent / "results"
TEACHER = {"model_type": "gpt2", "n_embd": 64, "n_layer": 4, "n_head": 4}
FIT = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "schedule": "cosine"}
STUDENT = {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3, "schedule": "cosine"}
TEACHING = {"temperature": 1.0, "soft_weight": 1.0, "hard_weight": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--block", type=int, default=64, help="tokens of a row")
    parser.add_argument("--characters", type=int, default=300_000, help="of the training text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    text = given.text.read_text(encoding="utf-8")
    border = text.index("\n\n", len(text) * 9 // 10)
    start = text.index("\n\n", max(border - given.characters, 0)) if given.characters else 0
    (given.work / "train.txt").write_text(text[start:border], encoding="utf-8")
    (given.work / "test.txt").write_text(text[border:], encoding="utf-8")

    folders = {"top-k": given.work / "top-k", "dense": given.work / "dense"}
    sparse, dense = recipes(given, folders["top-k"])
    for recipe, folder in ((sparse, folders["top-k"]), (dense, folders["dense"])):
        pipeline.distill(recipe, given.work, folder)
    rows = collect(folders, given.seeds)
    document = {
        "schema": "edgekd.benchmark.next-token/1",
        "text": given.text.parent.name,
        "vocabulary": given.vocabulary,
        "top_k": given.top_k,
        "block": given.block,
        "teacher": {"config": TEACHER, "fit": FIT},
        "student": {"layers": [0], **STUDENT, **TEACHING},
        "rows": rows,
        "summary": summary(rows),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    written = json.dumps(document, indent=2)
    (given.out / "next_token.json").write_text(f"{written}\n", encoding="utf-8")
    (given.out / "next_token.md").write_text(table(document), encoding="utf-8")
    print(table(document))


def recipes(given: argparse.Namespace, fitted: Path) -> tuple[Recipe, Recipe]:
    """The recipe that fits the teacher and stores its top-k, and the dense one after it."""
    common = {
        "task": "text-generation",
        "data": {"train": "train.txt", "test": "test.txt", "max_length": given.block},
        "student": {"layers": [0]},
        "seeds": given.seeds,
        "targets": {},
        "profiles": [],
    }
    config = {**TEACHER, "n_positions": given.block}
    teacher = {"config": config, "vocabulary": given.vocabulary, "fit": FIT}
    sparse = {"top_k": given.top_k, **STUDENT, **TEACHING}
    dense = {"top_k": 0, "control": False, **STUDENT, **TEACHING}
    return (
        Recipe.model_validate({"name": "top-k", "teacher": teacher, "distill": sparse, **common}),
        Recipe.model_validate(
            {"name": "dense", "teacher": str(fitted / "teacher"), "distill": dense, **common}
        ),
    )


def collect(folders: Mapping[str, Path], seeds: int) -> list[dict[str, Any]]:
    """One row per model and seed, from the records of the finished stages."""
    rows = [row("teacher", 0, folders["top-k"], "teacher")]
    for nth in range(seeds):
        suffix = f"-seed-{nth}" if nth else ""
        rows.append(row("no teacher", nth, folders["top-k"], f"student-no-kd{suffix}"))
        rows.append(row("dense", nth, folders["dense"], f"student{suffix}"))
        rows.append(row("top-k", nth, folders["top-k"], f"student{suffix}"))
    return rows


def row(name: str, seed: int, folder: Path, stage: str) -> dict[str, Any]:
    record = json.loads((folder / "stages" / f"{stage}.json").read_text(encoding="utf-8"))
    result = record["result"]
    metrics = result["evaluation"]["metrics"]
    return {
        "model": name,
        "seed": seed,
        "cross_entropy": math.log(metrics["perplexity"]),
        "next_token_accuracy": metrics["next_token_accuracy"],
        "agreement": result["evaluation"]["agreement"],
        "parameters": result["params"],
        "steps": result["steps"],
        "seconds": record["seconds"],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and what top-k loses as a share of what dense gains."""
    mean = {
        name: float(np.mean([r["cross_entropy"] for r in rows if r["model"] == name]))
        for name in ("no teacher", "dense", "top-k")
    }
    gain = mean["no teacher"] - mean["dense"]
    return {
        "cross_entropy": mean,
        "gain_of_dense": gain,
        "gain_of_top_k": mean["no teacher"] - mean["top-k"],
        "lost_share": (mean["top-k"] - mean["dense"]) / gain,
    }


def table(document: Mapping[str, Any]) -> str:
    lines = [
        "| model | seed | cross-entropy (nats/token) | next-token accuracy | agreement | parameters |"
        " steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in document["rows"]:
        agreement = "–" if r["agreement"] is None else f"{r['agreement']:.2%}"
        lines.append(
            f"| {r['model']} | {r['seed']} | {r['cross_entropy']:.4f} |"
            f" {r['next_token_accuracy']:.2%} | {agreement} | {r['parameters']:,} | {r['steps']} |"
        )
    said = document["summary"]
    means = ", ".join(f"{name} {value:.4f}" for name, value in said["cross_entropy"].items())
    lines += [
        "",
        f"Means over the seeds: {means}. Of the {said['gain_of_dense']:.4f} nats that the whole"
        f" distribution gains over no teacher, the top {document['top_k']} of"
        f" {document['vocabulary']:,} lose {said['lost_share']:.1%}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
