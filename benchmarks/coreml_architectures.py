"""Twelve architectures through the Core ML exporter and the reference interpreter.

Each model is small, seeded and random. Where it classifies, the inputs are of eight kinds
(topics, patterns, tones, all under noise) and the head is a least-squares classifier of them on
the model's own features, so that the answers spread over the classes. Every model is exported
in fp32 and fp16, run on 200 inputs (texts of many lengths, padded) and compared with torch:
max|a-b| / max|a|, and for classifiers the share of equal answers.

    python benchmarks/coreml_architectures.py [--only bert,vit] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import nn

from edgekd import tasks
from edgekd.audio import AudioPreprocessor
from edgekd.exporter import Runtime, Spec, get, relative_error
from edgekd.preprocess import ImagePreprocessor, Row, TextPreprocessor
from edgekd.program import Program, Shapes
from edgekd.wrap import wrap

COUNT = 200
CLASSES = 8
WORDS = 96
LENGTH = 24
RATE, SAMPLES = 8000, 2000
LIMITS = {"fp32": 1e-4, "fp16": 2e-2}
TEXT: dict[str, Any] = {
    "vocab_size": WORDS + 4,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "num_labels": CLASSES,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
    "initializer_range": 0.1,
}


def tokenizer() -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(WORDS))]
    table = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made.to_str()


def kinds() -> np.ndarray:
    """The kind of each input, in order: what the heads are calibrated to tell apart."""
    return np.arange(COUNT) % CLASSES


def text_rows(generator: np.random.Generator) -> list[Row]:
    """Texts of 1 to 21 words, two in three of them from the words of their kind."""
    own = WORDS // CLASSES
    rows = []
    for kind in kinds():
        count = generator.integers(1, LENGTH - 2)
        words = generator.integers(0, WORDS, count)
        topic = kind * own + generator.integers(0, own, count)
        words = np.where(generator.random(count) < 2 / 3, topic, words)
        rows.append({"text": " ".join(f"w{i}" for i in words)})
    return rows


def image_rows(generator: np.random.Generator, size: int) -> list[Row]:
    """A coarse pattern per kind, under as much noise of the same grain."""
    patterns = generator.integers(0, 256, (CLASSES, 4, 4, 3))
    noise = generator.integers(0, 256, (COUNT, 4, 4, 3))
    coarse = ((patterns[kinds()] + noise) // 2).astype(np.uint8)
    block = np.ones((size // 4, size // 4, 1), np.uint8)
    return [{"image": np.kron(picture, block)} for picture in coarse]


def audio_rows(generator: np.random.Generator) -> list[Row]:
    """A tone per kind, with two others at random and noise; some shorter than is read."""
    seconds = np.arange(SAMPLES) / RATE
    rows = []
    for kind in kinds():
        tones = np.array([200 + 200 * kind, *generator.uniform(100, 2000, 2)])
        loudness = np.array([1.0, 0.4, 0.4])[:, None]
        wave = (loudness * np.sin(2 * np.pi * tones[:, None] * seconds)).sum(0)
        wave += generator.normal(0, 0.2, SAMPLES)
        sound = wave[: generator.integers(SAMPLES // 2, SAMPLES + 1)] / 4
        rows.append({"audio": sound.astype(np.float32), "sampling_rate": RATE})
    return rows


def calibrate(head: nn.Linear, run: Callable[[], Any]) -> None:
    """Fit ``head`` to the kinds by ridge regression on the features it sees while ``run`` runs."""
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, args, __: seen.append(args[0].detach()))
    with torch.inference_mode():
        run()
    hook.remove()
    features = torch.cat(seen).reshape(-1, head.in_features).double()
    centre = features.mean(0)
    centred = features - centre
    targets = nn.functional.one_hot(torch.from_numpy(kinds()), head.out_features).double()
    gram = centred.T @ centred
    ridge = 0.01 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram + ridge, centred.T @ (8 * targets - 1)).T
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(-weight @ centre)


def classifier(
    model: Any, head: nn.Linear, preprocessor: Any, rows: list[Row], task: str
) -> Program:
    labels = [f"class {i}" for i in range(CLASSES)]
    program = wrap(model.eval(), tasks.get(task), preprocessor, labels, rows[:8])
    arrays = preprocessor.encode(rows, LENGTH)
    calibrate(head, lambda: program.run(arrays))
    return program


def text_model(
    config: Any, head: str
) -> Callable[[np.random.Generator], tuple[Program, list[Row]]]:
    def build(generator: np.random.Generator) -> tuple[Program, list[Row]]:
        model = hf.AutoModelForSequenceClassification.from_config(config).eval()
        rows = text_rows(generator)
        preprocessor = TextPreprocessor(tokenizer_json=tokenizer(), max_length=LENGTH)
        linear = model.get_submodule(head)
        return classifier(model, linear, preprocessor, rows, "text-classification"), rows

    return build


def image_model(
    config: Any, head: str, size: int = 32
) -> Callable[[np.random.Generator], tuple[Program, list[Row]]]:
    def build(generator: np.random.Generator) -> tuple[Program, list[Row]]:
        model = hf.AutoModelForImageClassification.from_config(config).eval()
        rows = image_rows(generator, size)
        preprocessor = ImagePreprocessor(
            size, size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )
        train_briefly(model, preprocessor.encode(rows)[preprocessor.inputs[0]])
        linear = model.get_submodule(head)
        return classifier(model, linear, preprocessor, rows, "image-classification"), rows

    return build


def train_briefly(model: nn.Module, pixels: np.ndarray, steps: int = 40) -> None:
    """A few seeded steps of training for networks with batch norm, then settle its statistics.

    Untrained, fifty such layers in a row amplify any rounding of their input 200-fold; a few
    steps bring that down to what networks that ship have.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return
    images, targets = torch.from_numpy(pixels), torch.from_numpy(kinds())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for _ in range(steps):
        chosen = torch.randperm(COUNT)[:50]
        loss = nn.functional.cross_entropy(model(images[chosen]).logits, targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what it sees
    with torch.no_grad():
        model(images)
    model.eval()


def sentence_embedding(generator: np.random.Generator) -> tuple[Program, list[Row]]:
    """Mean of the real tokens, brought to length 1 inside the package."""
    rows = text_rows(generator)
    preprocessor = TextPreprocessor(tokenizer_json=tokenizer(), max_length=LENGTH)
    model = hf.BertModel(hf.BertConfig(**TEXT), add_pooling_layer=False)
    task = tasks.get("feature-extraction")
    return wrap(model, task, preprocessor, (), rows[:8]), rows


def decoder(generator: np.random.Generator) -> tuple[Program, list[Row]]:
    """Next-token logits at every position, without a cache."""
    rows = text_rows(generator)
    preprocessor = TextPreprocessor(tokenizer_json=tokenizer(), max_length=LENGTH)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**{**TEXT, "num_key_value_heads": 2}))
    return wrap(model, tasks.get("text-generation"), preprocessor, (), rows[:8]), rows


def wav2vec2(generator: np.random.Generator) -> tuple[Program, list[Row]]:
    config = hf.Wav2Vec2Config(
        **{**TEXT, "initializer_range": 0.02},
        conv_dim=(32, 32, 32),
        conv_stride=(5, 4, 4),
        conv_kernel=(10, 8, 4),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=32,
    )
    model = hf.Wav2Vec2ForSequenceClassification(config).eval()
    rows = audio_rows(generator)
    preprocessor = AudioPreprocessor(RATE, SAMPLES)
    return classifier(model, model.classifier, preprocessor, rows, "audio-classification"), rows


MODELS: dict[str, Callable[[np.random.Generator], tuple[Program, list[Row]]]] = {
    "BERT": text_model(hf.BertConfig(**TEXT), "classifier"),
    "DistilBERT": text_model(
        hf.DistilBertConfig(**{**TEXT, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}),
        "classifier",
    ),
    "MobileBERT": text_model(
        hf.MobileBertConfig(
            **TEXT, embedding_size=32, intra_bottleneck_size=32, num_feedforward_networks=2
        ),
        "classifier",
    ),
    "ModernBERT": text_model(
        hf.ModernBertConfig(**TEXT, global_attn_every_n_layers=2, local_attention=8), "classifier"
    ),
    "RoBERTa": text_model(hf.RobertaConfig(**{**TEXT, "pad_token_id": 0}), "classifier.out_proj"),
    "sentence embedding": sentence_embedding,
    "ViT": image_model(
        hf.ViTConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=32,
            patch_size=8,
            num_labels=CLASSES,
            initializer_range=0.1,
        ),
        "classifier",
    ),
    "MobileViT": image_model(
        hf.MobileViTConfig(
            hidden_sizes=[32, 48, 64],
            neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 96],
            num_attention_heads=4,
            image_size=64,
            num_labels=CLASSES,
            initializer_range=0.3,
        ),
        "classifier",
        64,
    ),
    "MobileNetV2": image_model(
        hf.MobileNetV2Config(depth_multiplier=0.35, image_size=64, num_labels=CLASSES),
        "classifier",
        64,
    ),
    "ResNet": image_model(
        hf.ResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 32, 64],
            depths=[1, 1, 1],
            layer_type="basic",
            num_labels=CLASSES,
        ),
        "classifier.1",
    ),
    "Wav2Vec2": wav2vec2,
    "Llama-like decoder": decoder,
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Export one architecture twice; return its line of the table."""
    torch.manual_seed(0)
    program, rows = MODELS[name](np.random.default_rng(0))
    arrays = program.preprocessor.encode(rows, LENGTH)
    expected = program.run(arrays)
    output = program.outputs[0].name
    line: dict[str, Any] = {"architecture": name, "inputs": len(rows)}
    classes = expected[output].argmax(-1) if program.labels else None
    if classes is not None:
        share = np.bincount(classes, minlength=CLASSES) / len(classes)
        line["classes_above_5_percent"] = int((share >= 0.05).sum())
    exporter = get("coreml")
    for compute in ("fp32", "fp16"):
        begin = time.perf_counter()
        spec = Spec(Shapes(lengths=(LENGTH,)), compute=compute)  # type: ignore[arg-type]
        bundle = exporter.lower(program, spec, folder / f"{name}-{compute}")
        line[f"{compute}_export_s"] = time.perf_counter() - begin
        session = exporter.open(bundle, Runtime(options={"reference": True}))
        got = np.concatenate(
            [
                session.run({k: v[i : i + 1] for k, v in arrays.items()})[output]
                for i in range(len(rows))
            ]
        )
        line[f"{compute}_error"] = relative_error(got, expected[output])
        if classes is not None:
            line[f"{compute}_same_top1"] = float((got.argmax(-1) == classes).mean())
    line["passed"] = passed(line)
    return line


def passed(line: dict[str, Any]) -> bool:
    close = all(line[f"{c}_error"] <= limit for c, limit in LIMITS.items())
    if "classes_above_5_percent" not in line:
        return close
    same = min(line["fp32_same_top1"], line["fp16_same_top1"])
    return close and same >= 0.99 and line["classes_above_5_percent"] >= 5


def table(lines: list[dict[str, Any]]) -> str:
    head = (
        "| architecture | classes on ≥ 5 % | fp32 error | fp16 error | top-1 same, fp32 / fp16 | |"
    )
    text = [head, "|---|---|---|---|---|---|"]
    for line in lines:
        same = "–"
        if "fp32_same_top1" in line:
            same = f"{line['fp32_same_top1']:.1%} / {line['fp16_same_top1']:.1%}"
        text.append(
            f"| {line['architecture']} | {line.get('classes_above_5_percent', '–')}"
            f" | {line['fp32_error']:.1e} | {line['fp16_error']:.1e} | {same}"
            f" | {'passed' if line['passed'] else 'FAILED'} |"
        )
    return "\n".join(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="comma-separated architectures")
    parser.add_argument("--out", type=Path, help="folder for coreml_architectures.md and .json")
    arguments = parser.parse_args()
    names = [n for n in MODELS if not arguments.only or n in arguments.only.split(",")]
    hf.logging.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lines = [measure(name, Path(folder)) for name in names]
    text = table(lines)
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "coreml_architectures.md").write_text(text + "\n", encoding="utf-8")
        (arguments.out / "coreml_architectures.json").write_text(json.dumps(lines, indent=2) + "\n")
    return 0 if all(line["passed"] for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
