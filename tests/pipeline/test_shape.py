"""A limit becomes a shape: in a run on images, and in a context of texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd import pipeline
from edgekd import recipe as recipes
from edgekd.errors import InputError
from edgekd.pipeline import learn
from edgekd.pipeline.context import Context
from edgekd.pipeline.preflight import share_cut_off
from edgekd.pipeline.shape import copied_layers, describe, estimate, resolve, smallest_precision
from edgekd.pipeline.stage import Run
from edgekd.preprocess import Row
from edgekd.sections import Student


@pytest.fixture
def context_of(bert_dir: Path, intents: Any, tmp_path: Path) -> Callable[..., Context]:
    """``context_of(params="40%")`` is a run of the three intents with that student."""

    def make(targets: Any = "onnx", **student: Any) -> Context:
        values = {
            "name": "x",
            "task": "text-classification",
            "teacher": str(bert_dir),
            "data": {"train": str(intents.train), "test": str(intents.test)},
            "student": student,
            "targets": targets,
        }
        return Context(recipes.validate(values, "here"), Run(tmp_path / "run"), tmp_path)

    return make


def test_a_share_of_the_teacher(context_of: Callable[..., Context]) -> None:
    context = context_of(params="60%", dropout=0.0)
    rows: list[Row] = list(context.train)
    chosen = resolve(context, rows)
    built = learn.fresh_student(context, rows, 0)
    assert built.parameters == chosen.estimated_params
    assert built.parameters <= 0.6 * context.teacher.parameters
    assert chosen.student.vocabulary == "trim" and not chosen.student.limited
    assert chosen.student.dropout == 0.0
    assert describe(chosen.student, context.teacher).endswith(", vocabulary trimmed, dropout 0")
    config = Student(config={"model_type": "bert"}, dropout=0.1)
    assert describe(config, context.teacher) == "a bert from its config, dropout 0.1"
    assert copied_layers(context, built) == chosen.student.layers
    assert "parameters" in chosen.why and "60.0% of the teacher's" in chosen.why
    # Student and control start from the same weights.
    again = learn.fresh_student(context, rows, 0).model.state_dict()
    for name, value in built.model.state_dict().items():
        assert torch.equal(value, again[name]), name


def test_a_number_of_parameters_with_the_vocabulary_kept(
    context_of: Callable[..., Context],
) -> None:
    context = context_of(params="3k", vocabulary="keep")
    built = learn.fresh_student(context, context.train, 0)
    assert built.parameters <= 3000
    tokenizers = (m.preprocessor.tokenizer for m in (built, context.teacher))  # type: ignore[attr-defined]
    assert len({t.get_vocab_size() for t in tokenizers}) == 1


def test_a_limit_in_megabytes_is_of_the_smallest_precision(
    context_of: Callable[..., Context],
) -> None:
    targets = {"coreml": {"precisions": ["fp16", "lut4-int8"]}, "onnx": {}}
    assert smallest_precision(context_of(targets).recipe) == ("lut4-int8", 4)
    assert smallest_precision(context_of("onnx").recipe) == ("int8", 8)
    only = context_of({"onnx": {"precisions": ["fp32"]}}, size_mb=0.035)
    chosen = resolve(only, only.train)
    assert chosen.precision == "fp32" and chosen.estimated_bytes is not None
    assert chosen.estimated_bytes <= 35_000
    assert "MB at fp32" in chosen.why


def test_a_limit_that_nothing_meets(context_of: Callable[..., Context]) -> None:
    context = context_of(params=100)
    with pytest.raises(InputError, match=r"smallest reachable has [\d,]+ parameters \("):
        learn.label(context, learn.read(context), None)
    assert not (context.run.path / "signals").exists()  # refused before the teacher is run


def test_impossible_widths_are_refused_before_the_teacher_is_run(
    context_of: Callable[..., Context],
) -> None:
    context = context_of(hidden_size=9)
    with pytest.raises(InputError, match="heads are 8 wide and are kept whole"):
        learn.label(context, learn.read(context), None)


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
}


def of_family(context: Context, kind: str, **more: Any) -> None:
    """Give ``context`` a random teacher of that family, which reads what its own one reads."""
    import transformers

    from edgekd.models import LoadedModel

    own = context.teacher
    vocabulary = own.preprocessor.tokenizer.get_vocab_size()  # type: ignore[attr-defined]
    settings = {**SIZES, "vocab_size": vocabulary, "num_labels": 3, "pad_token_id": 0, **more}
    config = transformers.AutoConfig.for_model(kind, **settings)
    config.architectures = []
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    context.__dict__["teacher"] = LoadedModel(model, own.preprocessor, own.labels, kind, kind)


@pytest.mark.parametrize("kind", ["mpnet", "modernbert", "gpt2"])
@pytest.mark.parametrize("limit", [{"params": "75%"}, {"size_mb": 0.06}])
def test_layers_alone_go_where_the_width_cannot(
    context_of: Callable[..., Context], kind: str, limit: dict[str, Any]
) -> None:
    context = context_of(**limit, vocabulary="keep")
    of_family(context, kind)
    chosen = resolve(context, context.train)
    layers = chosen.student.layers
    assert layers and layers[0] == 0 and 1 <= len(layers) < 4 and not chosen.student.widths
    assert f"{len(layers)} of 4 layers, the whole width" in chosen.why
    assert f"the width of a {kind} model cannot be reduced here" in chosen.why
    built = learn.fresh_student(context, context.train, 0)
    assert built.parameters == chosen.estimated_params
    if "params" in limit:
        assert built.parameters <= 0.75 * context.teacher.parameters


def test_a_family_that_repeats_one_layer_has_none_to_drop(
    context_of: Callable[..., Context],
) -> None:
    context = context_of(params="50%")
    of_family(context, "albert", embedding_size=8)
    with pytest.raises(InputError, match=r"no plain list of layers .* as model: or config:"):
        resolve(context, context.train)


def test_not_even_one_layer_fits(context_of: Callable[..., Context]) -> None:
    context = context_of(params=100)
    of_family(context, "mpnet")
    with pytest.raises(InputError, match=r"fits 100 parameters .* one of its 4 layers has \d,\d+"):
        resolve(context, context.train)


def test_a_run_on_images(digits_recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = digits_recipe(tmp_path, student={"params": "40%"}, distill={"epochs": 1})
    document = pipeline.run(recipes.load(path), path, tmp_path / "run")
    shape, student = document.student, document.model("student")
    control, teacher = document.model("student-no-kd"), document.model("teacher")
    assert shape and student and control and teacher
    assert shape.params == student.params == control.params <= 0.4 * teacher.params
    # The graph outweighs so few weights: the estimate is of the right size, no more.
    assert shape.precision == "int8" and shape.built_bytes
    assert 0.4 < shape.estimated_bytes / shape.built_bytes < 2.5
    assert shape.why in (tmp_path / "run" / "report.html").read_text().replace("&#39;", "'")
    assert student.source and student.source.startswith("layer")


def test_the_estimate_is_near_a_bundle_that_was_measured() -> None:
    """banking77's student: 2 layers, 4,349 pieces, 128 positions; int8 was 5,561,536 bytes."""
    from edgekd.distill.student.anatomy import Weights

    layer = 4 * 384**2 + 2 * 384 * 1536
    matrices = (4349 + 128 + 2) * 384 + 2 * layer + 384 * 384 + 77 * 384
    vectors = 5_449_037 - matrices
    channels = 4349 + 128 + 2 + 2 * (5 * 384 + 1536) + 384 + 77
    found = estimate(Weights(matrices, vectors, channels), 2, 8)
    assert found == pytest.approx(5_561_536, rel=0.01)
    assert estimate(Weights(matrices, vectors, channels), 2, 32) == pytest.approx(
        21_820_421, rel=0.01
    )


def test_rows_that_are_cut_off_are_counted(context_of: Callable[..., Context]) -> None:
    from dataclasses import replace

    preprocessor: Any = context_of().teacher.preprocessor
    rows = [{"text": "card " * n} for n in (2, 4, 6, 8)]  # two more are [CLS] and [SEP]
    assert share_cut_off(replace(preprocessor, max_length=8), rows) == 0.25
    assert share_cut_off(replace(preprocessor, max_length=10), rows) == 0.0


def test_rows_that_are_cut_off_are_said_before_any_training(
    context_of: Callable[..., Context], capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_of()
    shorter = context.recipe.data.model_copy(update={"max_length": 8})
    context.recipe = context.recipe.model_copy(update={"data": shorter})
    for _ in range(2):  # the second time nothing is run, and it is a warning still
        context.warnings.clear()
        learn.label(context, learn.read(context), None)
        (warning,) = context.warnings
        assert "% of the training rows are longer than the teacher reads: cut off" in warning
    assert warning in capsys.readouterr().err
