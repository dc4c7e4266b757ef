"""The Core ML exporter. Importing it is cheap; coremltools is imported when a verb needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd.bundle import Bundle, Manifest
from edgekd.exporter import Exporter, Finding, Group, Plan, Runtime, Session, Spec
from edgekd_exporters.coreml.precisions import PRECISIONS, available

if TYPE_CHECKING:
    from edgekd.preprocess import Row
    from edgekd.program import Program

PACKAGE = "model.mlpackage"


class CoreMLExporter(Exporter):
    """``model.mlpackage``, an ML Program, in float or compressed.

    ``Spec.deployment`` is the oldest OS that must run it (``iOS17`` by default). Options:
    ``range`` (any length up to the longest, at the price of the Neural Engine) and ``image``
    (False takes normalised pixels as an array instead of an image).
    """

    name = "coreml"
    default_precisions = ("fp16", "int8")
    default_compute = "fp16"
    model_suffixes = (".mlpackage", ".mlmodel", ".mlmodelc")  # the last two are told apart
    calibrated = frozenset(name for name, rung in PRECISIONS.items() if rung.activations)
    tolerances: ClassVar = {name: rung.tolerance for name, rung in PRECISIONS.items()}
    # On a Mac Core ML runs the bundle; elsewhere the interpreter, which is torch's.
    runtime_modules = ("coremltools",) if sys.platform == "darwin" else ("coremltools", "torch")

    def precisions(self, spec: Spec) -> tuple[str, ...]:
        from edgekd_exporters.coreml.convert import system_of

        names = available(system_of(spec.deployment))
        start = names.index(spec.compute)  # an fp16 bundle cannot become an fp32 one
        return names[start:]

    def write_float(self, program: Program, spec: Spec, folder: Path) -> Manifest:
        from edgekd_exporters.coreml import convert, swift
        from edgekd_exporters.coreml.session import MODULES

        layout = convert.plan_layout(program, spec)
        modules = convert.convert(program, spec, layout, folder / PACKAGE)
        (folder / MODULES).write_text(json.dumps(modules, indent=0) + "\n", encoding="utf-8")
        manifest = Manifest(
            task=program.task,
            target=self.name,
            precision=spec.compute,
            variant=_variant(spec.compute, layout.name),
            labels=program.labels,
            inputs=convert.input_specs(program, layout),
            outputs=convert.output_specs(program, layout),
            preprocess=program.preprocessor.describe(),
            model_files=(PACKAGE,),
            runtime={
                "deployment": layout.system,
                "compute": spec.compute,
                "shapes": layout.name,
                "lengths": [] if layout.range else list(layout.lengths),
                "range": layout.range,
                "image": layout.image,
                "classifier": layout.classifier,
            },
            provenance={
                **program.provenance,
                "coremltools": version("coremltools"),
                "torch": version("torch"),
            },
            tolerance=PRECISIONS[spec.compute].repeats,
        )
        swift.write(folder, manifest)
        return manifest

    def write_compressed(
        self, bundle: Bundle, plan: Plan, calibration: Sequence[Row], folder: Path
    ) -> Manifest:
        from edgekd_exporters.coreml import compress, swift
        from edgekd_exporters.coreml.session import MODULES

        exceptions = compress.write(bundle, plan, calibration, folder / PACKAGE)
        modules = bundle.path / MODULES
        if modules.is_file():
            (folder / MODULES).write_bytes(modules.read_bytes())
        rung = PRECISIONS[plan.default]
        provenance = {**bundle.manifest.provenance, "coremltools": version("coremltools")}
        if exceptions:
            provenance["exceptions"] = exceptions
        if plan.overrides:
            provenance["overrides"] = dict(plan.overrides)
        manifest = replace(
            bundle.manifest,
            precision=plan.default,
            variant=_variant(plan.default, bundle.manifest.runtime["shapes"]),
            runtime={**bundle.manifest.runtime, "compute": rung.compute},
            provenance=provenance,
            tolerance=rung.repeats,
            golden={},
            files={},
        )
        swift.write(folder, manifest)
        return manifest

    def groups(self, bundle: Bundle) -> list[Group]:
        from edgekd_exporters.coreml.weights import weighted

        sizes: dict[str, int] = {}
        for item in weighted(bundle):
            sizes[item.group] = sizes.get(item.group, 0) + item.bytes
        return [Group(name, size) for name, size in sizes.items()]

    def inspect(self, bundle: Bundle, length: int | None = None) -> dict[str, Any]:
        from edgekd_exporters.coreml import figures

        return figures.inspect(bundle)

    def check(self, bundle: Bundle) -> list[Finding]:
        from edgekd_exporters.coreml import guards

        return guards.check(bundle)

    def check_model(self, path: Path) -> list[Finding]:
        from edgekd_exporters.coreml import guards

        return guards.check_package(path)

    def open(self, bundle: Bundle, runtime: Runtime | None = None) -> Session:
        from edgekd_exporters.coreml.session import open_session

        return open_session(bundle, runtime)


def _variant(precision: str, shapes: str) -> str:
    return f"{precision}-{shapes}" if shapes else precision
