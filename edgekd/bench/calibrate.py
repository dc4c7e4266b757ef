"""Calibration models: the same small graphs on this machine and on the device.

Their weights are random, because only their speed is asked for. Two of the CNNs stand in the
published table, so that a calibrated host can also be held against hardware that nobody here
owns.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import __version__, tasks
from edgekd import exporter as exporters
from edgekd.bench import environment
from edgekd.bench.gate import Arm, measure_pair
from edgekd.bench.measure import HERE, measure
from edgekd.bench.projection import Calibration
from edgekd.bench.sequential import Plan
from edgekd.bench.transport import Transport
from edgekd.bench.worker import write_feeds
from edgekd.bundle import Bundle
from edgekd.errors import InputError
from edgekd.preprocess import ImagePreprocessor, Row, TextPreprocessor
from edgekd.profiles import Profile

if TYPE_CHECKING:
    from edgekd.program import Program

TOKENS = 32  # of the transformers' sentences


def calibrate(
    profile: Profile,
    names: Sequence[str] | None = None,
    *,
    transport: Transport = HERE,
    rounds: int = 3,
    progress: Callable[[str], None] = lambda name: None,
) -> Calibration:
    """Measure the calibration models under ``profile``, here or behind ``transport``.

    Behind a transport the same models run here in turn, so that both feel the same load.

    Raises :class:`InputError` for hardware that is elsewhere without a transport to it.
    """
    from edgekd.exporter import Spec
    from edgekd.program import Shapes

    if profile.where == "elsewhere" and not transport.remote:
        raise InputError(
            f"{profile.name} is not this machine; calibrate it with --on ssh:user@machine or"
            " --on adb"
        )
    exporter = exporters.get(profile.target)
    there: dict[str, float] = {}
    here: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="edgekd-calibrate-") as folder:
        for name in names or MODELS:
            progress(name)
            program = _program(name)
            path = Path(folder) / name.replace("/", "-")
            bundle = exporter.lower(program, Spec(Shapes()), path)
            if transport.remote:
                there[name], here[name] = in_turn(bundle, program.rows, profile, transport, rounds)
            else:
                found = measure(bundle.path, profile, program.rows, rounds=rounds, memory=False)
                if not found.rounds:
                    raise InputError(f"there is no {profile.target} runtime here to calibrate")
                there[name] = here[name] = found.undisturbed
    return Calibration(
        where=profile.name,
        threads=profile.runtime.threads,
        models=there,
        host=here,
        precision="fp32",
        environment=environment.describe(),
        source=f"measured on {profile.name} by edgekd {__version__}",
    )


def in_turn(
    bundle: Bundle, rows: Sequence[Row], profile: Profile, transport: Transport, rounds: int
) -> tuple[float, float]:
    """p50 in ms there and here, by pairs of processes that take turns as the gate's do.

    The ratio is the pairs' median ratio, so that what slows this machine for a while does not
    pass for a property of the device.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-calibrate-") as folder:
        feeds = Path(folder) / "feeds.npz"
        write_feeds(feeds, [bundle.encode([row]) for row in rows])
        arms = {
            "baseline": Arm(bundle, feeds, profile, HERE),
            "candidate": Arm(bundle, feeds, profile, transport),
        }
        pace: list[int] = []
        pairs = [measure_pair(arms, index, Plan(), pace) for index in range(rounds)]
    host = min(pair.raw["baseline"]["p50"] for pair in pairs)
    ratio = math.exp(float(np.median([pair.log_ratio["p50"] for pair in pairs])))
    return host * ratio, host


def _mobilenet_v2() -> Program:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return image_program(MobileNetV2ForImageClassification, MobileNetV2Config())


def _resnet(depths: list[int], layer: str, sizes: list[int]) -> Program:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(depths=depths, layer_type=layer, hidden_sizes=sizes)
    return image_program(ResNetForImageClassification, config)


def bert_program(layers: int, width: int) -> Program:
    """A BERT of that shape with random weights, and sentences of 32 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification

    from edgekd.wrap import wrap

    words = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(998))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    preprocessor = TextPreprocessor(tokenizer.to_str(), max_length=TOKENS)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
    )
    picks = np.random.default_rng(0).integers(2, len(words), (8, TOKENS))
    rows: list[Row] = [{"text": " ".join(words[i] for i in pick)} for pick in picks]
    task = tasks.get("text-classification")
    return wrap(BertForSequenceClassification(config), task, preprocessor, ["a", "b"], rows)


def image_program(kind: Callable[[Any], Any], config: Any) -> Program:
    """An image classifier with random weights, and noise of 224 x 224."""
    from edgekd.wrap import wrap

    generator = np.random.default_rng(0)
    rows: list[Row] = [
        {"image": generator.integers(0, 256, (224, 224, 3), np.uint8)} for _ in range(8)
    ]
    config.num_labels = 1000  # as in ImageNet, on which the published figures were taken
    labels = [str(i) for i in range(config.num_labels)]
    task = tasks.get("image-classification")
    return wrap(kind(config), task, ImagePreprocessor(224, 224), labels, rows)


def _program(name: str) -> Program:
    import torch

    torch.manual_seed(0)
    return MODELS[name]()


MODELS: Mapping[str, Callable[[], Program]] = {
    "cnn/mobilenet_v2": _mobilenet_v2,
    "cnn/resnet18": lambda: _resnet([2, 2, 2, 2], "basic", [64, 128, 256, 512]),
    "cnn/resnet50": lambda: _resnet([3, 4, 6, 3], "bottleneck", [256, 512, 1024, 2048]),
    "transformer/bert-2x128": lambda: bert_program(2, 128),
    "transformer/bert-4x256": lambda: bert_program(4, 256),
    "transformer/bert-6x384": lambda: bert_program(6, 384),
}
