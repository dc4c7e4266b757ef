"""A captured program becomes an ML Program package.

Two calls of coremltools: the first translates the captured graph into MIL, the second runs the
optimising passes and writes the package. In between, what an app expects is added to the MIL
program itself: normalisation of image pixels in front, class probabilities behind.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bundle import TensorSpec
from edgekd.errors import InputError, nearest
from edgekd.exporter import Spec
from edgekd.preprocess import ImagePreprocessor
from edgekd.program import Program, Shapes
from edgekd_exporters.coreml.package import SYSTEMS, first_line
from edgekd_exporters.coreml.precisions import newer
from edgekd_exporters.coreml.quiet import coremltools, quiet

DEFAULT_SYSTEM = "iOS17"
LABEL = "classLabel"  # Core ML's customary name of a classifier's answer
PROBABILITIES = "probabilities"
LEFT_OUT = "common::fuse_elementwise_to_batchnorm"
OPTIONS = {"range": False, "image": True}  # switches, each with its default


@dataclass(frozen=True)
class Layout:
    """What the exporter decided about shapes and interface, before converting."""

    system: str
    lengths: tuple[int, ...]  # fixed (one) or enumerated (several); empty without such an axis
    range: bool  # any length up to the longest
    image: bool  # the input is an image
    probabilities: bool  # softmax of the logits is an output
    classifier: bool  # and the package answers with a class label

    @property
    def name(self) -> str:
        """The shapes, for a bundle's variant: ``l64``, ``l16.32.64``, ``l1to64``, or nothing."""
        if self.range:
            return f"l1to{max(self.lengths)}"
        return f"l{'.'.join(map(str, self.lengths))}" if self.lengths else ""

    @property
    def shapes(self) -> Shapes:
        """The capture this needs: a flexible length is captured dynamic."""
        return Shapes(batch=1, lengths=() if self.range else self.lengths)


def plan_layout(program: Program, spec: Spec) -> Layout:
    """Decide shapes and interface. Raises :class:`InputError` for what Core ML cannot do.

    Batches are of one: an app asks about one thing at a time. Without ``lengths`` the length is
    the preprocessor's maximum, unless the option ``range`` asks for every length up to it.
    """
    system = system_of(spec.deployment)
    sequence = any("sequence" in item.shape for item in program.inputs)
    lengths = spec.shapes.lengths
    options = _options(spec)
    flexible = options["range"]
    if spec.shapes.batch not in (None, 1):
        raise InputError(
            f"Core ML bundles take one example at a time, not a batch of {spec.shapes.batch};"
            " leave the batch out"
        )
    if sequence and (flexible or not lengths):
        longest = getattr(program.preprocessor, "max_length", 0)
        lengths = lengths or ((longest,) if longest else ())
        if not lengths:
            raise InputError("the model's length is not known; give one with --length")
    lengths = tuple(sorted(set(lengths))) if sequence else ()
    inputs = sum("sequence" in item.shape for item in program.inputs)
    if len(lengths) > 1 and inputs > 1 and not newer(system, "iOS18") and not flexible:
        raise InputError(
            f"enumerated lengths of {inputs} inputs need iOS18, not {system}; ask for iOS18 or for"
            " one length"
        )
    logits = program.outputs[0]
    classes = len(program.labels)
    probabilities = bool(classes) and logits.name == "logits" and logits.shape[-1] == classes
    probabilities &= not program.task.endswith("/multi-label")  # whose classes do not sum to one
    unique = len(set(program.labels)) == classes
    return Layout(
        system=system,
        lengths=lengths,
        range=flexible and sequence,
        image=isinstance(program.preprocessor, ImagePreprocessor) and options["image"],
        probabilities=probabilities,
        classifier=probabilities and unique and len(logits.shape) == 2,
    )


def _options(spec: Spec) -> dict[str, bool]:
    """The switches of ``spec``; :class:`InputError` for one that Core ML does not have."""
    for name, value in spec.options.items():
        if name not in OPTIONS:
            raise InputError(
                f"unknown option '{name}'{nearest(name, list(OPTIONS))}; the coreml target has"
                f" {', '.join(OPTIONS)}"
            )
        if not isinstance(value, bool):
            raise InputError(f"option {name}={value!r} is neither true nor false")
    return {**OPTIONS, **spec.options}


def convert(program: Program, spec: Spec, layout: Layout, package: Path) -> dict[str, str]:
    """Write ``program`` as ``package``; return the module path of each op and weight by name.

    Raises :class:`InputError` naming the op and the module where coremltools cannot go on.
    """
    ct = coremltools()
    from edgekd_exporters.coreml import torch_ops

    torch_ops.register()
    target = getattr(ct.target, layout.system)
    graph, modules = _decomposed(program, layout)
    half = spec.compute == "fp16"
    places = {node.name: modules[n] for n, node in enumerate(graph.graph.nodes)}
    with quiet():
        with _Located("translating", places):
            mil = ct.convert(
                graph,
                inputs=_input_types(ct, program, layout),
                minimum_deployment_target=target,
                compute_precision=ct.precision.FLOAT32,  # outputs stay fp32 for the app
                convert_to="milinternal",
                pass_pipeline=ct.PassPipeline.EMPTY,
            )
        _add_interface(ct, mil, program, layout)
        with _Located("optimising", places):
            model = ct.convert(
                mil,
                minimum_deployment_target=target,
                pass_pipeline=_pipeline(ct),
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                classifier_config=_classifier(ct, program) if layout.classifier else None,
                skip_model_load=True,
            )
        _describe(model, program, spec)
        model.save(str(package))
    # coremltools leaves this beside the model because the graph's nodes are numbered.
    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    return _locations(mil, graph, modules)


def _pipeline(ct: Any) -> Any:
    """coremltools' passes but one.

    ``LEFT_OUT`` makes ``x·a + b`` a batch norm of variance 1 and leaves its
    epsilon at 1e-5, so that every result is 5e-6 too small: enough to show in a deep network.
    """
    pipeline = ct.PassPipeline()
    pipeline.remove_passes({LEFT_OUT})
    return pipeline


def _classifier(ct: Any, program: Program) -> Any:
    return ct.ClassifierConfig(
        list(program.labels), LABEL, predicted_probabilities_output=PROBABILITIES
    )


def output_specs(program: Program, layout: Layout) -> tuple[TensorSpec, ...]:
    outputs = [replace(o, shape=_sizes(o, layout)) for o in program.outputs]
    if layout.probabilities:
        outputs.append(TensorSpec(PROBABILITIES, "float32", outputs[0].shape, (0.0, 1.0)))
    return tuple(outputs)


def input_specs(program: Program, layout: Layout) -> tuple[TensorSpec, ...]:
    return tuple(
        replace(item, shape=_sizes(item, layout), dtype=item.dtype.replace("int64", "int32"))
        for item in program.inputs
    )


def _sizes(item: TensorSpec, layout: Layout) -> tuple[int | str, ...]:
    fixed: dict[int | str, int | str] = {"batch": 1}
    if len(layout.lengths) == 1 and not layout.range:
        fixed["sequence"] = layout.lengths[0]
    return tuple(fixed.get(axis, axis) for axis in item.shape)


def system_of(deployment: str | None) -> str:
    """The deployment target by coremltools' name; ``17`` and ``ios17`` are understood."""
    if deployment is None:
        return DEFAULT_SYSTEM
    known = [name for name in SYSTEMS.values() if name != "iOS15"]
    name = deployment.strip().removeprefix("iOS").removeprefix("ios")
    if f"iOS{name}" not in known:
        raise InputError(
            f"unknown deployment target '{deployment}'{nearest(deployment, known)}; Core ML"
            f" bundles are made for {', '.join(known)}"
        )
    return f"iOS{name}"


def _decomposed(program: Program, layout: Layout) -> tuple[Any, dict[int, str]]:
    """The captured graph in the ATen dialect; each node numbered, each number's module named."""
    from edgekd_exporters.coreml import torch_ops

    try:
        with quiet():
            graph = program.capture(layout.shapes).run_decompositions({})
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"torch.export cannot capture {program.provenance.get('architecture', 'the model')}:"
            f" {first_line(error)}; rewrite that part of the model without"
            " data-dependent control flow"
        ) from error
    modules = {}
    torch_ops.rename(graph)
    for number, node in enumerate(graph.graph.nodes):
        stack = node.meta.get("nn_module_stack") or {}
        path = list(stack.values())[-1][0] if stack else ""
        modules[number] = _module_path(path)
        node.meta["debug_handle"] = number  # coremltools carries it through every pass
    return graph, modules


def _module_path(path: str) -> str:
    """``L['self'].model.bert.pooler`` -> ``bert.pooler``: the wrapper's own name is dropped."""
    path = re.sub(r"^L\['self'\]\.?", "", path)
    return "" if path == "model" else path.removeprefix("model.")


def _input_types(ct: Any, program: Program, layout: Layout) -> list[Any]:
    kinds = []
    for item in program.inputs:
        if layout.image:
            grey = ct.colorlayout.GRAYSCALE if item.shape[1] == 1 else ct.colorlayout.RGB
            shape = (1, *item.shape[1:])
            kinds.append(ct.ImageType(name=item.name, shape=shape, color_layout=grey))
            continue
        dtype = np.int32 if item.dtype.startswith("int") else np.float32
        kinds.append(ct.TensorType(name=item.name, shape=_shape(ct, item, layout), dtype=dtype))
    return kinds


def _shape(ct: Any, item: TensorSpec, layout: Layout) -> Any:
    def sized(length: Any) -> list[Any]:
        named: dict[int | str, Any] = {"batch": 1, "sequence": length}
        return [named.get(axis, axis) for axis in item.shape]

    if "sequence" not in item.shape:
        return sized(None)
    longest = max(layout.lengths)
    if layout.range:
        return ct.Shape(sized(ct.RangeDim(1, longest, default=longest)))
    if len(layout.lengths) > 1:
        return ct.EnumeratedShapes([sized(n) for n in layout.lengths], default=sized(longest))
    return ct.Shape(sized(longest))


def _add_interface(ct: Any, mil: Any, program: Program, layout: Layout) -> None:
    """Name the outputs; add pixel normalisation and class probabilities."""
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    function = mil.functions["main"]
    scopes = [
        ScopeInfo(source=ScopeSource.EXIR_STACK_TRACE, data=[None]),
        ScopeInfo(source=ScopeSource.EXIR_DEBUG_HANDLE, data=[None]),
    ]
    with function, mb.scope(*scopes):
        if layout.image:
            _normalise_pixels(mb, function, program.preprocessor)
        outputs = [
            mb.identity(x=var, name=item.name)
            for var, item in zip(function.outputs, program.outputs, strict=True)
        ]
        if layout.probabilities:
            outputs.append(mb.softmax(x=outputs[0], axis=-1, name=PROBABILITIES))
        function.set_outputs(outputs)


def _normalise_pixels(mb: Any, function: Any, preprocessor: Any) -> None:
    """(pixel · scale − mean) / std in the program, per channel, for pixels of 0 to 255.

    ``ImageType`` itself knows one scale for all channels, which ImageNet's statistics are not.
    """
    (name, pixels), *_ = function.inputs.items()
    std = np.asarray(preprocessor.std, np.float32)
    gain = (np.float32(preprocessor.scale) / std).reshape(1, -1, 1, 1)
    shift = (-np.asarray(preprocessor.mean, np.float32) / std).reshape(1, -1, 1, 1)
    first = next(op for op in function.operations if op.op_type != "const")
    scaled = mb.mul(x=pixels, y=gain, name=f"{name}_scaled", before_op=first)
    normal = mb.add(x=scaled, y=shift, name=f"{name}_normalised", before_op=first)
    function.replace_uses_of_var_after_op(anchor_op=normal.op, old_var=pixels, new_var=normal)


def _describe(model: Any, program: Program, spec: Spec) -> None:
    """Fill in the metadata that Xcode shows; everything else goes to the user-defined part."""
    metadata = dict(spec.metadata)
    model.author = metadata.pop("author", "")
    model.license = metadata.pop("licence", metadata.pop("license", ""))
    model.version = metadata.pop("version", "")
    model.short_description = metadata.pop("description", f"{program.task}, made by edgekd")
    for key, value in metadata.items():
        model.user_defined_metadata[f"edgekd.{key}"] = str(value)
    provenance = json.dumps(dict(program.provenance), default=str)
    model.user_defined_metadata["edgekd.provenance"] = provenance
    model.user_defined_metadata["edgekd.task"] = program.task


def _locations(mil: Any, graph: Any, modules: Mapping[int, str]) -> dict[str, str]:
    """Module path by the name of each op and weight in the final program."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    owners = {**graph.graph_signature.inputs_to_parameters}
    owners |= graph.graph_signature.inputs_to_buffers
    weights = {
        placeholder.lower(): _module_path(owner.rpartition(".")[0])
        for placeholder, owner in owners.items()
    }
    found: dict[str, str] = {}
    for op in mil.functions["main"].operations:
        handles = op.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or [None]
        number = handles[0]
        if op.op_type == "const":
            stem = op.name.lower()
            path = weights.get(stem) or weights.get(stem.removesuffix("_to_fp16"))
            if path is None and not (isinstance(op.val.val, np.ndarray) and op.val.val.size >= 64):
                continue
            path = path or modules.get(number, "")
        else:
            path = modules.get(number, "")
        if path:
            found[op.name] = path
    return found


class _Located(logging.Handler):
    """Turns what coremltools raises into one line with the op and the module it came from."""

    def __init__(self, stage: str, places: Mapping[str, str]) -> None:
        super().__init__(logging.ERROR)
        self.stage = stage
        self.places = places  # graph node -> module path
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> _Located:
        self.logger = logging.getLogger("coremltools")
        self.propagate, self.logger.propagate = self.logger.propagate, False
        self.logger.addHandler(self)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.logger.removeHandler(self)
        self.logger.propagate = self.propagate
        if error is None or not isinstance(error, Exception):
            return
        what = self._what("\n".join([str(error), *self.messages]))
        raise InputError(
            f"coremltools cannot convert {what}: {first_line(error)}; replace"
            " that layer, or register the op in edgekd_exporters/coreml/torch_ops.py"
        ) from error

    def _what(self, text: str) -> str:
        node = re.search(r"fx node (\w+), kind (\S+)", text)
        if node:
            return f"the op '{node[2]}' in {self.places.get(node[1]) or 'the wrapper'}"
        op = re.search(r"converting '(\w+)' op \(located at: '([^']*)'\)", text)
        if op:
            return f"the op '{op[1]}' in {self.places.get(op[2].split('/')[-1]) or op[2]}"
        return f"the program while {self.stage}"
