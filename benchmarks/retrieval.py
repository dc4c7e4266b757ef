"""Same-intent retrieval and reranking on banking77: what two small students keep of a teacher.

    python benchmarks/retrieval.py --out /tmp/retrieval [--epochs 2] [--queries 1500] [--report]

The teacher is a sentence encoder that never saw banking77. A test question should find the other
test questions of its intent. The embedding student is the ordinary pipeline's. The cross-encoder
scores pairs of a question and a candidate; it learns from the teacher's cosines on the training
questions and is scored on each test question's twenty nearest, where the teacher's own order is
the bar. A killed run continues; a finished row is kept. The table goes to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgekd import data, models, pipeline, recipe, tasks
from edgekd.distill import trainer, transfer
from edgekd.distill.examples import Examples
from edgekd.distill.losses.objective import Objective
from edgekd.distill.student import copy_layers, trim_vocabulary
from edgekd.evaluate.run import evaluate
from edgekd.infer import predict
from edgekd.preprocess import Row
from edgekd.sections import Training

RESULTS = Path(__file__).parent / "results"
ASSETS = Path(os.environ.get("EDGEKD_ASSETS", Path(__file__).parents[2] / "shared"))
TEACHER = str(ASSETS / "models" / "all-minilm-l6")
SPLITS = {name: str(ASSETS / "data" / "banking77" / f"{name}.csv") for name in ("train", "test")}
CANDIDATES = 20  # of a test question: the nearest for the teacher
PAIRS = 8  # of a training question: half its nearest, half drawn from the next hundred
EMBEDDING, RANKING = tasks.get("feature-extraction"), tasks.get("text-ranking")
SCORES = ("n", "metrics", "metrics_ci", "retained", "retained_ci", "agreement")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--queries", type=int, default=1500, help="training questions to rank")
    parser.add_argument("--report", action="store_true", help="only write what is finished")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    made = {
        "embedding": lambda: embedding(given.out, given.epochs),
        "cross-encoder": lambda: cross_encoder(given.out, given.epochs, given.queries),
    }
    wanted = {
        n: m for n, m in made.items() if not given.report or (given.out / f"{n}.json").is_file()
    }
    rows = [kept(given.out / f"{name}.json", make) for name, make in wanted.items()]
    document = {"schema": "edgekd.benchmark.retrieval/1", "teacher": Path(TEACHER).name}
    text = json.dumps({**document, "rows": rows}, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "retrieval.json").write_text(f"{text}\n", encoding="utf-8")
    (RESULTS / "retrieval.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, made once."""
    if not path.is_file():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(make(), indent=2), encoding="utf-8")
        partial.replace(path)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def embedding(out: Path, epochs: int) -> dict[str, Any]:
    """Two of the teacher's six layers, its vocabulary trimmed."""
    path = out / "embedding.yaml"
    values = {
        "name": "banking77-retrieval",
        "task": EMBEDDING.name,
        "teacher": TEACHER,
        "data": {**SPLITS, "label": "category"},
        "student": {"layers": [0, 5], "vocabulary": "trim"},
        "distill": {"epochs": epochs, "similarity_weight": 0.1, "control": False},
        "profiles": [],
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    found = pipeline.distill(recipe.load(path), out, out / "embedding")
    teacher, student = found["models"]
    return row("embedding student, layers 0 and 5", teacher, student)


def cross_encoder(out: Path, epochs: int, queries: int) -> dict[str, Any]:
    """Three of the teacher's layers under a score, taught with the teacher's cosines."""
    started = time.monotonic()
    teacher = models.load(TEACHER, EMBEDDING)
    columns = {"label": "category"}
    texts = {name: data.read_rows(path, EMBEDDING, columns) for name, path in SPLITS.items()}
    texts["train"], _ = data.drop_overlap(texts["train"], texts["test"], allow=True)
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(texts["train"]))[:queries]
    near = {name: embedded(teacher, rows, out, name) for name, rows in texts.items()}
    train, cosines = pairs(texts["train"], near["train"], chosen, generator)
    test, said = pairs(texts["test"], near["test"], range(len(texts["test"])))
    student = fresh_student(teacher, texts["train"])
    # Scores of unit variance: the bias and scale of a cosine mean nothing to an order.
    targets = ((cosines - cosines.mean()) / cosines.std()).astype(np.float32)[:, None]

    def signals(indices: Sequence[int]) -> Mapping[str, np.ndarray]:
        return {"logits": targets[list(indices)]}

    examples = Examples(train, RANKING, student.preprocessor, (), signals)
    nothing = transfer.Taps(frozenset())
    objective = transfer.Transfer(Objective({"regression": 1.0}), nothing, nothing)
    settings = Training(epochs=epochs, learning_rate=2e-4)
    done = trainer.train(
        student.model, examples, objective, settings, seed=0, folder=out / "ranker", what="ranker"
    )
    student.save(out / "ranker-student")
    references = RANKING.references(test, ())
    bar = RANKING.collect({"logits": said[:, None]}, test, teacher.preprocessor)
    outputs = predict(student, test, RANKING, "score pairs")
    found = evaluate(RANKING, (), outputs, references, bar).to_dict()
    own = evaluate(RANKING, (), bar, references).to_dict()
    return row(
        "cross-encoder, layers 0, 1 and 2",
        {**own, "params": teacher.parameters},
        {**found, "params": student.parameters, "n": len(texts["test"])},
        {"pairs": len(train), "steps": done.steps, "seconds": time.monotonic() - started},
    )


def fresh_student(teacher: models.LoadedModel, rows: Sequence[Row]) -> models.LoadedModel:
    """The teacher's lower layers and embeddings under a fresh score, with its tokenizer trimmed."""
    import torch

    torch.manual_seed(0)
    whole = models.load(TEACHER, RANKING, labels=(), max_length=128)
    return trim_vocabulary(copy_layers(whole, [0, 1, 2]), [row["text"] for row in rows])


def embedded(teacher: models.LoadedModel, rows: Sequence[Row], out: Path, name: str) -> np.ndarray:
    """The teacher's embeddings of ``rows``: float32 [rows, width], computed once."""
    path = out / f"{name}.npy"
    if not path.is_file():
        np.save(path, predict(teacher, rows, EMBEDDING, f"embed {name}")["embedding"])
    found: np.ndarray = np.load(path)
    return found


def pairs(
    rows: Sequence[Row],
    embeddings: np.ndarray,
    queries: Sequence[int] | np.ndarray,
    generator: np.random.Generator | None = None,
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Each query with its nearest other rows, and their cosines; mixed with farther ones by lot."""
    found, scores = [], []
    for query in queries:
        cosines = embeddings @ embeddings[query]
        cosines[query] = -2
        order = np.argsort(-cosines, kind="stable")
        picks = order[:CANDIDATES]
        if generator is not None:
            farther = generator.choice(order[PAIRS // 2 : 100], PAIRS - PAIRS // 2, replace=False)
            picks = np.concatenate([order[: PAIRS // 2], farther])
        for pick in picks:
            relevant = str(int(rows[pick]["label"] == rows[query]["label"]))
            pair = {"text": rows[query]["text"], "text_pair": rows[pick]["text"], "label": relevant}
            found.append(pair)
            scores.append(cosines[pick])
    return found, np.array(scores)


def row(
    name: str,
    teacher: Mapping[str, Any],
    student: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "student": name,
        "params": student["params"],
        "teacher_params": teacher["params"],
        "teacher_metrics": teacher["metrics"],
        **{key: student[key] for key in SCORES},
        "kept": {k: student["metrics"][k] / v for k, v in teacher["metrics"].items()},
        **(more or {}),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| student | parameters | MRR (teacher) | nDCG@10 (teacher) | MRR kept | nDCG@10 kept |"
        " same first |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in rows:
        metrics, teacher, whole = found["metrics"], found["teacher_metrics"], found["kept"]
        low, high = found["retained_ci"]
        lines.append(
            f"| {found['student']} | {found['params'] / 1e6:.1f} M of"
            f" {found['teacher_params'] / 1e6:.1f} M"
            f" | {metrics['mrr']:.4f} ({teacher['mrr']:.4f})"
            f" | {metrics['ndcg@10']:.4f} ({teacher['ndcg@10']:.4f})"
            f" | {whole['mrr']:.1%} ({low:.1%} to {high:.1%}) | {whole['ndcg@10']:.1%}"
            f" | {found['agreement']:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
