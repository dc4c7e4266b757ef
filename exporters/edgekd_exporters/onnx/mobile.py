"""ONNX Runtime Mobile: the .ort form, the operators it needs, and whether an NPU would take it.

The .ort file is the graph after the load-time optimizations, in a flat buffer that a reduced
build can map; ``required_operators.config`` lists the kernels such a build must keep
(``--include_ops_by_config``).
"""

from __future__ import annotations

import logging
from pathlib import Path

from edgekd.bundle import Bundle
from edgekd.exporter import Finding
from edgekd_exporters.onnx.files import MODEL, source
from edgekd_exporters.onnx.tokenizer import library

MOBILE = "model.ort"
OPERATORS = "required_operators.config"
# Rewrites for one family of x86 processors; the file is meant for a phone.
_X86_ONLY = ["NchwcTransformer"]


def convert(folder: Path, name: str = MODEL) -> tuple[str, ...]:
    """Write ``model.ort`` and the operator list beside the graph ``name``; return what is loaded."""
    import onnxruntime
    from onnxruntime.tools.ort_format_model import create_config_from_models

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / MOBILE)
    options.add_session_config_entry("session.save_model_format", "ORT")
    if name != MODEL:
        options.register_custom_ops_library(str(library()))
    onnxruntime.InferenceSession(
        str(folder / name),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=_X86_ONLY,
    )
    operators = folder / OPERATORS
    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    create_config_from_models([folder / MOBILE], operators, enable_type_reduction=True)
    lines = operators.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("#")]  # a comment with our own path
    operators.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return (MOBILE,)


def usability(bundle: Bundle) -> list[Finding]:
    """onnxruntime's estimate of how much of the graph Android's and Apple's NPUs would take."""
    import onnx
    from onnxruntime.tools.mobile_helpers import usability_checker as checker

    graph = onnx.load(source(bundle), load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(graph)
    coreml = "coreml_supported_mlprogram_ops.md"
    estimates = {
        "NNAPI": checker.check_nnapi_partitions(inferred, require_fixed_input_sizes=True),
        "Core ML": checker.check_coreml_partitions(inferred, True, coreml),
    }
    return [
        Finding(
            "note",
            f"{name} provider: {info.num_supported_nodes} of {info.num_nodes} nodes in"
            f" {info.num_partitions} partitions; worth trying: {info.suitability().name.lower()}",
            MOBILE,
        )
        for name, info in estimates.items()
    ]
