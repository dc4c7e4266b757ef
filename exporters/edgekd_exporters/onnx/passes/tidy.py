"""Drop what no runtime reads: dead nodes, duplicates, stale shapes, torch's metadata."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def apply(model: ir.Model) -> None:
    """Clean ``model`` in place and order its nodes; shapes are inferred again on load."""
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.TopologicalSortPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    kept = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in model.graph:
        for value in node.outputs:
            if id(value) not in kept:  # a stale value_info makes onnxruntime refuse a rewrite
                value.shape, value.type = None, None
