"""Which part of a recipe buys what: banking77 with a tenth of its labels, one change at a time.

    python benchmarks/ablation.py [ROW ...] [--seeds 3] [--runs runs/ablation]

Every row is an ordinary recipe for the same student: two of the teacher's layers at half its
width, trained for the same number of steps on batches of the same size (what stands between it
and the teacher takes steps of its own, which the table names). The teacher is fitted once
on the tenth; the control, which learns from the labels alone, is trained once as well, and every
row's gain is over it, with an interval over examples and seeds. Each row also says what share of
the gradient its terms have at the first step: a term without effect is visible. A killed run goes
on, and finished rows are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import data, pipeline, recipe, tasks
from edgekd.evaluate.seeds import gain

sys.path.insert(0, str(Path(__file__).parent))
from distillation import ASSETS, BACKBONE, RESULTS, split

TEST = str(ASSETS / "data/banking77/test.csv")
TRAIN = str(ASSETS / "data/banking77/train.csv")
STUDENT = {"layers": [0, 5], "hidden_size": 192, "intermediate_size": 768}
EPOCHS = 10  # of the labelled tenth; with more rows fewer, so that the steps stay the same
TEACHING = {
    "epochs": EPOCHS,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "temperature": 2,
    "hard_weight": 0.5,
}
FIT = {"epochs": 16, "learning_rate": 4e-4, "schedule": "cosine"}
COPIES = 9  # variants of a labelled row: as many rows as the unlabelled ones
SHARE = EPOCHS // (1 + COPIES)  # epochs over ten times the rows
# The task-agnostic stage: its teacher was made for sentences, and first learns to fill masks.
LANGUAGE_FIT = {"epochs": 3, "learning_rate": 4e-4, "schedule": "cosine"}
LANGUAGE = {"epochs": 4, "learning_rate": 1e-3, "schedule": "cosine", "hard_weight": 0.5}
TEXTS = 2000  # of the unlabelled ones

# What each row changes: distill, data, stages.
ROWS: dict[str, dict[str, Any]] = {
    "logits": {},
    "+ hidden": {"distill": {"hidden_weight": 1.0}},
    "+ attention": {"distill": {"attention_weight": 1.0}},
    "+ relations": {"distill": {"relation_weight": 1.0}},
    "+ embedding": {"distill": {"embedding_weight": 1.0}},
    "through an assistant": {"assistant": {"layers": [0, 2, 5]}},
    "task-agnostic first": {"language": True},
    "+ unlabelled data": {"distill": {"epochs": SHARE}, "unlabelled": True},
    "+ augmentation": {"distill": {"epochs": SHARE}, "augment": {"copies": COPIES}},
}


def recipe_of(row: str, seeds: int, runs: Path) -> dict[str, Any]:
    """The recipe of a row; the first one fits the teacher and trains the control."""
    changes, files = ROWS[row], split_rows(runs)
    first = row == "logits"
    distill = {**TEACHING, **changes.get("distill", {}), "control": first}
    columns: dict[str, Any] = {"train": str(files["labelled"]), "test": str(files["test"])}
    if changes.get("unlabelled"):
        columns["unlabelled"] = str(files["rest"])
    if "augment" in changes:
        columns["augment"] = changes["augment"]
    teacher = {"base": BACKBONE, "fit": FIT} if first else {"model": str(runs / "logits/teacher")}
    values: dict[str, Any] = {
        "name": folder_of(row),
        "task": "text-classification",
        "teacher": teacher,
        "data": columns,
        "seeds": seeds,
        "targets": {},
        "profiles": [],
    }
    last = {"name": "student", "student": STUDENT, "distill": distill}
    if "assistant" in changes:
        between = {"name": "assistant", "student": changes["assistant"], "distill": TEACHING}
        # Of the assistant's layers, the same two of the teacher's.
        own = {**STUDENT, "layers": [0, len(changes["assistant"]["layers"]) - 1]}
        return {**values, "stages": [between, {**last, "student": own}]}
    if "language" in changes:
        texts = {"train": str(files["texts"]), "test": str(files["held"])}
        language = {
            "name": "language",
            "task": "fill-mask",
            "teacher": {"base": BACKBONE, "fit": LANGUAGE_FIT},
            "data": texts,
            "student": STUDENT,
            "distill": LANGUAGE,
        }
        return {**values, "stages": [language, {"name": "student", "distill": distill}]}
    return {**values, "student": STUDENT, "distill": distill}


def split_rows(runs: Path) -> dict[str, Path]:
    """A tenth with labels, the rest without, the test rows, and texts for the language stage."""
    folder = runs / "data"
    labelled, rest = split("text-classification", {"label": "category"}, TRAIN, TEST, folder)
    columns = {"label": "category"}
    test = folder / "test.jsonl"
    if not test.is_file():
        rows = data.read_rows(TEST, tasks.get("text-classification"), columns)
        test.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    texts = [json.loads(line)["text"] for line in rest.read_text(encoding="utf-8").splitlines()]
    found = {"labelled": labelled, "rest": rest, "test": test}
    for name, chosen in (("texts", texts[:TEXTS]), ("held", texts[TEXTS : TEXTS + 200])):
        found[name] = folder / f"{name}.jsonl"
        if not found[name].is_file():
            lines = [json.dumps({"text": text}) for text in chosen]
            found[name].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


def folder_of(row: str) -> str:
    return row.replace("+ ", "and-").replace(" ", "-")


def run(row: str, seeds: int, runs: Path) -> None:
    """Train one row and keep what came out of it."""
    folder = runs / folder_of(row)
    found = pipeline.distill(recipe.validate(recipe_of(row, seeds, runs), row), runs, folder)
    stages = {
        "/".join((*file.relative_to(folder).parts[:-2], file.stem)): json.loads(
            file.read_text(encoding="utf-8")
        )
        for file in sorted(folder.glob("**/stages/*.json"))  # of a language stage as well
    }
    record = stages["student"]["result"]
    # Of what stands between teacher and student as well: it is part of what a row costs.
    steps = {
        name: stage["result"]["steps"]
        for name, stage in stages.items()
        if "steps" in stage["result"] and "seed" not in name and "no-kd" not in name
    }
    bought = _gain(folder, runs / "logits", seeds)
    document = {
        "row": row,
        "seeds": seeds,
        "seconds": round(sum(stage["seconds"] for stage in stages.values())),
        "recipe": ROWS[row],
        "accuracy": float(np.mean(found["by_seed"]["student"])),
        "by_seed": found["by_seed"],
        "gain": {"value": bought.value, "ci": [bought.ci_low, bought.ci_high]},
        "steps": {name: n for name, n in steps.items() if not name.endswith("teacher")},
        "params": record["params"],
        "gradient_shares": record["gradient_shares"],
        "teacher": next(m["metrics"] for m in found["models"] if m["id"] == "teacher"),
    }
    language = folder / "language/stages/label.json"
    if language.is_file():  # whether the teacher of the task-agnostic stage knew anything
        knew = json.loads(language.read_text(encoding="utf-8"))["result"]
        document["language"] = {
            "perplexity": knew["evaluation"]["metrics"]["perplexity"],
            "frequency": knew["frequency"],
        }
    file = RESULTS / "ablation" / f"{folder_of(row)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _gain(ours: Path, control: Path, seeds: int) -> Any:
    """Of a row's students over the control of the first row, in accuracy."""
    task = tasks.get("text-classification")
    labels = list(json.loads((ours / "stages/data.json").read_text())["result"]["labels"])
    rows = data.read_rows(str(control.parent / "data/test.jsonl"), task, {})
    references = task.references(rows, labels)
    metric = task.metrics(labels)[0]
    decoded = [
        [task.decode(_outputs(folder, name, nth), labels) for nth in range(seeds)]
        for folder, name in ((ours, "student"), (control, "student-no-kd"))
    ]
    return gain(metric, decoded[0], decoded[1], references)


def _outputs(folder: Path, name: str, nth: int) -> Mapping[str, np.ndarray]:
    where = folder / (f"seeds/{name}-{nth}" if nth else name)
    return dict(np.load(where / "test-outputs.npz"))


def report() -> str:
    """The table of the finished rows, in the order of :data:`ROWS`."""
    lines = [
        "| recipe | accuracy | gain over no teacher (95 %) | share of the first gradient | steps"
        " | time |",
        "|---|---|---|---|---|---|",
    ]
    total, first, language = 0.0, None, None
    for row in ROWS:
        file = RESULTS / "ablation" / f"{folder_of(row)}.json"
        if not file.is_file():
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        first = first or found
        language = found.get("language", language)
        low, high = found["gain"]["ci"]
        shares = ", ".join(f"{k} {v:.1%}" for k, v in found["gradient_shares"].items())
        total += found["seconds"]
        lines.append(
            f"| {row} | {found['accuracy']:.4f} | {found['gain']['value']:+.4f}"
            f" ({low:+.4f} to {high:+.4f}) | {shares}"
            f" | {', '.join(f'{name} {count:,}' for name, count in found['steps'].items())}"
            f" | {found['seconds'] / 60:.0f} min |"
        )
    if first is None:
        return ""
    control = float(np.mean(first["by_seed"].get("student-no-kd", [np.nan])))
    lines.append(
        f"\nTeacher {first['teacher']['accuracy']:.4f}, control {control:.4f} (mean of"
        f" {first['seeds']} seeds), {first['params']:,} parameters. In all"
        f" {total / 3600:.1f} hours."
        + (
            " The teacher of the task-agnostic stage fills masks with a perplexity of"
            f" {language['perplexity']:,.0f}; knowing only how frequent each token is has"
            f" {language['frequency']:,.0f}. The student after it is made of that stage's layers, where"
            " those of the other rows, and the control, are made of the fine-tuned teacher's: at this"
            " budget the language is worth far less than copied layers that know the task."
            if language
            else ""
        )
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    given = parser.parse_args()
    if unknown := [row for row in given.rows if row not in ROWS]:
        parser.error(f"no row '{unknown[0]}'; there are {', '.join(ROWS)}")
    wanted = [row for row in ROWS if row in (given.rows or ROWS)]
    if wanted[:1] != ["logits"]:  # the others need its teacher and its control
        wanted.insert(0, "logits")
    for row in wanted:
        run(row, given.seeds, given.runs.resolve())
        (RESULTS / "ablation.md").write_text(report(), encoding="utf-8")
    print(report())


if __name__ == "__main__":
    main()
