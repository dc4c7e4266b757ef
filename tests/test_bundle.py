"""A bundle is complete, encodes rows by its own files, and shows every change made to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.bundle import MANIFEST, Bundle, encode, sha256
from edgekd.errors import InputError

Copied = Callable[[Path], Path]


def edit(folder: Path, **values: Any) -> None:
    """Change the manifest on disk."""
    file = folder / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_everything_is_in_it(intent_bundle: Path) -> None:
    bundle = Bundle.open(intent_bundle)
    bundle.check_files()
    on_disk = {p.name for p in intent_bundle.iterdir()}
    assert on_disk == {*bundle.manifest.files, MANIFEST}
    assert bundle.manifest.labels == ("card", "money", "größe")
    assert 0 < bundle.size_bytes < bundle.bundle_bytes
    assert bundle.size_bytes == (intent_bundle / "model.onnx").stat().st_size
    rows, inputs, outputs = bundle.golden()
    for name, array in bundle.encode(rows).items():
        np.testing.assert_array_equal(array, inputs[name])
    assert outputs["logits"].shape == (len(rows), 3)


def test_rows_are_padded_as_the_shapes_ask(intent_bundle: Path) -> None:
    bundle = Bundle.open(intent_bundle)
    short, long = {"text": "card"}, {"text": "card " * 10}

    def width(lengths: list[int], *rows: dict[str, str]) -> int:
        manifest = replace(bundle.manifest, runtime={"lengths": lengths})
        return encode(manifest, bundle.preprocessor, rows)["input_ids"].shape[1]

    assert width([], short) == 3
    assert width([], short, long) == 12
    assert width([16], short) == 16
    assert width([4, 16, 32], short) == 4
    assert width([4, 16, 32], short, long) == 16
    assert width([4, 8], long) == 8  # cut to the longest that is served


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("model.onnx", lambda file: file.write_bytes(file.read_bytes()[:-100])),
        ("model.onnx", lambda file: file.unlink()),
        ("tokenizer.json", lambda file: file.write_text(file.read_text().replace("card", "carb"))),
        ("golden.npz", lambda file: file.write_bytes(b"")),
    ],
)
def test_a_changed_file_is_named(
    intent_bundle: Path, copied: Copied, name: str, harm: Callable[[Path], Any]
) -> None:
    folder = copied(intent_bundle)
    harm(folder / name)
    with pytest.raises(InputError, match=rf"{name} is (missing|not the file).*export it again"):
        Bundle.open(folder).check_files()


@pytest.mark.parametrize(
    "values",
    [
        {"labels": ["money", "card", "größe"]},
        {"tolerance": 1e9},
        {"files": {}},
        {"digest": ""},
    ],
)
def test_a_changed_manifest_is_seen(intent_bundle: Path, copied: Copied, values: dict) -> None:
    folder = copied(intent_bundle)
    edit(folder, **values)
    with pytest.raises(InputError, match=r"bundle\.json is not what was exported"):
        Bundle.open(folder).check_files()


def test_every_needed_file_has_a_checksum(intent_bundle: Path, copied: Copied) -> None:
    folder = copied(intent_bundle)
    bundle = Bundle.open(folder)
    files = {k: v for k, v in bundle.manifest.files.items() if k != "model.onnx"}
    manifest = replace(bundle.manifest, files=files)
    edit(folder, files=files, digest=manifest.seal())
    with pytest.raises(InputError, match=r"no checksum of model\.onnx"):
        Bundle.open(folder).check_files()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": "edge', "cannot be read"),
        (b"[1]", "not an object"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"schema": "edgekd.bundle/9"}', "this edgekd reads 'edgekd.bundle/1'"),
        (b'{"schema": "edgekd.bundle/1"}', "cannot be read"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match=message):
        Bundle.open(tmp_path)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="is not a bundle"):
            Bundle.open(folder)


def test_golden_samples_that_cannot_be_read(intent_bundle: Path, copied: Copied) -> None:
    folder = copied(intent_bundle)
    (folder / "golden.npz").write_bytes(b"not an archive")
    with pytest.raises(InputError, match="golden samples cannot be read"):
        Bundle.open(folder).golden()


def test_an_input_that_no_preprocessing_makes(intent_bundle: Path) -> None:
    bundle = Bundle.open(intent_bundle)
    first, *others = bundle.manifest.inputs
    manifest = replace(bundle.manifest, inputs=(replace(first, name="foo"), *others))
    with pytest.raises(InputError, match="wants the input 'foo'"):
        encode(manifest, bundle.preprocessor, [{"text": "card"}])


def test_checksums_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")
