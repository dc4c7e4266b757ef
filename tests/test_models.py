"""Any Hugging Face directory loads, or says in one line why it does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekd import infer, models, tasks
from edgekd.errors import InputError, MissingDependency
from edgekd.preprocess import ImagePreprocessor

TEXT = tasks.get("text-classification")
IMAGE = tasks.get("image-classification")
Copied = Callable[[Path], Path]


def test_a_directory_with_everything_beside_the_weights(bert_dir: Path) -> None:
    loaded = models.load(str(bert_dir), TEXT)
    assert loaded.labels == ("card", "money", "größe")
    assert loaded.preprocessor.max_length == 48  # type: ignore[attr-defined]
    assert loaded.parameters == sum(p.numel() for p in loaded.model.parameters())
    assert models.detect_task(str(bert_dir)) == TEXT.name
    assert models.load(str(bert_dir), TEXT, max_length=8).preprocessor.max_length == 8  # type: ignore[attr-defined]


def test_saved_and_loaded_it_is_the_same_model(
    bert_dir: Path, vit_dir: Path, tmp_path: Path
) -> None:
    for source, task in ((bert_dir, TEXT), (vit_dir, IMAGE)):
        loaded = models.load(str(source), task)
        loaded.save(tmp_path / source.name)
        again = models.load(str(tmp_path / source.name), task)
        assert again.labels == loaded.labels
        assert again.revision == loaded.revision


def test_the_revision_is_of_weights_and_preprocessing_not_of_names(
    bert_dir: Path, copied: Copied
) -> None:
    first = models.load(str(bert_dir), TEXT)
    assert models.load(str(copied(bert_dir)), TEXT).revision == first.revision
    assert models.load(str(bert_dir), TEXT, max_length=8).revision != first.revision
    with torch.no_grad():
        next(first.model.parameters()).mul_(1.001)
    assert models.revision_of(first.model, first.preprocessor) != first.revision


def test_a_base_model_gets_a_fresh_head(bert_dir: Path, copied: Copied) -> None:
    folder = copied(bert_dir)
    weights = load_file(folder / "model.safetensors")
    body = {k: v for k, v in weights.items() if not k.startswith("classifier")}
    save_file(body, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"no trained weights for classifier.*give it as 'base:'"):
        models.load(str(folder), TEXT)
    assert models.load(str(folder), TEXT, labels=["x", "y"]).labels == ("x", "y")


def change(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def disguised(folder: Path) -> None:
    torch.save({"weight": torch.ones(2)}, folder / "model.safetensors")


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


REMOTE = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json cannot be used"),
        (lambda f: change(f, "config.json", model_type="foo"), "foo"),
        (lambda f: change(f, "config.json", hidden_size="wide"), "hidden_size"),
        (lambda f: change(f, "config.json", auto_map=REMOTE), "never runs remote code"),
        (
            lambda f: change(f, "config.json", auto_map=REMOTE, model_type="foo"),
            "never runs remote code",
        ),
        (
            lambda f: change(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]}),
            "never runs remote code",
        ),
        (pickled, r"pytorch_model\.bin is a pickle"),
        (disguised, "cut off or not safetensors"),
        (truncated, "cut off or not safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "cut off or not safetensors"),
        (lambda f: (f / "model.safetensors").unlink(), "the weights are missing"),
        (lambda f: change(f, "config.json", hidden_size=32), r"do not fit its config\.json"),
        (without_tokenizer, "no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "no usable tokenizer"),
    ],
)
def test_what_is_wrong_with_a_directory(
    bert_dir: Path, copied: Copied, harm: Callable[[Path], Any], message: str
) -> None:
    folder = copied(bert_dir)
    harm(folder)
    with pytest.raises(InputError, match=message) as error:
        models.load(str(folder), TEXT)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[]", '{"size": "large"}', "{", "{}"])
def test_an_odd_image_processor(vit_dir: Path, copied: Copied, content: str) -> None:
    folder = copied(vit_dir)
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match="preprocessor_config"):
        models.load(str(folder), IMAGE)


def test_sources_that_are_not_there(bert_dir: Path) -> None:
    for source in ("/no/such/model", "./model", "a/b/c"):
        with pytest.raises(InputError, match="does not exist"):
            models.load(source, TEXT)
    with pytest.raises(MissingDependency, match="check the id and the network"):
        models.load("nobody/no-such-model", TEXT)
    with pytest.raises(InputError, match="a bert model, which has no head for image-class"):
        models.load(str(bert_dir), IMAGE)


def test_a_model_from_its_config() -> None:
    encoder = ImagePreprocessor(8, 8, 1, (0.5,), (0.5,))
    values = {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "patch_size": 4,
    }
    made = models.from_config(values, IMAGE, encoder, ["a", "b"], seed=1)
    again = models.from_config(values, IMAGE, encoder, ["a", "b"], seed=1)
    other = models.from_config(values, IMAGE, encoder, ["a", "b"], seed=2)
    assert made.revision == again.revision != other.revision
    assert made.labels == ("a", "b")
    for odd, message in (
        ({"model_type": "vitt"}, "unknown model_type 'vitt'"),
        ({"model_type": "vit", "hiden_size": 3}, r"'hiden_size' \(did you mean 'hidden_size'"),
        ({**values, "hidden_size": "wide"}, "cannot be built"),
        ({**values, "num_attention_heads": 32}, "cannot be built"),
        ({"model_type": "bert"}, "cannot be built for image-classification"),
    ):
        with pytest.raises(InputError, match=message):
            models.from_config(odd, IMAGE, encoder, ["a"], seed=0)


def test_example_rows_can_be_encoded(bert_dir: Path, vit_dir: Path) -> None:
    for source, task in ((bert_dir, TEXT), (vit_dir, IMAGE)):
        loaded = models.load(str(source), task)
        rows = models.example_rows(task, loaded.preprocessor)
        arrays = loaded.preprocessor.encode(rows)
        assert all(len(array) == len(rows) and np.ptp(array) > 0 for array in arrays.values())


@pytest.mark.assets
def test_a_real_teacher_is_read_as_it_is(assets: Path) -> None:
    loaded = models.load(str(assets / "models" / "banking77-minilm-l6"), TEXT)
    assert len(loaded.labels) == 77


def test_what_is_answered_per_place_is_padded_on_the_right(bert_dir: Path, tmp_path: Path) -> None:
    """XLNet's and Llama's tokenizers pad on the left; a word's place is counted from the right."""
    from transformers import BertConfig, BertForTokenClassification

    folder = tmp_path / "tagger"
    shutil.copytree(bert_dir, folder)
    config = BertConfig.from_pretrained(bert_dir, id2label={0: "O", 1: "B-x", 2: "I-x"})
    torch.manual_seed(0)
    BertForTokenClassification(config).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": "left"}))
    task = tasks.get("token-classification")
    loaded = models.load(str(folder), task)
    rows = [{"tokens": words.split()} for words in ("the card is not my card", "money")]
    together = infer.predict(loaded, rows, task, "test")
    alone = infer.predict(loaded, rows[1:], task, "test")
    np.testing.assert_allclose(together["logits"][1, :1], alone["logits"][0], atol=1e-5)
    loaded.preprocessor.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["padding_side"] == "right"
    whole = models.load(str(folder), tasks.get("feature-extraction"))
    assert whole.preprocessor.padding_side == "left"  # one answer a row: as the model learned it
