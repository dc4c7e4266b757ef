"""Core ML: ML Program packages, and a reference interpreter that runs them on any machine."""

from __future__ import annotations

from edgekd_exporters.coreml.exporter import CoreMLExporter

__all__ = ["CoreMLExporter"]
