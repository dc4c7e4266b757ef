"""A narrower student: nothing changes at full size, and it starts ahead of a random one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekd import models, tasks
from edgekd.audio import AST, AudioPreprocessor
from edgekd.distill.student import build, narrow
from edgekd.distill.student.anatomy import Sizes, dissect, resized, wanted_sizes
from edgekd.distill.student.narrow import fold
from edgekd.errors import InputError
from edgekd.models import LoadedModel
from edgekd.sections import Student

TEXT, IMAGE = tasks.get("text-classification"), tasks.get("image-classification")
SOUND = tasks.get("audio-classification")
BANK = AudioPreprocessor(8000, 20, features="fbank", mels=24, mean=-5.0, std=4.0)
TINY: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 36,
    "max_position_embeddings": 48,
    "num_labels": 3,
    "initializer_range": 0.2,
}
DISTIL = {"dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 36, "vocab_size": 60}
SIGHT = {"image_size": 8, "patch_size": 4, "num_channels": 1, **TINY}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": TINY,
    "roberta": {**TINY, "pad_token_id": 1},
    "electra": {**TINY, "embedding_size": 24},
    "electra-projected": {**TINY, "embedding_size": 16},
    "distilbert": {**DISTIL, "max_position_embeddings": 48, "num_labels": 3},
    "vit": {k: v for k, v in SIGHT.items() if k not in ("vocab_size", "max_position_embeddings")},
    "deit": {k: v for k, v in SIGHT.items() if k not in ("vocab_size", "max_position_embeddings")},
    AST: {
        **{k: v for k, v in TINY.items() if k not in ("vocab_size", "max_position_embeddings")},
        **{"max_length": 20, "num_mel_bins": 24, "patch_size": 8},
        **{"frequency_stride": 8, "time_stride": 4},
    },
}


def network(family: str) -> Any:
    config = transformers.AutoConfig.for_model(
        family.removesuffix("-projected"), **FAMILIES[family]
    )
    head = TEXT if "vocab_size" in FAMILIES[family] else SOUND if family == AST else IMAGE
    config.architectures = []  # transformers 5.23 iterates over it
    torch.manual_seed(0)
    return getattr(transformers, head.auto_class).from_config(config).eval()


@pytest.fixture
def loaded(bert_dir: Path, vit_dir: Path) -> Callable[[str], tuple[LoadedModel, list[Any]]]:
    """``loaded(family)`` is a tiny random model of that family with rows that it reads."""

    def make(family: str) -> tuple[LoadedModel, list[Any]]:
        model = network(family)
        if family == AST:
            names = tuple(str(i) for i in range(3))
            return LoadedModel(model, BANK, names, family, ""), models.example_rows(SOUND, BANK)
        text = "vocab_size" in FAMILIES[family]
        source, task = (bert_dir, TEXT) if text else (vit_dir, IMAGE)
        teacher = models.load(str(source), task)
        preprocessor = teacher.preprocessor
        if text:
            size = teacher.preprocessor.tokenizer.get_vocab_size()  # type: ignore[attr-defined]
            model.resize_token_embeddings(size, mean_resizing=False)
            preprocessor = replace(preprocessor, max_length=40)  # type: ignore[type-var]
        names = tuple(str(i) for i in range(model.config.num_labels))
        rows = models.example_rows(task, preprocessor)
        return LoadedModel(model, preprocessor, names, family, ""), rows

    return make


def random_like(model: LoadedModel, seed: int) -> LoadedModel:
    """A model of the same shape with fresh weights."""
    torch.manual_seed(seed)
    network: Any = model.model
    return replace(model, model=type(network)(network.config).eval())


def logits(model: LoadedModel, rows: list[Any]) -> np.ndarray:
    feeds = {k: torch.from_numpy(v) for k, v in model.preprocessor.encode(rows).items()}
    with torch.inference_mode():
        return np.asarray(model.model(**feeds).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_exact_and_the_narrow_model_runs(
    family: str, loaded: Callable[..., Any]
) -> None:
    model, rows = loaded(family)
    anatomy = dissect(model.model)
    assert anatomy.count(2, anatomy.sizes).total == model.parameters
    wanted = wanted_sizes(anatomy.sizes, hidden_size=12, intermediate_size=10)
    small = narrow(model, wanted, rows)
    assert small.parameters == anatomy.count(2, wanted).total
    assert small.model.config.num_attention_heads == 2  # type: ignore[union-attr]
    assert np.isfinite(logits(small, rows)).all()
    assert small.revision == narrow(model, wanted, rows).revision  # the control starts there too


@pytest.mark.parametrize("family", FAMILIES)
def test_what_nothing_depends_on_is_dropped_without_a_trace(
    family: str, loaded: Callable[..., Any]
) -> None:
    """A neuron that another one repeats can go: what reads it reads the other one twice."""
    model, rows = loaded(family)
    anatomy = dissect(model.model)
    half = anatomy.sizes.intermediate // 2
    for name, weight in model.model.named_parameters():
        for axis, kind in enumerate(anatomy.axes[name]):
            if kind == "intermediate" and not (weight.dim() == 2 and axis == 1):
                weight.data[half:] = weight.data[:half]
    before = logits(model, rows)
    small = narrow(model, replace(anatomy.sizes, intermediate=half), rows * 8)
    spread = float(np.std(before))
    np.testing.assert_allclose(logits(small, rows), before, atol=0.02 * spread)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_a_model_is_the_model(family: str, loaded: Callable[..., Any]) -> None:
    """Through the whole of the reduction: one neuron is added that says nothing, and dropped."""
    model, rows = loaded(family)
    own = dissect(model.model).sizes
    wider: Any = random_like(model, 1).model
    wider = type(wider)(resized(wider.config, intermediate=own.intermediate + 1)).eval()
    for name, weight in wider.state_dict().items():
        theirs = model.model.state_dict()[name]
        weight.zero_()
        weight[tuple(slice(length) for length in theirs.shape)] = theirs
    same = narrow(replace(model, model=wider), own, rows)
    np.testing.assert_allclose(logits(same, rows), logits(model, rows), rtol=1e-4, atol=1e-5)


def test_at_full_size_nothing_changes(bert_dir: Path) -> None:
    teacher = models.load(str(bert_dir), TEXT)
    rows = models.example_rows(TEXT, teacher.preprocessor)
    own = dissect(teacher.model).sizes
    spec = Student(hidden_size=own.hidden, heads=own.heads, intermediate_size=own.intermediate)
    same = build(spec, teacher, TEXT, rows, 48, 0)
    np.testing.assert_allclose(logits(same, rows), logits(teacher, rows), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 8), st.integers(0, 5), st.booleans(), st.integers(0, 10**6))
def test_folding_is_exact_where_the_rest_follows(
    stay: int, gone: int, biased: bool, seed: int
) -> None:
    """Inputs that are affine in those that stay are dropped exactly (linear, without a bias)."""
    random = torch.Generator().manual_seed(seed)
    kept = torch.randn(400, stay, generator=random)
    rest = kept @ torch.randn(stay, gone, generator=random) + (0.7 if biased else 0.0)
    inputs = torch.cat([kept, rest], 1)
    weight = torch.randn(3, stay + gone, generator=random)
    bias = torch.randn(3, generator=random) if biased else None
    extended = torch.cat([inputs, torch.ones(400, 1)], 1).double()
    folded, shift = fold(weight, bias, extended.T @ extended, torch.arange(stay))
    expected = nn.functional.linear(inputs, weight, bias)
    found = nn.functional.linear(kept, folded, shift)
    assert float((found - expected).abs().max()) <= 0.02 * float(expected.abs().max())
    if not gone:
        assert torch.equal(folded, weight)


def test_it_starts_ahead_of_a_random_student_of_its_shape(bert_dir: Path, intents: Any) -> None:
    teacher = models.load(str(bert_dir), TEXT)
    spec = Student(hidden_size=8, intermediate_size=16)
    reduced = build(spec, teacher, TEXT, intents.train_rows, 48, 0)
    test = intents.test_rows
    truth = np.array([teacher.labels.index(row["label"]) for row in test])

    def right(model: LoadedModel) -> float:
        return float((logits(model, test).argmax(1) == truth).mean())

    found = [right(random_like(reduced, seed)) for seed in range(5)]
    assert right(reduced) > max(found) and right(reduced) > 0.5  # chance is a third


def test_a_digits_teacher_half_as_wide_still_knows_the_digits() -> None:
    from edgekd import data
    from edgekd.preprocess import ImagePreprocessor

    rows = data.read_rows("builtin:digits/train", IMAGE, {}, labelled=True)[:400]
    test = data.read_rows("builtin:digits/test", IMAGE, {}, labelled=True)[:200]
    labels = [str(i) for i in range(10)]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "vit", "patch_size": 4, "intermediate_size": 64, **shape}
    encoder = ImagePreprocessor(8, 8, 1, mean=(0.5,), std=(0.5,))
    teacher = models.from_config(config, IMAGE, encoder, labels, 0)
    pixels = torch.from_numpy(teacher.preprocessor.encode(rows)["pixel_values"])
    truth = torch.tensor([int(row["label"]) for row in rows])
    optimizer = torch.optim.Adam(teacher.model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = nn.functional.cross_entropy(teacher.model(pixel_values=pixels).logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def right(model: LoadedModel) -> float:
        return float(np.mean(logits(model, test).argmax(1) == [int(r["label"]) for r in test]))

    reduced = build(Student(hidden_size=24), teacher, IMAGE, rows, 0, 0)
    assert right(teacher) > 0.8
    assert right(reduced) > right(random_like(reduced, 0)) + 0.2


OWN = Sizes(hidden=24, heads=4, intermediate=36)


def test_heads_and_width_go_together() -> None:
    assert wanted_sizes(OWN, heads=3) == Sizes(18, 3, 36)
    assert wanted_sizes(OWN, hidden_size=12) == Sizes(12, 2, 36)
    assert wanted_sizes(OWN, hidden_size=12, heads=2, intermediate_size=8) == Sizes(12, 2, 8)
    tied = Sizes(24, 4, 36, embedding=24)
    assert wanted_sizes(tied, hidden_size=12).embedding == 12
    assert wanted_sizes(tied, hidden_size=12, embedding_size=8).embedding == 8


@pytest.mark.parametrize(
    ("own", "asked", "said"),
    [
        (OWN, {"hidden_size": 14}, "heads are 6 wide .* give hidden_size: 12, which has 2 heads"),
        (OWN, {"hidden_size": 12, "heads": 4}, "12 with 4 heads"),
        (OWN, {"hidden_size": 30}, "hidden_size 30 is more than the teacher's 24"),
        (OWN, {"intermediate_size": 99}, "intermediate_size 99 is more than the teacher's 36"),
        (OWN, {"embedding_size": 8}, "this family embeds at its hidden size"),
        (replace(OWN, embedding=12), {"hidden_size": 12}, "has no projection between them"),
    ],
)
def test_sizes_that_cannot_be(own: Sizes, asked: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        wanted_sizes(own, **asked)


def test_another_family_is_told_what_to_use() -> None:
    model = transformers.AlbertModel(transformers.AlbertConfig(**{**TINY, "embedding_size": 12}))
    with pytest.raises(InputError, match=r"width of a albert model .* as model: or config:"):
        dissect(model)


def test_a_language_model_is_narrowed_with_its_tied_last_layer(bert_dir: Path) -> None:
    task = tasks.get("fill-mask")
    teacher = models.load(str(bert_dir), task, labels=())  # with a fresh last layer
    rows = [{"text": "where is my card please"}, {"text": "how long does the money take"}]
    spec = Student(layers=[0], hidden_size=8, intermediate_size=16)
    student = build(spec, teacher, task, rows, 32, seed=0)
    network: Any = student.model
    table = network.get_input_embeddings().weight
    assert table.shape == (teacher.model.config.vocab_size, 8)  # type: ignore[union-attr]
    assert network.get_output_embeddings().weight.data_ptr() == table.data_ptr()
    original: Any = teacher.model
    channels = original.get_input_embeddings().weight.T.tolist()
    assert all(column in channels for column in table.T.tolist())  # the kept ones, as they were
    encoded = student.preprocessor.encode(rows)
    feeds = {name: torch.from_numpy(array) for name, array in encoded.items()}
    with torch.inference_mode():
        assert network(**feeds).logits.isfinite().all()
