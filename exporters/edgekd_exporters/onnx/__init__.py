"""ONNX for ONNX Runtime: servers, Android, and what the browser folder is built from.

exporter.py     the contract's face; imports nothing heavy
session.py      a loaded bundle: onnxruntime and numpy, nothing else
lower.py        torch.export program -> ONNX graph of standard operators
passes/         graph rewrites, one per file
precisions.py   the ladder as data: every precision and what it can do
compress.py     applies a precision plan with one of the four below
dynamic.py      int8, activation ranges taken at run time
static.py       int8, activation ranges from rows (calibrate.py)
blocks.py       4- and 8-bit weights in blocks
half.py         fp16
weights.py      which nodes carry weights, and the groups they belong to
files.py        what a bundle holds; mobile.py: its .ort form
tokenizer.py    the tokenizer as a graph; tokenizer_check.py compares it with Python's
figures.py      exact figures and lint
cpu.py          which int8 kernels this processor has
"""

from edgekd_exporters.onnx.exporter import OnnxExporter

__all__ = ["OnnxExporter"]
