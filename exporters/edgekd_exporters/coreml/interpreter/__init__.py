"""The reference interpreter: runs any ML Program on any machine, op by op, on torch tensors."""

from __future__ import annotations

from edgekd_exporters.coreml.interpreter.executable import Executable, Step, compile_function

__all__ = ["Executable", "Step", "compile_function"]
