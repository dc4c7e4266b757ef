"""The tokenizer inside the graph, against the Python tokenizer."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from edgekd_exporters.onnx import OnnxExporter, tokenizer
from edgekd_exporters.onnx.tokenizer_check import ORDINARY, RARE, SPECIAL
from edgekd_exporters.onnx.tokenizer_check import verify as compare
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from edgekd.bundle import Bundle
from edgekd.errors import InputError, MissingDependency, VerificationError
from edgekd.evaluate.run import predict
from edgekd.exporter import Plan, Spec, verify
from edgekd.preprocess import TextPreprocessor
from edgekd.program import Program, Shapes

IN_GRAPH = {"tokenizer": "in-graph"}
TEXTS = ["My  card\twas lost?!", "", "Überweisung: naïve café", "東京 top-up", "how long " * 30]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

if find_spec("onnxruntime_extensions") is None:
    if tokenizer.PACKAGE in os.environ.get("EDGEKD_REQUIRE", "").split():
        pytest.fail(f"EDGEKD_REQUIRE names {tokenizer.PACKAGE}, and it is not installed")
    pytest.skip("needs the extra: pip install 'edgekd[tokenizer]'", allow_module_level=True)


@pytest.fixture(scope="module")
def uncased(bert: Program) -> TextPreprocessor:
    """The fixture's vocabulary behind BERT's normalizer."""
    inner = Tokenizer.from_str(bert.preprocessor.tokenizer_json)  # type: ignore[attr-defined]
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    return TextPreprocessor(inner.to_str(), 16, ("input_ids", "attention_mask", "token_type_ids"))


@pytest.fixture(scope="module")
def text_fp32(
    exporter: OnnxExporter, bert: Program, uncased: TextPreprocessor, folder: Path
) -> Bundle:
    program = replace(bert, preprocessor=uncased)
    return exporter.lower(program, Spec(Shapes(), options=IN_GRAPH), folder / "text")


@pytest.mark.parametrize("length", [None, 12, 16])
@pytest.mark.parametrize("side", ["right", "left"])
def test_ids_are_the_python_tokenizers(
    uncased: TextPreprocessor, length: int | None, side: str
) -> None:
    compare(replace(uncased, padding_side=side), length, [{"text": t} for t in TEXTS])


def test_bundle_takes_a_text_and_says_what_it_needs(
    exporter: OnnxExporter, bert: Program, text_fp32: Bundle, bert_fp32: Bundle
) -> None:
    manifest = text_fp32.manifest
    assert [(i.name, i.dtype, i.shape) for i in manifest.inputs] == [("text", "string", (1,))]
    assert manifest.variant == "fp32-text"
    assert manifest.runtime["extensions"]["package"] == "onnxruntime-extensions"
    assert verify(exporter, text_fp32) == 0
    session = exporter.open(text_fp32)
    found = session.run({"text": np.array(["My card was lost"])})["logits"]
    expected = bert.run(bert.preprocessor.encode([{"text": "my card was lost"}]))["logits"]
    assert np.allclose(found, expected, atol=1e-5)
    assert exporter.inspect(text_fp32)["macs"] > 0


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_precisions_keep_the_tokenizer(
    exporter: OnnxExporter, text_fp32: Bundle, tmp_path: Path, precision: str
) -> None:
    rows = [{"text": text} for text in TEXTS]
    made = exporter.compress(text_fp32, Plan(precision), rows, tmp_path / "out")
    assert made.manifest.variant == f"{precision}-text"
    outputs = predict(made, rows)["logits"]
    assert np.allclose(outputs, predict(text_fp32, rows)["logits"], atol=0.5)


def test_ort_form_keeps_the_tokenizer(
    exporter: OnnxExporter, bert: Program, uncased: TextPreprocessor, tmp_path: Path
) -> None:
    program = replace(bert, preprocessor=uncased)
    spec = Spec(Shapes(1, (8,)), options={**IN_GRAPH, "format": "ort"})
    made = exporter.lower(program, spec, tmp_path / "ort")
    assert made.manifest.model_files == ("model.ort",)
    assert verify(exporter, made) < 1e-5
    assert "BertTokenizer" in (made.path / "required_operators.config").read_text()


def spelling(inner: Tokenizer, normalizer: normalizers.Normalizer) -> TextPreprocessor:
    """A tokenizer that falls back to characters, so that no difference hides behind [UNK]."""
    texts = [*ORDINARY, *(text for texts in RARE.values() for text in texts)]
    letters = sorted(set("".join(texts).lower()) - set(" \t\r\n\0"))
    pieces = [*inner.get_vocab(), *letters, *(f"##{letter}" for letter in letters)]
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    made.add_special_tokens([token for token in SPECIALS if token in ids])
    return TextPreprocessor(made.to_str(), 64, ("input_ids", "attention_mask", "token_type_ids"))


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.BertNormalizer(lowercase=True),
        normalizers.BertNormalizer(lowercase=False),
        normalizers.BertNormalizer(lowercase=True, strip_accents=False),
        normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=False),
    ],
)
def test_ordinary_writing_is_read_alike_and_what_is_not_is_named(
    uncased: TextPreprocessor, normalizer: normalizers.Normalizer
) -> None:
    found = compare(spelling(uncased.tokenizer, normalizer), None, [])
    assert {SPECIAL, "NUL and DEL characters"} <= set(found) <= {SPECIAL, *RARE}


def test_what_differs_is_in_the_bundle(exporter: OnnxExporter, text_fp32: Bundle) -> None:
    differs = text_fp32.manifest.runtime["extensions"]["differs"]
    assert "NUL and DEL characters" in differs and SPECIAL not in differs  # this one has none
    (said,) = (f for f in exporter.check(text_fp32) if f.level == "warning")
    assert "reads these otherwise than the Python one: NUL and DEL characters" in said.message


def test_a_difference_names_the_text(uncased: TextPreprocessor) -> None:
    with pytest.raises(VerificationError, match=r"differ in input_ids of 'card\\x00lost'"):
        compare(uncased, None, [{"text": "my card"}, {"text": "card\0lost"}])
    inner = Tokenizer.from_str(uncased.tokenizer_json)
    inner.normalizer = normalizers.BertNormalizer(lowercase=True, clean_text=False)
    other = spelling(uncased.tokenizer, inner.normalizer)
    with pytest.raises(VerificationError, match=r"of 'a\\x"):
        compare(other, None, [{"text": "my card"}])


def test_a_tokenizer_that_only_looks_alike_is_refused(uncased: TextPreprocessor) -> None:
    """Each agrees on "my card was lost"."""
    for change, why in (
        (dict(normalizer=None), "BERT's normalizer, BertNormalizer, and this model's has none"),
        (
            dict(
                normalizer=normalizers.Sequence(
                    [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
                )
            ),
            "BertNormalizer, and this model's has Sequence",
        ),
        (
            dict(pre_tokenizer=pre_tokenizers.WhitespaceSplit()),
            "BertPreTokenizer, and this model's has WhitespaceSplit",
        ),
    ):
        inner = Tokenizer.from_str(uncased.tokenizer_json)
        for part, value in change.items():
            setattr(inner, part, value)
        with pytest.raises(InputError, match=f"{why}; export without"):
            compare(replace(uncased, tokenizer_json=inner.to_str()), None, [])
    inner = Tokenizer.from_str(uncased.tokenizer_json)
    inner.add_tokens(["lost and"])
    with pytest.raises(InputError, match=r"added tokens \('lost and'\) before it splits"):
        compare(replace(uncased, tokenizer_json=inner.to_str()), None, [])


def test_other_tokenizers_and_shapes_are_refused(
    exporter: OnnxExporter, bert: Program, vit: Program, tmp_path: Path
) -> None:
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match="WordPiece, and this model's is WordLevel"):
        compare(TextPreprocessor(inner.to_str(), 8), None, [{"text": "a"}])
    with pytest.raises(InputError, match="for texts"):
        exporter.lower(vit, Spec(Shapes(), options=IN_GRAPH), tmp_path / "a")
    with pytest.raises(InputError, match="drop the batch"):
        exporter.lower(bert, Spec(Shapes(4), options=IN_GRAPH), tmp_path / "b")


def test_missing_library_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'edgekd\[tokenizer\]'"):
        tokenizer.library()


def test_session_imports_neither_torch_nor_onnx(text_fp32: Bundle) -> None:
    program = (
        "import sys; from edgekd.bundle import Bundle; from edgekd.exporter import get;"
        f"b = Bundle.open({str(text_fp32.path)!r}); s = get('onnx').open(b);"
        "s.run(b.encode([{'text': 'my card'}]));"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
