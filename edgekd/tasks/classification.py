"""Single-label classification of texts, images and sounds: logits in, one class out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgekd.errors import InputError, nearest
from edgekd.preprocess import Row
from edgekd.tasks.base import Metric, Task


class Classification(Task):
    outputs = ("logits",)
    methods = ("softened_kl", "standardised_kl", "logit_mse", "decoupled_kl", "dist")

    def metrics(self, labels: Sequence[str]) -> tuple[Metric, ...]:
        return accuracy(), macro_f1(len(labels))

    def decode(self, outputs: Mapping[str, np.ndarray], labels: Sequence[str]) -> list[Any]:
        return outputs["logits"].argmax(-1).tolist()

    def references(self, rows: Sequence[Row], labels: Sequence[str]) -> list[Any]:
        index = {label: i for i, label in enumerate(labels)}
        try:
            return [index[row["label"]] for row in rows]
        except KeyError as error:
            label = error.args[0]
            raise InputError(
                f"the data has the label {label!r}, which the model does not know"
                f"{nearest(str(label), list(labels))}; its labels are {', '.join(labels[:8])}"
                f"{', …' if len(labels) > 8 else ''}"
            ) from error

    def decisions(
        self, outputs: Mapping[str, np.ndarray], references: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        return softmax(outputs["logits"]), np.asarray(references)


class TextClassification(Classification):
    name = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    default_columns: ClassVar = {
        "text": ("text", "sentence", "content", "query"),
        "label": ("label", "labels", "category", "intent", "class"),
    }


class ImageClassification(Classification):
    name = "image-classification"
    auto_class = "AutoModelForImageClassification"
    default_columns: ClassVar = {
        "image": ("image", "img", "pixels", "file", "path"),
        "label": ("label", "labels", "class", "category"),
    }


class AudioClassification(Classification):
    name = "audio-classification"
    auto_class = "AutoModelForAudioClassification"
    default_columns: ClassVar = {
        "audio": ("audio", "sound", "speech", "file", "path"),
        "label": ("label", "labels", "class", "category", "intent"),
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def accuracy() -> Metric:
    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        correct = np.asarray(decoded) == np.asarray(references)
        return np.stack([correct, np.ones_like(correct)], 1).astype(np.float64)

    return Metric("accuracy", statistics, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))


def macro_f1(classes: int) -> Metric:
    """Mean over classes of F1 = 2tp / (predicted + true); classes never seen count as absent."""

    def statistics(decoded: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        eye = np.eye(classes)
        predicted, true = eye[np.asarray(decoded, int)], eye[np.asarray(references, int)]
        return np.concatenate([predicted * true, predicted + true], 1)

    def value(sums: np.ndarray) -> np.ndarray:
        hits, total = sums[..., :classes], sums[..., classes:]
        f1 = 2 * hits / np.maximum(total, 1e-12)
        present = total > 0
        return (f1 * present).sum(-1) / np.maximum(present.sum(-1), 1)

    return Metric("macro_f1", statistics, value)
