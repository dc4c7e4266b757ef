"""The model card: the ``README.md`` of the student, as the Hugging Face hub reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.report import story, units
from edgekd.report.document import Document, Model

_DECISIVE = 5  # classes named among the limits


def model_card(
    document: Document,
    *,
    license: str | None = None,
    base_model: str | None = None,
    dataset: str | None = None,
    language: str | None = None,
) -> str:
    """Markdown with YAML front matter (hub specification "model cards", ``model-index``).

    Numbers are those of the PyTorch student on the test data, and of each bundle below. What is
    not known is left out rather than guessed.
    """
    import yaml

    student = document.model("student")
    front: dict[str, Any] = {
        "license": license,
        "language": language,
        "base_model": base_model,
        "datasets": [dataset] if dataset else None,
        "pipeline_tag": document.task.partition("/")[0],
        "library_name": "transformers",
        "tags": ["edgekd", "knowledge-distillation", *_targets(document)],
        "metrics": list(student.metrics) if student else None,
        "model-index": [_index(document, student)] if student and student.metrics else None,
    }
    known = {key: value for key, value in front.items() if value}
    head = yaml.safe_dump(known, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n\n".join(_body(document, student)) + "\n"


def _targets(document: Document) -> list[str]:
    return sorted({row.target for row in document.bundles})


def _index(document: Document, student: Model) -> dict[str, Any]:
    source = document.data.source if document.data and document.data.source else document.name
    return {
        "name": document.name,
        "results": [
            {
                "task": {"type": document.task.partition("/")[0]},
                "dataset": {"name": source, "type": source, "split": "test"},
                "metrics": [
                    {"type": name, "value": round(value, 6)}
                    for name, value in student.metrics.items()
                ],
            }
        ],
    }


def _body(document: Document, student: Model | None) -> list[str]:
    parts = [f"# {_cell(document.name)}"]
    if student:
        made = f", made as: {_cell(student.source)}" if student.source else ""
        parts.append(
            f"A {document.task} student of {units.count(student.params)} parameters, distilled with"
            f" edgekd{made}."
        )
    parts += [f"**{story.status(document)}.** {story.headline(document)}", "## Results"]
    parts.append(_models(document))
    if document.bundles:
        parts += ["## Bundles", _bundles(document), *map(story.folder, document.folders)]
        parts.append(
            "Evidence: " + "; ".join(f"*{w}*, {meaning}" for w, meaning in story.EVIDENCE.items())
        )
    parts += ["## What distillation bought", story.bought(document)]
    parts += ["## Limits", _limits(document)]
    return parts


def _models(document: Document) -> str:
    name = document.metric or "metric"
    rows = [
        (
            model.id,
            units.count(model.params),
            story.metric(model.metrics.get(name), name),
            _kept(model.retained, model.retained_ci),
            units.percent(model.agreement),
        )
        for model in document.models
    ]
    return _table(("model", "parameters", story.title(name), "retained (95 %)", "agreement"), rows)


def _bundles(document: Document) -> str:
    rows = []
    for row in document.bundles:
        profile = story.main_profile(document)
        bench = next((b for b in row.bench if b.profile == profile and b.latency_ms), None)
        rows.append(
            (
                f"`{row.path}`",
                units.size(row.size_bytes),
                _kept(row.retained, row.retained_ci),
                row.evidence,
                story.latency(bench),
            )
        )
    return _table(("bundle", "size", "retained (95 %)", "evidence", "median latency"), rows)


def _limits(document: Document) -> str:
    lines = [
        "The figures hold for data like the test data they were measured on. The student repeats"
        " its teacher's mistakes.",
        *(_cell(warning) for warning in document.warnings),
    ]
    worst = [spot for spot in document.blind_spots if spot.inherited][:_DECISIVE]
    if worst:
        named = ", ".join(f"{_cell(s.label)} ({s.inherited} of {s.examples})" for s in worst)
        lines.append(f"Classes with most errors inherited from the teacher: {named}.")
    return "\n".join(f"- {line}" for line in lines)


def _kept(value: float | None, ci: tuple[float, float] | None) -> str:
    return units.percent(value) + (f" ({story.interval(ci)})" if ci else "")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line in which nothing breaks out of a table or becomes HTML."""
    one_line = " ".join(text.split())
    return one_line.replace("|", "\\|").replace("<", "&lt;")
