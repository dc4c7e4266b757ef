"""``auto`` on a depthwise network whose plain dynamic int8 collapses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import exporter as exporters
from edgekd import tasks
from edgekd.bundle import Bundle
from edgekd.exporter import Spec
from edgekd.pipeline import precision
from edgekd.preprocess import ImagePreprocessor, Row
from edgekd.program import Shapes
from edgekd.search.trial import Budget, Candidate
from edgekd.wrap import wrap

TASK = tasks.get("image-classification")
SIZE, WIDTH, WIDE, CLASSES, BLOCKS = 12, 32, 128, 4, 5
SPREAD = 8  # channels before the first depthwise convolution times 2^-8 to 2^8
PREPROCESSOR = ImagePreprocessor(SIZE, SIZE, 1, (0.5,), (0.5,))


class Block(nn.Module):
    """MobileNetV2's inverted residual, with a ReLU behind which ranges can be moved at will."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.expand = nn.Conv2d(WIDTH, WIDE, 1)
        self.depthwise = nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=WIDE)
        self.reduce = nn.Conv2d(WIDE, WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.reduce(self.depthwise(self.expand(x).relu()).relu())
        return x + y if self.residual else y

    def spread(self) -> None:
        """Scale the channels between the first two convolutions; the function stays the same."""
        factor = torch.exp2(torch.randint(-SPREAD, SPREAD + 1, (WIDE,)).float())
        self.expand.weight *= factor[:, None, None, None]
        self.expand.bias *= factor  # type: ignore[operator]
        self.depthwise.weight /= factor[:, None, None, None]


class Network(nn.Module):
    config = SimpleNamespace(num_labels=CLASSES)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTH, 3, stride=2)
        self.blocks = nn.ModuleList(Block(residual=i > 0) for i in range(BLOCKS))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        x = self.stem(pixel_values)
        for block in self.blocks:
            x = block(x)
        return SimpleNamespace(logits=self.head(x.mean((2, 3))))


@pytest.fixture(scope="module")
def images() -> list[Row]:
    random = np.random.default_rng(0)
    shapes = random.integers(0, 256, (CLASSES, SIZE, SIZE))
    noise = random.normal(0, 20, (96, SIZE, SIZE))
    pixels = np.clip(shapes[np.arange(96) % CLASSES] + noise, 0, 255).astype(np.uint8)
    return [{"image": image, "label": str(i % CLASSES)} for i, image in enumerate(pixels)]


@pytest.fixture(scope="module")
def bundle(images: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The network as float ONNX, trained for a second and then spread."""
    torch.manual_seed(0)
    model = Network()
    pixels = torch.from_numpy(PREPROCESSOR.encode(images)["pixel_values"])
    labels = torch.tensor([int(row["label"]) for row in images])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(pixels).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        before = model(pixels).logits
        model.blocks[0].spread()  # type: ignore[operator]
        torch.testing.assert_close(model(pixels).logits, before, rtol=1e-4, atol=1e-4)
    program = wrap(model, TASK, PREPROCESSOR, [str(i) for i in range(CLASSES)], images[:16])
    out = tmp_path_factory.mktemp("depthwise") / "fp32"
    return exporters.get("onnx").lower(program, Spec(Shapes()), out)


def accuracy_of_plain_dynamic(bundle: Bundle, images: list[Row], out: Path) -> float:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(bundle.path / "model.onnx", out, weight_type=QuantType.QUInt8)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    said = [session.run(None, bundle.encode([row]))[0].argmax() for row in images]
    return float(np.mean([int(row["label"]) == i for row, i in zip(images, said, strict=True)]))


def test_auto_stays_within_the_budget_and_mostly_in_int8(
    bundle: Bundle, images: list[Row], tmp_path: Path
) -> None:
    onnx = exporters.get("onnx")
    search = precision.Search(onnx, bundle, images, images[:32], None, tmp_path)
    whole = search.accuracy(Candidate("fp32"))
    plain = accuracy_of_plain_dynamic(bundle, images, tmp_path / "plain.onnx")
    assert whole - plain > 0.1

    choice, _, chosen = precision.auto(search, Budget(0.02), ladder=["fp32", "int8-static"])
    assert choice.chosen is not None and choice.chosen.drop is not None
    assert choice.chosen.drop <= 0.02
    assert chosen.manifest.precision == "int8-static" and choice.chosen.candidate.kept
    exact = onnx.inspect(chosen)
    assert exact["int8_weight_bytes"] >= exact["weight_bytes"] / 2
    costliest = {item.group for item in choice.ranking[:2]}  # around the tensor that was spread
    assert costliest == {"blocks.0.expand", "blocks.0.depthwise"}
    assert set(choice.chosen.candidate.kept) <= costliest
