"""ONNX for ONNX Runtime: servers, Android, and what the browser folder is built from.

exporter.py     the contract's face; imports nothing heavy
session.py      a loaded bundle: onnxruntime and numpy, nothing else
lower.py        torch.export program -> ONNX graph with portable, standard operators
passes/         graph rewrites, one per file
precisions.py   the ladder: which precisions exist and what each can do
dynamic.py      int8 with activation ranges taken at run time
figures.py      exact figures and lint
cpu.py          which int8 kernels this processor has
"""

from edgekd_exporters.onnx.exporter import OnnxExporter

__all__ = ["OnnxExporter"]
