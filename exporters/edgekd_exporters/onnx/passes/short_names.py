"""Rename weights and activations by number: names are kilobytes that no runtime needs.

Inputs, outputs and nodes keep theirs: profiles, findings and users speak of those.
"""

from __future__ import annotations

import onnx_ir as ir


def apply(model: ir.Model) -> int:
    """Rename every value inside the graph; return how many."""
    graph = model.graph
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    inside = [value for value in graph.initializers.values() if id(value) not in kept]
    inside += [v for node in graph for v in node.outputs if id(v) not in kept]
    prefix = "_"
    while any(name and name.startswith(prefix) for name in taken):
        prefix += "_"
    for place, value in enumerate(inside):
        value.name = f"{prefix}{place}."  # no name that is still in use ends so
    for place, value in enumerate(inside):
        value.name = f"{prefix}{place}"
    return len(inside)
