"""The browser exporter. Importing it is cheap; opening it needs Playwright, Chromium and npm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.bundle import Bundle, Manifest
from edgekd.errors import InputError, nearest
from edgekd.exporter import Exporter, Finding, Group, Plan, Runtime, Session, Spec
from edgekd_exporters.browser import packages
from edgekd_exporters.browser.precisions import PRECISIONS

if TYPE_CHECKING:
    from pathlib import Path

    from edgekd.evaluate.cross import Opinion
    from edgekd.preprocess import Row
    from edgekd.program import Program


class BrowserExporter(Exporter):
    """A folder that transformers.js loads, with a page in it, run by onnxruntime-web.

    The graph is the ONNX target's; layout, ladder and runtime are the browser's.
    """

    name = "browser"
    default_precisions = ("fp32", "int8")
    calibrated = frozenset(name for name in PRECISIONS if "static" in name)
    # In half precision; WASM kernels cast back and forth.
    not_automatic = tuple(name for name, rung in PRECISIONS.items() if rung.device == "webgpu")
    proving = Runtime(options={"device": "wasm"})  # also of what is made for WebGPU
    tolerances: ClassVar = {name: rung.tolerance for name, rung in PRECISIONS.items()}

    def precisions(self, spec: Spec) -> tuple[str, ...]:
        return tuple(PRECISIONS)

    def automatic(self, spec: Spec, runtime: Runtime) -> tuple[str, ...]:
        half = "webgpu" in str(runtime.options.get("device"))
        return tuple(n for n in self.precisions(spec) if half or n not in self.not_automatic)

    def write_float(self, program: Program, spec: Spec, folder: Path) -> Manifest:
        from edgekd_exporters.browser import folder as layout
        from edgekd_exporters.onnx import OnnxExporter

        if spec.options:
            raise InputError(f"unknown option '{next(iter(spec.options))}'; the browser has none")
        values = layout.config(program)
        (folder / "onnx").mkdir()
        made = OnnxExporter().write_float(program, spec, folder / "onnx")
        _refuse_external(made.model_files)
        layout.write(folder, values, "fp32")
        return replace(
            made,
            target=self.name,
            model_files=(PRECISIONS["fp32"].file,),
            runtime={**made.runtime, **_runtime("fp32")},
            tolerance=PRECISIONS["fp32"].repeats,
        )

    def write_compressed(
        self, bundle: Bundle, plan: Plan, calibration: Sequence[Row], folder: Path
    ) -> Manifest:
        import onnx_ir as ir

        from edgekd_exporters.browser import folder as layout
        from edgekd_exporters.onnx import compress, files

        rung = PRECISIONS.get(plan.default)
        if rung is None:
            raise InputError(
                f"unknown precision '{plan.default}'{nearest(plan.default, list(PRECISIONS))};"
                f" the browser target knows {', '.join(PRECISIONS)}"
            )
        manifest = bundle.manifest
        if manifest.precision != "fp32":
            raise InputError(
                f"{bundle.path} is {manifest.precision}; compress the fp32 bundle instead"
            )
        source = ir.load(bundle.path / manifest.model_files[0])
        # Bits of the rung, never of this processor: a folder runs everywhere, and is the same
        # wherever it is made.
        model, compression = compress.apply(source, bundle, plan, rung, rung.bits, calibration)
        (folder / "onnx").mkdir()
        written = files.save(model, folder / "onnx")
        _refuse_external(written)
        (folder / "onnx" / written[0]).rename(folder / rung.file)
        layout.write(folder, layout.read_config(bundle), plan.default)
        shapes = manifest.runtime["shapes"]
        return replace(
            manifest,
            precision=plan.default,
            variant=plan.default if shapes == "dynamic" else f"{plan.default}-{shapes}",
            model_files=(rung.file,),
            runtime={
                **{name: value for name, value in manifest.runtime.items() if name != "dtypes"},
                **_runtime(plan.default),
                "compression": compression,
            },
            tolerance=rung.repeats,
            golden={},
            files={},
        )

    def opened(self, bundle: Bundle, runtime: Runtime) -> Bundle:
        from edgekd_exporters.browser import folder as layout

        return layout.of_dtype(bundle, runtime.options.get("dtype"))

    def cross_check(
        self, bundle: Bundle, rows: Sequence[Row], runtime: Runtime
    ) -> Iterator[Opinion]:
        """onnxruntime on this machine with the same file, and transformers.js with the folder."""
        from edgekd_exporters.browser import second_check

        yield second_check.natively(bundle, rows, runtime)
        yield second_check.in_transformers_js(bundle, rows, runtime)

    def slot(self, precision: str) -> str | None:
        return PRECISIONS[precision].dtype

    def combine(self, bundles: Sequence[Bundle], out: Path) -> Bundle:
        """One folder from which a page loads each ``dtype``, as transformers.js calls them.

        Each file was compared with the float model when its own bundle was made; the golden
        samples, ``config.json`` and the page are the first's.
        """
        from edgekd_exporters.browser import folder as layout

        return layout.combine(bundles, out)

    def groups(self, bundle: Bundle) -> list[Group]:
        from edgekd_exporters.browser.figures import as_onnx
        from edgekd_exporters.onnx import OnnxExporter

        with as_onnx(bundle) as graph:
            return OnnxExporter().groups(graph)

    def inspect(self, bundle: Bundle, length: int | None = None) -> dict[str, Any]:
        from edgekd_exporters.browser import figures

        return figures.inspect(bundle, length)

    def check(self, bundle: Bundle) -> list[Finding]:
        from edgekd_exporters.browser import figures

        return figures.check(bundle)

    def open(self, bundle: Bundle, runtime: Runtime | None = None) -> Session:
        from edgekd_exporters.browser.session import BrowserSession

        return BrowserSession(bundle, runtime)


def _runtime(precision: str) -> dict[str, Any]:
    """What the manifest says about how the folder was made to run."""
    rung = PRECISIONS[precision]
    return {"dtype": rung.dtype, "device": rung.device, **packages.versions()}


def _refuse_external(names: Sequence[str]) -> None:
    if len(names) > 1:
        raise InputError(
            "the model is over 2 GB, more than one file in a page can be; use a smaller student"
        )
