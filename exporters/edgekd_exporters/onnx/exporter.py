"""The ONNX exporter. Importing and opening it needs onnxruntime and numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.bundle import STRING, Bundle, Manifest, TensorSpec
from edgekd.errors import InputError, nearest
from edgekd.exporter import Exporter, Finding, Group, Plan, Runtime, Session, Spec
from edgekd_exporters.onnx import files
from edgekd_exporters.onnx.cpu import int8_kernels
from edgekd_exporters.onnx.precisions import PRECISIONS
from edgekd_exporters.onnx.session import PROVIDERS, OnnxSession, provider

if TYPE_CHECKING:
    from edgekd.preprocess import Row, TextPreprocessor
    from edgekd.program import Program

OPTIONS = {
    "format": ("onnx", "ort"),  # ort: for ONNX Runtime Mobile
    "tokenizer": ("beside", "in-graph"),  # in-graph: the model takes a text
}


class OnnxExporter(Exporter):
    """``model.onnx`` for ONNX Runtime, in float or compressed."""

    name = "onnx"
    calibrated = frozenset(name for name, rung in PRECISIONS.items() if rung.kind == "static")
    tolerances: ClassVar = {name: rung.tolerance for name, rung in PRECISIONS.items()}
    default_precisions = ("fp32", "int8")
    # fp16 is for GPU providers: a CPU casts. int8 has 7 bits of itself where this processor needs
    # them, and where it has a dot product that is exact with 8 the narrower weights buy nothing.
    not_automatic = ("int8-reduced", "fp16", "fp16-fused")
    runtime_modules = ("onnxruntime",)

    def precisions(self, spec: Spec) -> tuple[str, ...]:
        return tuple(PRECISIONS)

    def automatic(self, spec: Spec, runtime: Runtime) -> tuple[str, ...]:
        on_cpu = provider(runtime.options) == PROVIDERS["cpu"]
        return tuple(
            name
            for name in self.precisions(spec)
            if name not in self.not_automatic or (PRECISIONS[name].kind == "half" and not on_cpu)
        )

    def write_float(self, program: Program, spec: Spec, folder: Path) -> Manifest:
        import torch

        from edgekd_exporters.onnx import lower

        if spec.compute != "fp32":
            raise InputError(
                f"the onnx target exports in fp32, not {spec.compute}; compress the bundle to fp16"
            )
        form = _option(spec, "format")
        tokenizer = _tokenizer(program, spec)
        model = lower.lower(program, spec)
        sizes = lower.fixed_sizes(spec)
        shapes = spec.shapes.name
        inputs = tuple(_sized(value, sizes) for value in program.inputs)
        taken, described = inputs, {}
        if tokenizer:
            from edgekd_exporters.onnx.tokenizer import TEXT, needs
            from edgekd_exporters.onnx.tokenizer_check import verify

            differs = verify(tokenizer, sizes.get("sequence"), program.rows)
            extensions: dict[str, Any] = {**needs(), "differs": list(differs)}
            described = {
                "extensions": extensions,
                "graph_inputs": [asdict(spec) for spec in inputs],
            }
            sizes["batch"] = 1
            taken = (TensorSpec(TEXT, STRING, (1,)),)
        return Manifest(
            task=program.task,
            target=self.name,
            precision="fp32",
            variant=_variant("fp32", shapes, form, bool(tokenizer)),
            labels=program.labels,
            inputs=taken,
            outputs=tuple(_sized(value, sizes) for value in program.outputs),
            preprocess=program.preprocessor.describe(),
            model_files=files.save(model, folder, form, tokenizer, sizes.get("sequence")),
            runtime={
                "opset": model.opset_imports[""],
                "format": form,
                "shapes": shapes,
                "lengths": list(spec.shapes.lengths),
                **described,
            },
            provenance={**program.provenance, "torch": torch.__version__, **_versions()},
            tolerance=PRECISIONS["fp32"].repeats,
        )

    def write_compressed(
        self, bundle: Bundle, plan: Plan, calibration: Sequence[Row], folder: Path
    ) -> Manifest:
        from edgekd_exporters.onnx import compress

        if plan.default not in PRECISIONS:
            raise InputError(
                f"unknown precision '{plan.default}'{nearest(plan.default, list(PRECISIONS))};"
                f" the onnx target knows {', '.join(PRECISIONS)}"
            )
        if bundle.manifest.precision != "fp32":
            raise InputError(
                f"{bundle.path} is {bundle.manifest.precision}; compress the fp32 bundle instead"
            )
        rung, kernels = PRECISIONS[plan.default], int8_kernels()
        bits = rung.bits or kernels.weight_bits
        graph = files.load(bundle)
        model, compression = compress.apply(graph, bundle, plan, rung, bits, calibration)
        if "weight_bits" in compression:
            compression["made_for"] = kernels.kind
        runtime = bundle.manifest.runtime
        form, length = runtime.get("format", "onnx"), next(iter(runtime["lengths"]), None)
        tokenizer: Any = bundle.preprocessor if "extensions" in runtime else None
        return replace(
            bundle.manifest,
            precision=plan.default,
            variant=_variant(plan.default, runtime["shapes"], form, tokenizer is not None),
            model_files=files.save(model, folder, form, tokenizer, length),
            runtime={**runtime, "compression": compression},
            provenance={**bundle.manifest.provenance, **_versions()},
            tolerance=rung.repeats,
            golden={},
            files={},
        )

    def made_for(self, precision: str) -> str | None:
        """The int8 kernels that decide the width of the weights, where there are any."""
        rung = PRECISIONS[precision]
        return int8_kernels().kind if rung.kind in ("dynamic", "static", "blocks") else None

    def groups(self, bundle: Bundle) -> list[Group]:
        from edgekd_exporters.onnx.weights import weighted

        sizes: dict[str, int] = {}
        for item in weighted(files.load(bundle)):
            sizes[item.module] = sizes.get(item.module, 0) + item.weight.nbytes
        return [Group(name, size) for name, size in sizes.items()]

    def inspect(self, bundle: Bundle, length: int | None = None) -> dict[str, Any]:
        from edgekd_exporters.onnx import figures

        return figures.inspect(bundle, length)

    def check(self, bundle: Bundle) -> list[Finding]:
        from edgekd_exporters.onnx import figures

        return figures.check(bundle)

    def open(self, bundle: Bundle, runtime: Runtime | None = None) -> Session:
        return OnnxSession(bundle, runtime)


def _option(spec: Spec, name: str) -> str:
    """The value of an option of ours; :class:`InputError` for one we do not have."""
    for given, value in spec.options.items():
        if given not in OPTIONS:
            raise InputError(
                f"unknown option '{given}'{nearest(given, list(OPTIONS))}; the onnx target has"
                f" {', '.join(OPTIONS)}"
            )
        if value not in OPTIONS[given]:
            raise InputError(f"option {given}={value!r} is not one of {', '.join(OPTIONS[given])}")
    return spec.options.get(name, OPTIONS[name][0])


def _tokenizer(program: Program, spec: Spec) -> TextPreprocessor | None:
    """The tokenizer that goes into the graph, where the spec asks for that."""
    if _option(spec, "tokenizer") == "beside":
        return None
    from edgekd.preprocess import TextPreprocessor

    if not isinstance(program.preprocessor, TextPreprocessor):
        raise InputError(f"tokenizer=in-graph is for texts, and {program.task} reads none")
    if spec.shapes.batch not in (None, 1) or len(spec.shapes.lengths) > 1:
        raise InputError(
            "with tokenizer=in-graph the model takes one text: drop the batch, and name at most one"
            " length"
        )
    return program.preprocessor


def _variant(precision: str, shapes: str, form: str, text: bool) -> str:
    parts = [precision, shapes if shapes != "dynamic" else "", form if form != "onnx" else ""]
    parts += ["text"] if text else []
    return "-".join(part for part in parts if part)


def _sized(value: TensorSpec, sizes: dict[str, int]) -> TensorSpec:
    shape = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in value.shape)
    return replace(value, shape=shape)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
