from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.bundle import Bundle, Manifest, TensorSpec, write
from edgekd.preprocess import TextPreprocessor

LABELS = ("low", "mid", "high")
WORDS = ("[PAD]", "[UNK]", "cold", "cool", "warm", "hot", "very")
GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
tally (int64[BATCH, SEQUENCE] input_ids, int64[BATCH, SEQUENCE] attention_mask)
    => (float[BATCH, 3] logits)
{
    vectors = Gather(table, input_ids)
    mask = Cast<to: int = 1>(attention_mask)
    one = Constant<value_ints: ints = [2]>()
    column = Unsqueeze(mask, one)
    kept = Mul(vectors, column)
    axis = Constant<value_ints: ints = [1]>()
    logits = ReduceSum<keepdims: int = 0>(kept, axis)
}
"""


class OrtSession:
    """ONNX Runtime behind the session contract; remembers the batch sizes it was fed."""

    kind = "native"

    def __init__(self, bundle: Bundle) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(bundle.path / "model.onnx")
        self.batches: list[tuple[int, ...]] = []

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        self.batches.append(feeds["input_ids"].shape)
        return {"logits": self.session.run(["logits"], dict(feeds))[0]}

    def describe(self) -> dict[str, Any]:
        return {"runtime": "onnxruntime"}

    def close(self) -> None:
        pass


def make_bundle(folder: Path, batch: int | str, precision: str = "fp32") -> Bundle:
    """A bag-of-words classifier over ``WORDS``: its logits do not depend on padding."""
    import onnx
    from onnx import numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    preprocessor = TextPreprocessor(tokenizer.to_str(), max_length=16)

    folder.mkdir(parents=True)
    table = np.random.default_rng(0).standard_normal((len(WORDS), 3)).astype(np.float32)
    model = onnx.parser.parse_model(GRAPH.replace("BATCH", str(batch)))
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")

    manifest = Manifest(
        task="text-classification",
        target="onnx",
        precision=precision,
        variant=precision,
        labels=LABELS,
        inputs=tuple(
            TensorSpec(name, "int64", (batch, "sequence"))
            for name in ("input_ids", "attention_mask")
        ),
        outputs=(TensorSpec("logits", "float32", (batch, 3)),),
        preprocess=preprocessor.describe(),
        model_files=("model.onnx",),
        runtime={},
        provenance={},
        tolerance=1e-4,
    )
    rows = [{"text": "cold"}]
    inputs = preprocessor.encode(rows)
    if isinstance(batch, int):
        inputs = {name: np.repeat(array, batch, 0) for name, array in inputs.items()}
    outputs = OrtSession(Bundle(folder, manifest)).run(inputs)
    return write(folder, manifest, preprocessor, rows, inputs, outputs)


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., Bundle]:
    """``bundle_of(batch, precision)`` makes the bag-of-words bundle."""
    return lambda batch, precision="fp32": make_bundle(
        tmp_path / f"{batch}-{precision}", batch, precision
    )


@pytest.fixture
def session_of() -> type[OrtSession]:
    return OrtSession


@pytest.fixture
def rows() -> list[dict[str, str]]:
    rng = np.random.default_rng(1)
    return [{"text": " ".join(rng.choice(WORDS[2:], rng.integers(1, 12)))} for _ in range(70)]
