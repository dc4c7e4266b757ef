"""Keep the weights of the epoch that scores best on held-out rows, not those of the last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.infer import predict

if TYPE_CHECKING:
    from edgekd.models import LoadedModel
    from edgekd.preprocess import Row
    from edgekd.tasks import Task
    from edgekd.tasks.base import Metric


class BestEpoch:
    """Asked after each epoch; :meth:`restore` puts the best epoch's weights back.

    What is best so far lies in ``folder``, so that a killed training goes on with it. Of equal
    epochs the later one stays: on few held-out rows the first that makes no mistake has often
    not learned enough.
    """

    def __init__(
        self,
        task: Task,
        model: LoadedModel,
        rows: Sequence[Row],
        references: Sequence[Any],
        folder: Path,
        what: str,
    ) -> None:
        self.task, self.model, self.what = task, model, what
        self.rows, self.references = rows, references
        self.weights = folder / "best-epoch.safetensors"
        self.log = folder / "epochs.json"

    def __call__(self, epoch: int) -> bool:
        """Score the ``epoch`` (from 1) that has just ended; False, for training goes on.

        One that was scored before a kill and is trained again takes its old place.
        """
        from safetensors.torch import save_model

        said = predict(self.model, self.rows, self.task, f"held out: {self.what}")
        value = self.metric(self.task.decode(said, list(self.model.labels)), self.references)
        scores = self.scores[: epoch - 1]
        if not any(self._better(score, value) for score in scores):
            part = self.weights.with_suffix(".partial")
            save_model(self.model.model, str(part))
            part.replace(self.weights)
        self.log.write_text(json.dumps([*scores, value]), encoding="utf-8")
        return False

    @property
    def metric(self) -> Metric:
        """What is compared; made at need, for a closure cannot cross over to a process."""
        return self.task.metrics(self.model.labels)[0]

    @property
    def scores(self) -> list[float]:
        """The metric after each epoch so far."""
        return json.loads(self.log.read_text(encoding="utf-8")) if self.log.is_file() else []

    def restore(self) -> Mapping[str, Any]:
        """Put the best weights into the model; say which epoch they are of."""
        from safetensors.torch import load_model

        scores = self.scores
        load_model(self.model.model, str(self.weights))
        best = min(scores) if self.metric.lower_is_better else max(scores)
        last = max(nth for nth, score in enumerate(scores, 1) if score == best)
        return {"epoch": last, "score": best, "scores": scores}

    def _better(self, value: float, other: float) -> bool:
        return value < other if self.metric.lower_is_better else value > other
