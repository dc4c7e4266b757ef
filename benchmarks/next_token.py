"""Does a stored sample of k tokens teach a language model as well as the whole distribution does?

    python benchmarks/next_token.py TEXT --work FOLDER

TEXT is cut into what is learned from, what choices are made on (the tenth before the last) and the
test (its last tenth). A teacher of four layers is fitted on all of the first, with a byte-level
BPE learned from it. Students of one layer see the last --characters of it only, as a student of a
larger teacher does. They are trained for the same steps from the same random weights: on the text
alone, on the teacher's whole next-token distribution, and on k stored tokens that stand for it.
Everyone, the teacher and the control too, keeps its best epoch on the held-out tenth. Everything
goes through the pipeline of ``edgekd distill``, so FOLDER keeps what is finished and a second call
goes on where the first was stopped; the table and every row are kept in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import pipeline
from edgekd.pipeline import learn
from edgekd.pipeline.context import Context
from edgekd.pipeline.stage import Run
from edgekd.recipe import Recipe

OUT = Path(__file__).parent / "results"
SHAPE = {"model_type": "gpt2", "n_embd": 64, "n_head": 4}
TEACHER = {**SHAPE, "n_layer": 4}
STUDENT = {**SHAPE, "n_layer": 1}
FIT = {"epochs": 3, "batch_size": 16, "learning_rate": 3e-3, "schedule": "cosine", "keep": "best"}
TRAINING = {
    "epochs": 6,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "keep": "best",
}
TEACHING = {"temperature": 1.0, "soft_weight": 1.0, "hard_weight": 0.0}
ARMS = ("top-k", "dense")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--block", type=int, default=64, help="tokens of a row")
    parser.add_argument("--characters", type=int, default=180_000, help="that students see")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="2 trains both kinds at once")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    cut(given.text.read_text(encoding="utf-8"), given.work, given.characters)
    fit_teacher(given)
    with ProcessPoolExecutor(given.jobs) as pool:
        for _ in pool.map(distill, ARMS, [given] * len(ARMS)):
            pass
    rows = collect(given.work, given.seeds)
    document = {
        "schema": "edgekd.benchmark.next-token/2",
        "text": given.text.parent.name,
        "characters": {
            name: len((given.work / f"{name}.txt").read_text(encoding="utf-8"))
            for name in ("train", "part", "held-out", "test")
        },
        "vocabulary": given.vocabulary,
        "top_k": given.top_k,
        "block": given.block,
        "teacher": {"config": TEACHER, "fit": FIT},
        "student": {"config": STUDENT, **TRAINING, **TEACHING},
        "rows": rows,
        "summary": summary(rows),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    written = json.dumps(document, indent=2)
    (given.out / "next_token.json").write_text(f"{written}\n", encoding="utf-8")
    (given.out / "next_token.md").write_text(table(document), encoding="utf-8")
    print(table(document))


def cut(text: str, folder: Path, characters: int) -> None:
    """Write train, part (its end), held-out and test, all cut between two speeches."""
    held = text.index("\n\n", len(text) * 8 // 10)
    test = text.index("\n\n", len(text) * 9 // 10)
    part = text.index("\n\n", max(held - characters, 0))
    pieces = {
        "train": text[:held],
        "part": text[part:held],
        "held-out": text[held:test],
        "test": text[test:],
    }
    for name, piece in pieces.items():
        (folder / f"{name}.txt").write_text(piece, encoding="utf-8")


def recipe(given: argparse.Namespace, name: str, train: str, **sections: Any) -> Recipe:
    files = {"train": f"{train}.txt", "selection": "held-out.txt", "test": "test.txt"}
    values = {
        "name": name,
        "task": "text-generation",
        "data": {**files, "max_length": given.block},
        "seeds": given.seeds,
        "targets": {},
        "profiles": [],
        **sections,
    }
    return Recipe.model_validate(values)


def fit_teacher(given: argparse.Namespace) -> None:
    config = {**TEACHER, "n_positions": given.block}
    teacher = {"config": config, "vocabulary": given.vocabulary, "fit": FIT}
    asked = recipe(given, "teacher", "train", teacher=teacher)
    context = Context(asked, Run(given.work / "fitted"), given.work)
    learn.fit_teacher(context, learn.read(context))


def distill(arm: str, given: argparse.Namespace) -> None:
    """All seeds of one kind of signal; the control stands beside the sample of k."""
    sampled = arm == "top-k"
    asked = recipe(
        given,
        arm,
        "part",
        teacher=str(given.work / "fitted" / "teacher"),
        student={"config": {**STUDENT, "n_positions": given.block}},
        distill={
            "top_k": given.top_k if sampled else 0,
            "control": sampled,
            **TRAINING,
            **TEACHING,
        },
    )
    pipeline.distill(asked, given.work, given.work / arm)


def collect(work: Path, seeds: int) -> list[dict[str, Any]]:
    """One row per model and seed, from the records of the finished stages."""
    fitted = record(work / "fitted", "teacher")
    rows = [row("teacher", 0, {**record(work / "top-k", "label"), "seconds": fitted["seconds"]})]
    rows[0]["steps"] = fitted["result"]["steps"]
    for nth in range(seeds):
        suffix = f"-seed-{nth}" if nth else ""
        rows.append(row("no teacher", nth, record(work / "top-k", f"student-no-kd{suffix}")))
        rows += [
            row(arm, nth, record(work / arm, f"student{suffix}")) for arm in ("dense", "top-k")
        ]
    return rows


def record(folder: Path, stage: str) -> dict[str, Any]:
    return json.loads((folder / "stages" / f"{stage}.json").read_text(encoding="utf-8"))


def row(name: str, seed: int, found: Mapping[str, Any]) -> dict[str, Any]:
    result = found["result"]
    metrics = result["evaluation"]["metrics"]
    kept = result.get("kept")
    return {
        "model": name,
        "seed": seed,
        "cross_entropy": math.log(metrics["perplexity"]),
        "next_token_accuracy": metrics["next_token_accuracy"],
        "agreement": result["evaluation"]["agreement"],
        "parameters": result["params"],
        "steps": result.get("steps"),
        "epoch": kept and kept["epoch"],
        "held_out": kept and [math.log(score) for score in kept["scores"]],
        "seconds": found["seconds"],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and what top-k loses as a share of what dense gains."""
    found = {
        name: np.array([r["cross_entropy"] for r in rows if r["model"] == name])
        for name in ("no teacher", "dense", "top-k")
    }
    gains = found["no teacher"] - found["dense"]
    losses = found["top-k"] - found["dense"]
    return {
        "cross_entropy": {name: float(values.mean()) for name, values in found.items()},
        "gain_of_dense": float(gains.mean()),
        "gain_of_top_k": float((gains - losses).mean()),
        "lost_share": float(losses.mean() / gains.mean()),
        "lost_share_by_seed": (losses / gains).tolist(),
    }


def table(document: Mapping[str, Any]) -> str:
    lines = [
        "| model | seed | cross-entropy (nats/token) | next-token accuracy | agreement | parameters |"
        " steps | epoch kept | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in document["rows"]:
        agreement = "–" if r["agreement"] is None else f"{r['agreement']:.2%}"
        lines.append(
            f"| {r['model']} | {r['seed']} | {r['cross_entropy']:.4f} |"
            f" {r['next_token_accuracy']:.2%} | {agreement} | {r['parameters']:,} | {r['steps']} |"
            f" {r['epoch'] or '–'} | {r['seconds']:.0f} |"
        )
    said = document["summary"]
    size = document["characters"]
    means = ", ".join(f"{name} {value:.4f}" for name, value in said["cross_entropy"].items())
    seeds = ", ".join(f"{share:.1%}" for share in said["lost_share_by_seed"])
    lines += [
        "",
        f"The teacher learned from {size['train']:,} characters, every student from"
        f" {size['part']:,} of them, from the same random weights per seed; epochs were kept by"
        f" {size['held-out']:,} others, and the test is {size['test']:,}.",
        "",
        f"Means over the seeds: {means}. Of the {said['gain_of_dense']:.4f} nats that the whole"
        f" distribution gains over no teacher, {document['top_k']} stored tokens of"
        f" {document['vocabulary']:,} lose {said['lost_share']:.1%} (by seed: {seeds}).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
