"""Exact figures of an ONNX bundle, and its lint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekd.bundle import Bundle
from edgekd.exporter import Finding
from edgekd_exporters.onnx.cpu import int8_kernels
from edgekd_exporters.onnx.files import load, of_graph, session, source
from edgekd_exporters.onnx.precisions import PRECISIONS

DEFAULT_LENGTH = 128  # tokens per example when a length has to be named
_QUANTIZE = {"QuantizeLinear", "DynamicQuantizeLinear"}
_MATRIX = {"MatMul", "MatMulInteger", "Gemm", "MatMulNBits"}
_CONVOLUTION = {"Conv", "ConvTranspose"}
_ATTENTION = {"MultiHeadAttention"}


def inspect(bundle: Bundle, length: int | None = None) -> dict[str, Any]:
    """Return the figures of one example of ``length`` tokens (ignored without a token axis).

    ``weight_bytes`` (initializers), ``int8_weight_bytes``, ``macs`` (multiply-accumulates of
    matrix products, convolutions and attention, from the shapes of one real run), ``ops``
    (histogram), ``quantize``, ``dequantize`` and ``casts`` (node counts), ``length``.
    """
    bundle = of_graph(bundle)
    model = load(bundle)
    ops = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in model.graph)
    weights = [v.const_value for v in model.graph.initializers.values() if v.const_value]
    tokens = any("sequence" in spec.shape for spec in bundle.manifest.inputs)
    length = length or _length(bundle)
    return {
        "weight_bytes": sum(w.nbytes for w in weights),
        "int8_weight_bytes": sum(w.nbytes for w in weights if w.dtype.bitwidth <= 8),
        "macs": macs(bundle, length),
        "length": length if tokens else None,
        "ops": dict(ops.most_common()),
        "quantize": sum(count for op, count in ops.items() if op in _QUANTIZE),
        "dequantize": ops["DequantizeLinear"],
        "casts": ops["Cast"],
        "int8_kernels": int8_kernels().kind,
    }


def macs(bundle: Bundle, length: int) -> int:
    """Multiply-accumulates for one example, counted from the shapes of a run.

    Shape inference knows none of the fused operators; running the graph once with the operands
    of every product as outputs gives shapes that are exact.
    """
    import onnxruntime

    model = load(bundle)
    counted = [n for n in model.graph if n.op_type in _MATRIX | _CONVOLUTION | _ATTENTION]
    if not counted:
        return 0
    known = {v.name for v in model.graph.outputs}
    watched: dict[str, ir.Value] = {}
    for node in counted:
        for value in (*node.inputs[:2], node.outputs[0]):
            if value is not None and value.name and value.name not in known:
                watched[value.name] = value
    inputs = {value.name for value in model.graph.inputs}
    shapes = {
        name: tuple(v.const_value.shape.numpy())
        for name, v in watched.items()
        if v.const_value is not None
    }
    model.graph.outputs.extend(
        v for name, v in watched.items() if name not in shapes and name not in inputs
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = session(model, options)
    feeds = example(bundle, length)
    names = [value.name for value in opened.get_outputs()]
    shapes |= {k: v.shape for k, v in zip(names, opened.run(names, feeds), strict=True)}
    shapes |= {name: array.shape for name, array in feeds.items()}
    return sum(_node_macs(node, shapes) for node in counted)


def example(bundle: Bundle, length: int) -> dict[str, np.ndarray]:
    """One valid input: zeros inside each input's range, every token attended."""
    sizes: dict[int | str, int] = {"batch": 1, "sequence": length}
    feeds = {}
    for spec in bundle.manifest.inputs:
        shape = [d if isinstance(d, int) else sizes.get(d, 1) for d in spec.shape]
        fill = 1 if spec.name == "attention_mask" else 0
        feeds[spec.name] = np.full(shape, fill, spec.dtype)
    return feeds


def _length(bundle: Bundle) -> int:
    """The longest length the bundle takes, up to the one that figures are stated for."""
    lengths = bundle.manifest.runtime.get("lengths")
    longest = bundle.manifest.preprocess.get("max_length", DEFAULT_LENGTH)
    return max(lengths) if lengths else min(DEFAULT_LENGTH, longest)


def check(bundle: Bundle) -> list[Finding]:
    """Lint: the ONNX checker's verdict, operators without CPU kernels, int8 across processors."""
    import onnx

    file = source(bundle)
    findings = []
    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        reason = str(error).splitlines()[0]
        findings.append(Finding("error", f"not a valid ONNX model: {reason}", file.name))
    for node in load(bundle).graph:
        if node.op_type == "ConvInteger":
            message = "ConvInteger has no CPU kernel for int8 weights; keep the Conv in float"
            findings.append(Finding("error", message, node.name or ""))
    if bundle.manifest.runtime.get("format") == "ort":
        from edgekd_exporters.onnx import mobile

        findings += mobile.usability(bundle)
    if differs := bundle.manifest.runtime.get("extensions", {}).get("differs"):
        message = (
            f"the tokenizer in the graph reads these otherwise than the Python one: "
            f"{', '.join(differs)}; where they matter export without tokenizer=in-graph"
        )
        findings.append(Finding("warning", message, bundle.manifest.model_files[0]))
    compression: Mapping[str, Any] = bundle.manifest.runtime.get("compression", {})
    multiplied = PRECISIONS[bundle.manifest.precision].kind in ("dynamic", "static")
    if multiplied:
        kernels = int8_kernels()
        message = f"int8 numbers taken here come from {kernels.kind} kernels"
        if not kernels.kind.startswith("arm"):
            message += "; an ARM phone has others: the same sums, at another speed"
        findings.append(Finding("note", message, file.name))
    if multiplied and compression.get("weight_bits") == 8:
        findings.append(
            Finding(
                "note",
                f"8-bit weights, made on {compression['made_for']}: x86 processors without VNNI"
                " saturate 16-bit sums and may lose accuracy; int8-reduced is exact everywhere",
                file.name,
            )
        )
    elif multiplied and PRECISIONS[bundle.manifest.precision].bits is None:
        findings.append(
            Finding(
                "note",
                f"7-bit weights: {compression.get('made_for')}, where this was made, sums products in"
                " 16 bits, which 8-bit weights overflow; made on x86 with VNNI or on ARM they have 8",
                file.name,
            )
        )
    return findings


def _node_macs(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None and source.name and result.name
    out = int(np.prod(shapes[result.name]))
    if node.op_type in _CONVOLUTION:
        kernel = node.inputs[1]
        assert kernel is not None and kernel.name
        each = int(np.prod(shapes[kernel.name][1:]))
        if node.op_type == "ConvTranspose":  # one product per input element and kernel tap
            return int(np.prod(shapes[source.name])) * each
        return out * each
    if node.op_type in _ATTENTION:  # queries times keys, and their weights times values
        key = node.inputs[1]
        assert key is not None and key.name
        return 2 * out * shapes[key.name][1]
    transposed = "transA" in node.attributes and node.attributes["transA"].as_int()
    return out * shapes[source.name][0 if transposed else -1]
