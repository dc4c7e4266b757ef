"""The files of an ONNX bundle: the graph that is rewritten, and what the runtime loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.bundle import Bundle, TensorSpec
from edgekd.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime

    from edgekd.preprocess import TextPreprocessor

MODEL = "model.onnx"
WITH_TOKENIZER = "model.text.onnx"
_EXTERNAL = 2**31 - 2**20  # a protobuf message ends at 2 GB
_FOLDER = "session.model_external_initializers_file_folder_path"


def source(bundle: Bundle) -> Path:
    """The ONNX graph of ``bundle``; the runtime may load another form of it."""
    return bundle.path / MODEL


def load(bundle: Bundle) -> ir.Model:
    import onnx_ir as ir

    return ir.load(source(bundle))


def weights_folder(model: ir.Model) -> Path | None:
    """Where the weights that ``model`` names in another file lie; None where it holds them all."""
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            return Path(value.const_value.base_dir)
    return None


def hold_weights(model: ir.Model) -> None:
    """Read the weights that lie in another file into ``model``.

    onnx_ir's own function closes the file, which arrays in use forbid.
    """
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)


def session(
    model: ir.Model, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """A rewritten graph on the CPU, from memory; weights beside its file are read from there."""
    import onnx_ir as ir
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if folder := weights_folder(model):
        options.add_session_config_entry(_FOLDER, str(folder))
    graph = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


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
    a ``tokenizer`` is put before the graph, with a fixed ``length`` or None; both raise
    :class:`InputError` above 2 GB.
    """
    import onnx_ir as ir

    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    names: tuple[str, ...] = (MODEL,)
    if size < _EXTERNAL:
        hold_weights(model)  # what is left of a larger model's other file
        ir.save(model, folder / MODEL)
    else:
        names = (MODEL, f"{MODEL}.data")
        ir.save(model, folder / MODEL, external_data=names[1])
    if len(names) > 1 and (tokenizer is not None or form == "ort"):
        raise InputError(
            "a model of over 2 GB has no .ort form and takes no tokenizer into its graph; export"
            " without the options format and tokenizer"
        )
    if tokenizer is not None:
        from edgekd_exporters.onnx.tokenizer import embed

        ir.save(embed(model, tokenizer, length), folder / WITH_TOKENIZER)
        names = (WITH_TOKENIZER,)
    if form == "ort":
        from edgekd_exporters.onnx import mobile

        return mobile.convert(folder, names[0])
    return names
