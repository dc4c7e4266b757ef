"""The Swift files parse with a real grammar and name exactly what the package has."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekd_exporters.coreml import swift
from edgekd_exporters.coreml.package import Package

from edgekd.bundle import Bundle
from edgekd.exporter import Spec, get
from edgekd.program import Program, Shapes


def tree(file: Path) -> Any:
    parsing = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_swift")
    parser = parsing.Parser(parsing.Language(grammar.language()))
    return parser.parse(file.read_bytes()).root_node


def nodes(root: Any, kind: str) -> list[Any]:
    found, stack = [], [root]
    while stack:
        node = stack.pop()
        found += [node] if node.type == kind else []
        stack += node.children
    return found


def strings_of(root: Any, name: str) -> list[str]:
    """The string literals of ``public static let name = […]``."""
    for declaration in nodes(root, "property_declaration"):
        if declaration.text.decode().split(":")[0].endswith(f"let {name}"):
            texts = [n.text.decode() for n in nodes(declaration, "line_str_text")]
            return sorted(texts)
    raise AssertionError(f"no {name}")


def looked_up(root: Any) -> set[str]:
    """What the file asks the prediction for."""
    calls = [n.text.decode() for n in nodes(root, "call_expression")]
    return {c.split('"')[1] for c in calls if c.startswith("answer.featureValue(for:")}


def assert_matches(bundle: Bundle) -> None:
    description = Package.open(bundle.path / "model.mlpackage").spec.description
    inputs = sorted(item.name for item in description.input)
    outputs = sorted(item.name for item in description.output)
    model = tree(bundle.path / "EdgekdModel.swift")
    tests = tree(bundle.path / "EdgekdModelTests.swift")
    assert not model.has_error and not tests.has_error
    assert strings_of(model, "inputNames") == inputs
    assert strings_of(model, "outputNames") == outputs
    assert looked_up(model) == set(outputs)
    literals = {n.text.decode() for n in nodes(tests, "line_str_text")}
    assert {f"in.{name}" for name in inputs} <= literals
    assert {f"out.{item.name}" for item in bundle.manifest.outputs} <= literals


def test_a_text_classifier(lower) -> None:  # type: ignore[no-untyped-def]
    bundle = lower("fp16")
    assert_matches(bundle)
    assert strings_of(tree(bundle.path / "EdgekdModel.swift"), "labels") == sorted(
        bundle.manifest.labels
    )


def test_an_image_classifier(image_program: Program, tmp_path: Path) -> None:
    bundle = get("coreml").lower(image_program, Spec(Shapes()), tmp_path / "b")
    assert_matches(bundle)
    assert "pixelBuffer: input.pixel_values" in (bundle.path / "EdgekdModel.swift").read_text()


def test_a_compressed_bundle_has_its_own(lower, program: Program, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from edgekd.exporter import Plan

    bundle = get("coreml").compress(lower("fp16"), Plan("int8"), (), tmp_path / "b")
    assert_matches(bundle)
    assert set(swift.FILES) <= set(bundle.manifest.files)


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("plain", '"plain"'),
        ('a "b" \\(c)', '"a \\"b\\" \\\\(c)"'),
        ("tab\tnew\nline", '"tab\\tnew\\nline"'),
        ("bell\x07", '"bell\\u{7}"'),
        ("Übergröße", '"Übergröße"'),
    ],
)
def test_labels_become_swift_literals(text: str, literal: str, tmp_path: Path) -> None:
    assert swift._literal(text) == literal
    file = tmp_path / "label.swift"
    file.write_text(f"let label: String = {literal}\n", encoding="utf-8")
    assert not tree(file).has_error


@pytest.mark.parametrize(
    ("name", "identifier"), [("input.1", "input_1"), ("1st", "_1st"), ("in", "in_"), ("x", "x")]
)
def test_names_become_identifiers(name: str, identifier: str) -> None:
    assert swift.Feature(name, "array", "").identifier == identifier


def test_the_golden_file_is_what_the_swift_reader_expects(lower) -> None:  # type: ignore[no-untyped-def]
    """The Swift test reads golden.npz by hand; this is its algorithm, on the same bytes."""
    bundle = lower("fp16")
    data = (bundle.path / "golden.npz").read_bytes()
    end = len(data) - 22
    assert data[end : end + 4] == b"PK\x05\x06"
    (count,) = struct.unpack_from("<H", data, end + 10)
    (entry,) = struct.unpack_from("<I", data, end + 16)
    arrays = {}
    for _ in range(count):
        assert data[entry : entry + 4] == b"PK\x01\x02"
        method, size = (
            struct.unpack_from("<H", data, entry + 10)[0],
            struct.unpack_from("<I", data, entry + 20)[0],
        )
        assert method == 0  # not compressed
        name_length, extra, comment = struct.unpack_from("<3H", data, entry + 28)
        (start,) = struct.unpack_from("<I", data, entry + 42)
        name = data[entry + 46 : entry + 46 + name_length].decode().removesuffix(".npy")
        local_name, local_extra = struct.unpack_from("<2H", data, start + 26)
        begin = start + 30 + local_name + local_extra
        arrays[name] = data[begin : begin + size]
        entry += 46 + name_length + extra + comment
    _, inputs, outputs = bundle.golden()
    expected = {f"in.{k}": v for k, v in inputs.items()}
    expected |= {f"out.{k}": v for k, v in outputs.items()}
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        raw = arrays[name]
        assert raw[0] == 0x93 and raw[6] == 1
        header = 10 + struct.unpack_from("<H", raw, 8)[0]
        assert array.dtype in (np.float32, np.int32)
        assert raw[header:] == array.tobytes()
