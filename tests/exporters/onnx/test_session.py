"""Where a session runs: the execution provider is asked for by name, and never silently another."""

from __future__ import annotations

import onnxruntime
import pytest
from edgekd_exporters.onnx import OnnxExporter
from edgekd_exporters.onnx.session import PROVIDERS

from edgekd.bundle import Bundle
from edgekd.errors import InputError, MissingDependency
from edgekd.exporter import Runtime, Spec
from edgekd.program import Shapes

LACKING = [n for n, v in PROVIDERS.items() if v not in onnxruntime.get_available_providers()]


def test_the_cpu_is_a_provider_like_any_other(exporter: OnnxExporter, bert_fp32: Bundle) -> None:
    session = exporter.open(bert_fp32, Runtime(options={"provider": "cpu"}))
    assert session.describe()["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize("name", LACKING)
def test_a_build_without_the_provider_is_told(
    exporter: OnnxExporter, bert_fp32: Bundle, name: str
) -> None:
    with pytest.raises(MissingDependency, match=f"has no {PROVIDERS[name]}, only .*CPU.*; "):
        exporter.open(bert_fp32, Runtime(options={"provider": name}))


def test_a_provider_that_falls_back_in_silence_is_told(
    exporter: OnnxExporter, bert_fp32: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What onnxruntime-gpu does on a machine without the driver."""
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    with pytest.warns(UserWarning), pytest.raises(MissingDependency, match="cannot start it here"):
        exporter.open(bert_fp32, Runtime(options={"provider": "cuda"}))


def test_an_unknown_provider_is_told(exporter: OnnxExporter, bert_fp32: Bundle) -> None:
    with pytest.raises(InputError, match="did you mean 'cuda'"):
        exporter.open(bert_fp32, Runtime(options={"provider": "cudda"}))


def test_an_option_that_onnxruntime_would_ignore_is_told(
    exporter: OnnxExporter, bert_fp32: Bundle
) -> None:
    with pytest.raises(InputError, match=r"'providr' \(did you mean 'provider'"):
        exporter.open(bert_fp32, Runtime(options={"providr": "cuda"}))
    exporter.open(bert_fp32, Runtime(options={"session.dynamic_block_base": 4})).close()


def test_auto_tries_half_precision_where_a_gpu_runs_it(exporter: OnnxExporter) -> None:
    spec = Spec(Shapes())
    assert not {"fp16", "fp16-fused"} & set(exporter.automatic(spec, Runtime()))
    on_gpu = exporter.automatic(spec, Runtime(options={"provider": "cuda"}))
    assert {"fp16", "fp16-fused"} <= set(on_gpu)
    assert "int8-reduced" not in exporter.automatic(spec, Runtime())
