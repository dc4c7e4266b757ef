"""Compress a float package: weights by coremltools' own passes, activations calibrated here.

Each weight is configured by name, so nothing is decided by an op's type behind our back, and
what comes out is read again: a weight that was asked for and is still float is reported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bundle import Bundle
from edgekd.errors import InputError, VerificationError, nearest
from edgekd.exporter import Plan
from edgekd.preprocess import Row
from edgekd_exporters.coreml import weights as weight_list
from edgekd_exporters.coreml.convert import LEFT_OUT
from edgekd_exporters.coreml.package import Package
from edgekd_exporters.coreml.precisions import PRECISIONS, Rung, newer
from edgekd_exporters.coreml.quiet import coremltools, quiet
from edgekd_exporters.coreml.session import package_path, read_modules

SPARSITY = 0.75  # the least at which Core ML's sparse weights are also faster (Apple's tables)
GROUP = 16  # output channels that share one lookup table
BLOCK = 32  # inputs that share one int4 scale
DESTROYED = 0.9  # |compressed - float| / |float| of a weight at which it is not that weight


def write(bundle: Bundle, plan: Plan, calibration: Sequence[Row], out: Path) -> list[str]:
    """Write ``bundle``'s package compressed by ``plan``; return the exceptions it had to make.

    Raises :class:`InputError` for a precision that the bundle's deployment target lacks, for a
    bundle that is compressed already, and for missing calibration rows.
    """
    rungs = _rungs(bundle, plan)
    model, classify = detached(Package.open(package_path(bundle)))
    if bundle.manifest.runtime["compute"] == "fp32" and rungs[plan.default].compute == "fp16":
        model = to_half(model)
    modules = read_modules(bundle.path)
    exceptions: list[str] = []
    full = _weights(model, modules)
    names = weight_list.chosen(full, plan)
    if any(rung.activations for rung in rungs.values()):
        from edgekd_exporters.coreml import activations

        active = {name for name, precision in names.items() if rungs[precision].activations}
        model = activations.quantized(model, bundle, calibration, active)
    for stage in range(max(len(rung.weights) for rung in rungs.values())):
        model = _stage(model, stage, plan, rungs, modules, exceptions)
    save(model, classify, out)
    program = Package.open(out).program()
    _refuse_destroyed(full, weight_list.find(program, modules))
    return exceptions + _left_float(program, plan, rungs, modules)


def detached(package: Package) -> tuple[Any, Any]:
    """The package as an ``MLModel`` without its ``classify`` op, and that op (None if absent).

    coremltools writes a program only where ``classify`` comes last, and its passes do not keep
    it there. The op takes its input by name, so it can be put back as it was.
    """
    ct = coremltools()
    spec = type(package.spec)()
    spec.CopyFrom(package.spec)
    classify = None
    block = _main_block(spec)
    if block.operations and block.operations[-1].type == "classify":
        classify = type(block.operations[-1])()
        classify.CopyFrom(block.operations[-1])
        del block.operations[-1]
        answers = {output.name for output in classify.outputs}
        kept = [name for name in block.outputs if name not in answers]
        del block.outputs[:]
        block.outputs.extend([*kept, classify.inputs["probabilities"].arguments[0].name])
    with quiet():
        model = ct.models.MLModel(spec, weights_dir=str(package.weights), skip_model_load=True)
    return model, classify


def save(model: Any, classify: Any, out: Path) -> None:
    """Write ``model`` with its ``classify`` op back in place."""
    ct = coremltools()
    spec = model.get_spec()
    if classify is not None:
        block = _main_block(spec)
        block.operations.append(classify)
        probabilities = classify.inputs["probabilities"].arguments[0].name
        kept = [name for name in block.outputs if name != probabilities]
        del block.outputs[:]
        block.outputs.extend([*(output.name for output in classify.outputs), *kept])
    with quiet():
        whole = ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
        whole.save(str(out))


def _main_block(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def to_half(model: Any) -> Any:
    """The same program computing in fp16, its interface unchanged."""
    transform = coremltools().transform
    return apply_passes(model, [transform.add_fp16_cast(), transform.add_int16_cast()])


def apply_passes(model: Any, passes: list[Any]) -> Any:
    """Run graph passes on a package, through the door that coremltools' own compressors use."""
    from coremltools.models import utils

    with quiet(), _left_out():
        return utils._apply_graph_pass(model, passes, skip_model_load=True)


@contextlib.contextmanager
def _left_out() -> Iterator[None]:
    """Keep the pass that the conversion leaves out from running here, where no pipeline is taken.

    On an fp16 program of colour images it even fails: it mixes fp16 and fp32 in one batch norm.
    """
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    fuse: Any = type(PASS_REGISTRY[LEFT_OUT])
    apply, fuse.apply = fuse.apply, lambda self, program: None
    try:
        yield
    finally:
        fuse.apply = apply


def _rungs(bundle: Bundle, plan: Plan) -> dict[str, Rung]:
    manifest = bundle.manifest
    if PRECISIONS[manifest.precision].weights:
        raise InputError(
            f"{bundle.path} is {manifest.precision} already; compress the float bundle instead"
        )
    system = manifest.runtime["deployment"]
    asked = {plan.default, *plan.overrides.values()}
    for name in sorted(asked):
        rung = PRECISIONS.get(name)
        if rung is None:
            raise InputError(
                f"unknown precision '{name}'{nearest(name, list(PRECISIONS))}; the coreml target"
                f" knows {', '.join(PRECISIONS)}"
            )
        if not newer(system, rung.system):
            raise InputError(
                f"{name} needs {rung.system}, {bundle.path} is made for {system}; export it again"
                f" with --deployment {rung.system}"
            )
    if "fp32" in asked:  # for a group neither: the compressed program computes in fp16
        raise InputError(f"{bundle.path}: fp32 is not a compression; export the model in fp32")
    return {name: PRECISIONS[name] for name in asked}


def _weights(model: Any, modules: dict[str, str]) -> list[weight_list.Weight]:
    return weight_list.find(Package(Path(model.package_path), model.get_spec()).program(), modules)


def _stage(
    model: Any,
    stage: int,
    plan: Plan,
    rungs: dict[str, Rung],
    modules: dict[str, str],
    exceptions: list[str],
) -> Any:
    """Apply the ``stage``-th compression of every weight that has one."""
    cto = coremltools().optimize.coreml
    weights = _weights(model, modules)
    names = weight_list.chosen(weights, plan)
    system = "iOS18" if model.get_spec().specificationVersion >= 9 else "iOS17"
    configs: dict[str, dict[str, Any]] = {}
    for weight in weights:
        kinds = rungs[names[weight.name]].weights
        if stage < len(kinds):
            verb, config = _configuration(cto, kinds[stage], weight, system, exceptions)
            configs.setdefault(verb, {})[weight.name] = config
    for verb, by_name in configs.items():
        settings = cto.OptimizationConfig(op_name_configs=by_name)
        with quiet(), _left_out():
            model = getattr(cto, verb)(model, settings, joint_compression=stage > 0)
    return model


def _configuration(
    cto: Any, kind: str, weight: weight_list.Weight, system: str, exceptions: list[str]
) -> tuple[str, Any]:
    """coremltools' function and its settings for one weight and one kind of compression."""
    if kind == "prune":
        return "prune_weights", cto.OpMagnitudePrunerConfig(
            target_sparsity=SPARSITY, weight_threshold=weight_list.LEAST - 1
        )
    if kind.startswith("lut"):
        bits = int(kind[3:])
        grouped: dict[str, Any] = {"granularity": "per_tensor"}
        if newer(system, "iOS18"):
            if weight.channels % GROUP == 0:
                grouped = {"granularity": "per_grouped_channel", "group_size": GROUP}
            else:
                exceptions.append(
                    f"{weight.group}: {weight.channels} channels are no multiple of {GROUP};"
                    " one table for the whole weight"
                )
        return "palettize_weights", cto.OpPalettizerConfig(
            mode="kmeans", nbits=bits, weight_threshold=weight_list.LEAST - 1, **grouped
        )
    scales: dict[str, Any] = {"granularity": "per_channel"}
    if kind == "table8":  # the lookup tables themselves, which have no channels
        scales = {"granularity": "per_tensor"}
    elif kind == "int4" and weight.inputs and weight.inputs % BLOCK == 0:
        scales = {"granularity": "per_block", "block_size": BLOCK}
    elif kind == "int4" and weight.inputs:
        exceptions.append(
            f"{weight.group}: {weight.inputs} inputs are no multiple of {BLOCK}; one int4 scale"
            " per channel"
        )
    return "linear_quantize_weights", cto.OpLinearQuantizerConfig(
        mode="linear_symmetric",
        dtype="int4" if kind == "int4" else "int8",
        weight_threshold=0 if kind == "table8" else weight_list.LEAST - 1,
        **scales,
    )


def _refuse_destroyed(full: list[weight_list.Weight], made: list[weight_list.Weight]) -> None:
    """Raise :class:`VerificationError` for a weight that no longer resembles the one it encodes.

    A scale applied twice, or to the wrong axis, gives a relative error near 1 or far above; the
    coarsest honest form, three quarters pruned and four bits, stays well below ``DESTROYED``.
    """
    floats = {weight.stem: weight.source for weight in full}
    for weight in made:
        if not weight.compressed:
            continue
        before = weight_list.dense(floats[weight.stem]).astype(np.float32)
        after = weight_list.dense(weight.source).astype(np.float32)
        error = float(np.linalg.norm(after - before)) / max(float(np.linalg.norm(before)), 1e-12)
        if not error <= DESTROYED:
            raise VerificationError(
                f"{weight.group}: its compressed weight '{weight.name}' differs from the float one"
                f" by {error:.2g} relative, coremltools encoded it wrongly; nothing was written."
                " Give that group another precision"
            )


def _left_float(
    program: Any, plan: Plan, rungs: dict[str, Rung], modules: dict[str, str]
) -> list[str]:
    """What was asked to be compressed and is not: coremltools skips with a log line at most."""
    weights = weight_list.find(program, modules)
    asked = {name: rungs[chosen] for name, chosen in weight_list.chosen(weights, plan).items()}
    left = [
        f"{weight.group}: left in float, coremltools skipped it"
        for weight in weights
        if asked[weight.name].weights and not weight.compressed
    ]
    eight = {
        op.inputs["weight"].op.name
        for op in program.functions["main"].operations
        if op.op_type in ("linear", "conv")
        and getattr(op.inputs["x"].op, "op_type", "") == "dequantize"
    }
    return left + [
        f"{weight.group}: its activations are left in float ({weight.consumer})"
        for weight in weights
        if asked[weight.name].activations
        and weight.consumer != "gather"  # it reads integers
        and weight.name not in eight
    ]
