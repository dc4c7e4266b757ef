"""The best epoch is kept, and a control may have a learning rate of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgekd import models, recipe, tasks
from edgekd.pipeline import learn
from edgekd.pipeline.context import Context
from edgekd.pipeline.keep import BestEpoch
from edgekd.pipeline.stage import Done, Run
from edgekd.preprocess import ImagePreprocessor

from .conftest import VIT


def test_the_weights_of_the_best_epoch_come_back(tmp_path: Path) -> None:
    task = tasks.get("image-classification")
    encoder = ImagePreprocessor(8, 8, 1, (0.5,), (0.5,))
    model = models.from_config(VIT, task, encoder, ("a", "b"), seed=0)
    rows = [{"image": np.zeros((8, 8), np.uint8), "label": label} for label in "aab"]
    bias = model.model.classifier.bias  # type: ignore[union-attr]
    weight = model.model.classifier.weight  # type: ignore[union-attr]
    weight.data.zero_()  # type: ignore[union-attr, operator]

    def keeper() -> BestEpoch:
        return BestEpoch(task, model, rows, task.references(rows, "ab"), tmp_path, "x")

    def epoch(number: int, favour: int) -> None:
        bias.data[:] = 0  # type: ignore[union-attr, index]
        bias.data[favour] = 1  # type: ignore[union-attr, index]
        best = keeper()  # as after a kill: what is best lies there
        assert best(number) is False

    for number, favour in enumerate((1, 0, 1), 1):
        epoch(number, favour)
    epoch(3, 1)  # trained again after a kill: it takes its place, and is not a fourth
    bias.data[:] = 7  # type: ignore[union-attr, index]
    kept = keeper().restore()
    assert kept == {"epoch": 2, "score": 2 / 3, "scores": [1 / 3, 2 / 3, 1 / 3]}
    assert bias.tolist() == [1.0, 0.0]  # type: ignore[union-attr, operator]

    weight.data[:] = 1e-9  # type: ignore[union-attr, operator]
    epoch(4, 0)  # as good as the second: the later one stays
    kept = keeper().restore()
    assert kept["epoch"] == 4
    assert float(weight.detach().abs().max()) > 0  # type: ignore[union-attr, operator]


def test_the_control_takes_the_rate_that_serves_it_best(
    digits_recipe: Callable[..., Path], tmp_path: Path
) -> None:

    def trained(rate: float) -> tuple[Context, Done, Done]:
        distill = {
            "epochs": 2,
            "batch_size": 64,
            "learning_rate": rate,
            "keep": "best",
            "control": {"learning_rates": [1e-6, 1e-2]},
        }
        path = digits_recipe(tmp_path, distill=distill)
        context = Context(recipe.load(path), Run(tmp_path / "run"), tmp_path)
        rows = learn.read(context)
        labelled = learn.label(context, rows, learn.fit_teacher(context, rows))
        return context, rows, learn.control(context, labelled)

    context, rows, control = trained(1e-6)
    rates = context.run.done["control-rate"].result["scores"]
    assert rates["0.01"] > rates["1e-06"]
    assert control.result["learning_rate"] == 1e-2
    assert len(control.result["kept"]["scores"]) == 2
    assert rows.result["rows"]["selection"] > 0
    assert trained(1e-5)[2].reused  # the student's own rate changes nothing of it
