"""The files of an ONNX bundle: the graph that is rewritten, and what the runtime loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.bundle import Bundle

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL = "model.onnx"
_EXTERNAL = 2**31 - 2**20  # a protobuf message ends at 2 GB


def source(bundle: Bundle) -> Path:
    """The ONNX graph of ``bundle``; the runtime may load another form of it."""
    return bundle.path / MODEL


def load(bundle: Bundle) -> ir.Model:
    import onnx_ir as ir

    return ir.load(source(bundle))


def save(model: ir.Model, folder: Path, form: str = "onnx") -> tuple[str, ...]:
    """Write ``model`` into ``folder``; return the names of the files that the runtime loads.

    Weights lie beside the graph above 2 GB. The form ``ort`` adds ONNX Runtime Mobile's.
    """
    import onnx_ir as ir

    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    names: tuple[str, ...] = (MODEL,)
    if size < _EXTERNAL:
        ir.save(model, folder / MODEL)
    else:
        names = (MODEL, f"{MODEL}.data")
        ir.save(model, folder / MODEL, external_data=names[1])
    if form == "ort":
        from edgekd_exporters.onnx import mobile

        return mobile.convert(folder)
    return names
