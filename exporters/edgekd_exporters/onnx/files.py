"""The files of an ONNX bundle: the graph that is rewritten, and what the runtime loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.bundle import Bundle, TensorSpec
from edgekd.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekd.preprocess import TextPreprocessor

MODEL = "model.onnx"
WITH_TOKENIZER = "model.text.onnx"
_EXTERNAL = 2**31 - 2**20  # a protobuf message ends at 2 GB


def source(bundle: Bundle) -> Path:
    """The ONNX graph of ``bundle``; the runtime may load another form of it."""
    return bundle.path / MODEL


def load(bundle: Bundle) -> ir.Model:
    import onnx_ir as ir

    return ir.load(source(bundle))


def of_graph(bundle: Bundle) -> Bundle:
    """``bundle`` with the inputs of its :func:`source`, which a tokenizer may stand before."""
    inner = bundle.manifest.runtime.get("graph_inputs")
    if not inner:
        return bundle
    inputs = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in inner)
    return Bundle(bundle.path, replace(bundle.manifest, inputs=inputs))


def save(
    model: ir.Model,
    folder: Path,
    form: str = "onnx",
    tokenizer: TextPreprocessor | None = None,
    length: int | None = None,
) -> tuple[str, ...]:
    """Write ``model`` into ``folder``; return the names of the files that the runtime loads.

    Weights lie beside the graph above 2 GB. The form ``ort`` adds ONNX Runtime Mobile's;
    a ``tokenizer`` is put before the graph, with a fixed ``length`` or None.
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
    if tokenizer is not None:
        from edgekd_exporters.onnx.tokenizer import embed

        if len(names) > 1:
            raise InputError("a tokenizer inside the graph needs a model of less than 2 GB")
        ir.save(embed(model, tokenizer, length), folder / WITH_TOKENIZER)
        names = (WITH_TOKENIZER,)
    if form == "ort":
        from edgekd_exporters.onnx import mobile

        return mobile.convert(folder, names[0])
    return names
