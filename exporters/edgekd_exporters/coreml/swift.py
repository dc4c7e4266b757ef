"""The Swift files of a bundle: one that loads and runs the package, one that tests it.

Everything that names something is read off the package itself, so the files compile against it
and cannot drift from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd.bundle import Manifest
from edgekd.preprocess import load
from edgekd_exporters.coreml.package import Package
from edgekd_exporters.coreml.session import pixel_scale

FILES = ("EdgekdModel.swift", "EdgekdModelTests.swift")
_KEYWORDS = {"in", "is", "as", "let", "var", "func", "self", "class", "default", "init", "where"}


@dataclass(frozen=True)
class Feature:
    """One input or output of the package, as Swift says it."""

    name: str
    kind: Literal["array", "image", "label", "probabilities"]
    note: str
    datatype: str = ""

    @property
    def identifier(self) -> str:
        """The name as a Swift identifier."""
        plain = re.sub(r"\W", "_", self.name)
        plain = f"_{plain}" if plain[0].isdigit() else plain
        return f"{plain}_" if plain in _KEYWORDS else plain

    @property
    def swift(self) -> str:
        return {
            "array": "MLMultiArray",
            "image": "CVPixelBuffer",
            "label": "String",
            "probabilities": "[String: Double]",
        }[self.kind]

    @property
    def argument(self) -> str:
        """The label of ``MLFeatureValue``'s initialiser."""
        return "pixelBuffer" if self.kind == "image" else "multiArray"


def write(folder: Path, manifest: Manifest) -> None:
    """Write both files beside the package that ``folder`` holds."""
    import jinja2

    package = manifest.model_files[0]
    description = Package.open(folder / package).spec.description
    scale = pixel_scale(manifest)
    gain, shift = (
        (", ".join(f"{float(v):.9g}" for v in values.ravel()) for values in scale)
        if scale is not None
        else ("", "")
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    context = {
        "package": package,
        "task": manifest.task,
        "folder": "EdgekdBundle",
        "inputs": [feature(item) for item in description.input],
        "outputs": [feature(item) for item in description.output],
        "preparation": preparation(manifest),
        "labels": ", ".join(_literal(label) for label in manifest.labels),
        "quoted": lambda features: ", ".join(_literal(item.name) for item in features),
        # A device rounds and adds in another order than the interpreter.
        "tolerance": max(manifest.tolerance, 1e-3),
        "gain": gain,
        "shift": shift,
    }
    for name in FILES:
        text = environment.get_template(f"{name}.jinja").render(context)
        (folder / name).write_text(text, encoding="utf-8")


def preparation(manifest: Manifest) -> list[str]:
    """What the app has to do before a prediction, where no system framework does it."""
    if manifest.preprocess.get("kind") != "audio":
        return []
    heard: Any = load(manifest.preprocess, Path())
    return list(heard.explain())


def feature(item: Any) -> Feature:
    """Describe one feature of the package's specification."""
    kind = item.type.WhichOneof("Type")
    if kind == "imageType":
        image = item.type.imageType
        return Feature(item.name, "image", f"Image of {image.width} x {image.height} pixels.")
    if kind == "dictionaryType":
        return Feature(item.name, "probabilities", "Probability of each label.")
    if kind == "stringType":
        return Feature(item.name, "label", "The most probable label.")
    array = item.type.multiArrayType
    names = {65568: "float32", 65552: "float16", 65600: "double", 131104: "int32"}
    datatype = names[array.dataType]
    shape = " x ".join(map(str, array.shape)) or "a shape that depends on the input"
    return Feature(item.name, "array", f"{datatype}, {shape}.", datatype)


def _literal(text: str) -> str:
    """A Swift string literal."""
    named = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    plain = (named.get(c) or (c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text)
    return f'"{"".join(plain)}"'
