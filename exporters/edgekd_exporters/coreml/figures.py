"""Exact figures of a package: bytes, multiply-accumulates, ops."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from edgekd.bundle import Bundle
from edgekd_exporters.coreml.package import Package
from edgekd_exporters.coreml.session import package_path


def inspect(bundle: Bundle) -> dict[str, Any]:
    """``weight_bytes``, ``macs`` (None where a size is flexible), ``ops`` and the OS it needs."""
    package = Package.open(package_path(bundle))
    operations = [
        op
        for function in package.program().functions.values()
        for op in function.operations
        if op.op_type != "const"
    ]
    macs = [multiply_accumulates(op) for op in operations]
    return {
        "weight_bytes": package.weight_bytes,
        "macs": None if None in macs else sum(count for count in macs if count),
        "ops": dict(sorted(Counter(op.op_type for op in operations).items())),
        "deployment": bundle.manifest.runtime["deployment"],
        "specification": package.spec.specificationVersion,
    }


def multiply_accumulates(op: Any) -> int | None:
    """Multiply-accumulates of one op: 0 for what does not multiply, None for flexible sizes."""
    if op.op_type in ("linear", "matmul", "conv", "conv_transpose"):
        out, x = op.outputs[0].shape, op.inputs["x"].shape
        if not all(isinstance(n, int | np.integer) for n in (*out, *x)):
            return None
        if op.op_type == "linear":
            return int(np.prod(out)) * int(x[-1])
        if op.op_type == "matmul":
            return int(np.prod(out)) * int(x[-2] if op.inputs["transpose_x"].val else x[-1])
        weight = op.inputs["weight"].shape
        positions = out[2:] if op.op_type == "conv" else x[2:]
        return int(out[0] * np.prod(positions) * np.prod(weight))
    if op.op_type == "scaled_dot_product_attention":
        query, key, value = (op.inputs[name].shape for name in ("query", "key", "value"))
        if not all(isinstance(n, int | np.integer) for n in (*query, *key, *value)):
            return None
        return int(np.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))
    return 0
