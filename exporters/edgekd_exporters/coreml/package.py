"""Read an ``.mlpackage``: its specification, its MIL program, its weights.

Every way in which a package can be unreadable ends in one line that says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import InputError
from edgekd_exporters.coreml.quiet import coremltools, quiet

# Core ML specification version -> the OS that brought it.
SYSTEMS = {6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18", 10: "iOS26"}


@dataclass(frozen=True)
class Package:
    """A readable ML Program package."""

    path: Path
    spec: Any  # coremltools.proto.Model_pb2.Model

    @classmethod
    def open(cls, path: Path) -> Package:
        """Read the specification; raise :class:`InputError` where it is not an ML Program."""
        ct = coremltools()
        if path.suffix == ".mlmodelc":
            raise InputError(
                f"{path} is a compiled model, which only Core ML reads; give the .mlpackage that it"
                " was compiled from"
            )
        if not path.is_dir() and not (path.suffix == ".mlmodel" and path.is_file()):
            raise InputError(f"{path} is not a Core ML package (a folder ending in .mlpackage)")
        try:
            with quiet():
                spec = ct.models.utils.load_spec(str(path))
        except Exception as error:  # protobuf's, json's and coremltools' own, by turns
            raise InputError(
                f"{path} cannot be read as a Core ML package, it was cut off or altered"
                f" ({first_line(error)}); export it again"
            ) from error
        kind = spec.WhichOneof("Type")
        if kind != "mlProgram":
            name = kind[0].upper() + kind[1:] if kind else "model without a type"
            raise InputError(
                f"{path} is a {name}, edgekd reads ML Programs only; convert the original model"
                " again for iOS 16 or newer"
            )
        if spec.specificationVersion not in SYSTEMS:
            raise InputError(
                f"{path} has Core ML specification version {spec.specificationVersion}, this"
                f" coremltools ({ct.__version__}) reads {min(SYSTEMS)} to {max(SYSTEMS)}"
            )
        return cls(path, spec)

    @property
    def weights(self) -> Path:
        return self.path / "Data" / "com.apple.CoreML" / "weights"

    def program(self) -> Any:
        """The MIL program with its weights, as a PyMIL ``Program``."""
        coremltools()
        from coremltools.converters.mil.frontend.milproto.load import load

        try:
            with quiet():
                return load(self.spec, self.spec.specificationVersion, str(self.weights))
        except Exception as error:
            raise InputError(
                f"{self.path}: the program or its weights cannot be read, the package was cut off"
                f" or altered ({first_line(error)}); export it again"
            ) from error

    def model(self) -> Any:
        """The package as a coremltools ``MLModel`` that is not loaded into any runtime."""
        ct = coremltools()
        with quiet():
            return ct.models.MLModel(str(self.path), skip_model_load=True)

    @property
    def weight_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.weights.glob("*"))

    def allowed_shapes(self) -> dict[str, list[list[tuple[int, int]]]]:
        """For each array or image, the shapes it takes, each as (least, greatest) per axis."""
        allowed = {}
        for feature in self.spec.description.input:
            kind = feature.type.WhichOneof("Type")
            if kind == "imageType" and not feature.type.imageType.WhichOneof("SizeFlexibility"):
                allowed[feature.name] = [[(n, n) for n in image_shape(feature.type.imageType)]]
            if kind != "multiArrayType":
                continue
            array = feature.type.multiArrayType
            flexible = array.WhichOneof("ShapeFlexibility")
            if flexible == "enumeratedShapes":
                shapes = [[(n, n) for n in shape.shape] for shape in array.enumeratedShapes.shapes]
            elif flexible == "shapeRange":
                shapes = [
                    [(axis.lowerBound, axis.upperBound) for axis in array.shapeRange.sizeRanges]
                ]
            else:
                shapes = [[(n, n) for n in array.shape]]
            allowed[feature.name] = shapes
        return allowed


def image_shape(image: Any) -> tuple[int, int, int, int]:
    """[1, channels, height, width] of an image feature."""
    grey = image.colorSpace in (image.GRAYSCALE, image.GRAYSCALE_FLOAT16)
    return 1, 1 if grey else 3, image.height, image.width


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its type where it says nothing."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
