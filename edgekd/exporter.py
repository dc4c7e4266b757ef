"""The contract every exporter implements, the registry, and the one way to make a bundle.

An exporter never decides by itself that its output is right: :meth:`Exporter.lower` opens what
was written, runs it on real rows, compares with torch, and only then moves it into place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from edgekd.bundle import STRING, Bundle, Manifest, encode, write
from edgekd.errors import EdgekdError, InputError, VerificationError, nearest
from edgekd.publish import publish, staged

if TYPE_CHECKING:
    from edgekd.evaluate.cross import Opinion
    from edgekd.preprocess import Preprocessor, Row
    from edgekd.program import Program, Shapes

GROUP = "edgekd.exporters"
AUTO = "auto"  # the precision that a search chooses
# Token ids are equal; pixels may differ in their last bits between two builds of numpy.
ENCODING_TOLERANCE = 1e-5
_BUILTIN = {
    "onnx": "edgekd_exporters.onnx:OnnxExporter",
    "coreml": "edgekd_exporters.coreml:CoreMLExporter",
    "browser": "edgekd_exporters.browser:BrowserExporter",
}


@dataclass(frozen=True)
class Spec:
    """What one export is asked to be."""

    shapes: Shapes
    compute: Literal["fp32", "fp16"] = "fp32"
    deployment: str | None = None  # opset or OS version; None is the exporter's default
    metadata: Mapping[str, str] = field(default_factory=dict)  # author, licence, description
    options: Mapping[str, Any] = field(default_factory=dict)  # what only this exporter knows


@dataclass(frozen=True)
class Plan:
    """The precision of each compressible group; ``default`` where a group is not named."""

    default: str
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A compressible part of a bundle, by module path (``bert.encoder.layer.0.attention``)."""

    name: str
    weight_bytes: int


@dataclass(frozen=True)
class Finding:
    """What a check found. ``error`` fails the bundle; ``warning`` and ``note`` inform."""

    level: Literal["error", "warning", "note"]
    message: str
    where: str = ""  # op or file


@dataclass(frozen=True)
class Runtime:
    """How a session runs; an exporter ignores what its runtime lacks."""

    threads: int = 1
    spinning: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """A loaded bundle. Evaluate and bench know only this.

    ``kind`` is ``native`` (the target's own runtime) or ``reference`` (the interpreter, whose
    results say what the numbers are and never how fast they come).

    A session whose runtime is a process of its own may time itself: ``elapsed_ms`` of the last
    run, ``load_ms``, and ``peak_memory_bytes`` are then used instead of this process's view.
    """

    kind: Literal["native", "reference"]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch of encoded inputs; return outputs by name, floats as float32."""
        ...

    def describe(self) -> dict[str, Any]:
        """Name the runtime, its version and its options, for the record."""
        ...

    def close(self) -> None: ...


class Exporter(ABC):
    """One target. Third parties register theirs under the entry-point group ``edgekd.exporters``.

    A subclass writes model files (:meth:`write_float`, :meth:`write_compressed`); the base class
    opens them, compares them on real rows, adds the golden samples and moves the finished bundle
    into place, so that no exporter can skip the check.
    """

    name: ClassVar[str]
    default_precisions: ClassVar[tuple[str, ...]]  # what a recipe that names none gets
    # What `auto` does not try of itself; see :meth:`automatic`.
    not_automatic: ClassVar[tuple[str, ...]] = ()
    # What a bundle is proved on, where it is made and verified: a machine may lack its own device.
    proving: ClassVar[Runtime] = Runtime()
    # Precisions whose activation ranges come from rows, so that made-up ones would mislead.
    calibrated: ClassVar[frozenset[str]] = frozenset()
    # Bare files that :meth:`check_model` reads.
    model_suffixes: ClassVar[tuple[str, ...]] = ()
    default_compute: ClassVar[Literal["fp32", "fp16"]] = "fp32"
    # Largest relative error against torch (float) or against the float bundle (compressed) with
    # which a bundle may leave; a precision that is not named must only be finite.
    tolerances: ClassVar[Mapping[str, float]]
    # Modules that open() imports; the bench imports them before it times or weighs anything.
    runtime_modules: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def precisions(self, spec: Spec) -> tuple[str, ...]:
        """Every precision that ``spec`` allows, the float one first."""

    def automatic(self, spec: Spec, runtime: Runtime) -> tuple[str, ...]:
        """What `auto` tries where bundles run as ``runtime`` says, the float one first."""
        return tuple(name for name in self.precisions(spec) if name not in self.not_automatic)

    @abstractmethod
    def write_float(self, program: Program, spec: Spec, folder: Path) -> Manifest:
        """Write the float model of ``program`` into the empty ``folder``; describe it."""

    @abstractmethod
    def write_compressed(
        self, bundle: Bundle, plan: Plan, calibration: Sequence[Row], folder: Path
    ) -> Manifest:
        """Write ``bundle``'s model compressed by ``plan`` into the empty ``folder``."""

    def made_for(self, precision: str) -> str | None:
        """What of this machine decides how ``precision`` comes out; None where nothing does."""
        return None

    @abstractmethod
    def groups(self, bundle: Bundle) -> list[Group]:
        """List the compressible parts, in graph order."""

    @abstractmethod
    def inspect(self, bundle: Bundle, length: int | None = None) -> dict[str, Any]:
        """Exact figures: ``weight_bytes``, ``macs``, ``ops`` (a histogram), …

        ``macs`` are of one example of ``length`` tokens where the bundle has a token axis, of the
        longest usual one by default; the returned ``length`` says which, None without an axis.
        """

    @abstractmethod
    def check(self, bundle: Bundle) -> list[Finding]:
        """Lint the bundle without running it."""

    def check_model(self, path: Path) -> list[Finding]:
        """Lint a bare model file of this target, one whose suffix is in ``model_suffixes``."""
        raise InputError(f"{self.name} cannot check {path.name} outside of a bundle")

    @abstractmethod
    def open(self, bundle: Bundle, runtime: Runtime | None = None) -> Session:
        """Load the bundle. Must import neither torch nor transformers where the target allows."""

    def opened(self, bundle: Bundle, runtime: Runtime) -> Bundle:
        """``bundle`` as ``open`` reads it with ``runtime``: of several models, the one asked for.

        Raises :class:`InputError` for one that is not there.
        """
        return bundle

    def cross_check(
        self, bundle: Bundle, rows: Sequence[Row], runtime: Runtime
    ) -> Iterator[Opinion]:
        """Other runtimes on the files and rows that ``open`` with ``runtime`` ran; by default none."""
        return iter(())

    def slot(self, precision: str) -> str | None:
        """What a bundle of several precisions calls this one; None where a bundle holds one."""
        return None

    def combine(self, bundles: Sequence[Bundle], out: Path) -> Bundle:
        """Publish at ``out`` one bundle with several precisions of a model, each of its own slot.

        The first is what opens unless another is asked for.
        """
        raise InputError(f"a {self.name} bundle holds one precision; export each by itself")

    def lower(self, program: Program, spec: Spec, out: Path) -> Bundle:
        """Export ``program`` in float, compare with torch on its rows, and publish at ``out``.

        Raises :class:`VerificationError` where the numbers differ; ``out`` then stays as it was.
        """
        _check_lengths(program, spec)
        with staged(out) as stage:
            manifest = self.write_float(program, spec, stage)
            rows, encoder = program.rows, program.preprocessor
            inputs = encoded = encode(manifest, encoder, rows)
            if manifest.inputs[0].dtype == STRING:  # the graph holds the tokenizer, torch does not
                encoded = encode(replace(manifest, inputs=program.inputs), encoder, rows)
            self._check_every_length(stage, manifest, program)
            return self._finish(stage, out, manifest, encoder, rows, inputs, program.run(encoded))

    def compress(self, bundle: Bundle, plan: Plan, calibration: Sequence[Row], out: Path) -> Bundle:
        """Compress a float bundle by ``plan``, compare with it, and publish at ``out``.

        ``calibration`` rows set activation ranges where the plan needs them; they never come
        from the test data.
        """
        if out.resolve() == bundle.path.resolve():
            raise InputError(f"{out} is the bundle to be compressed itself; name another folder")
        with staged(out) as stage, _blamed(f"{self.name} {plan.default}", bundle.path):
            manifest = self.write_compressed(bundle, plan, calibration, stage)
            rows, inputs, reference = bundle.golden()
            return self._finish(stage, out, manifest, bundle.preprocessor, rows, inputs, reference)

    def _check_every_length(self, stage: Path, manifest: Manifest, program: Program) -> None:
        """Where several lengths are allowed, run the rows at each: every one is its own graph."""
        lengths = manifest.runtime.get("lengths") or ()
        if len(lengths) < 2:
            return
        session = self.open(Bundle(stage, manifest), self.proving)
        try:
            for length in lengths:
                inputs = encode(manifest, program.preprocessor, program.rows, length)
                outputs = _run_rows(session, manifest, inputs)
                self._compare(manifest, outputs, program.run(inputs), f" at the length {length}")
        finally:
            session.close()

    def _compare(
        self,
        manifest: Manifest,
        outputs: Mapping[str, np.ndarray],
        reference: Mapping[str, np.ndarray],
        where: str = "",
    ) -> float:
        """The relative error; raise :class:`VerificationError` where the precision allows less."""
        error, name = worst_error(outputs, reference)
        allowed = self.tolerances.get(manifest.precision, float("inf"))
        if error <= allowed and np.isfinite(error):
            return error
        rows = len(next(iter(reference.values())))
        raise VerificationError(
            f"{self.name} {manifest.precision}: output '{name}' differs from the model it was"
            f" made from by {error:.2g} relative (allowed {allowed:.2g}) on {rows} rows{where};"
            " nothing was written. Try another precision"
        )

    def _finish(
        self,
        stage: Path,
        out: Path,
        manifest: Manifest,
        preprocessor: Preprocessor,
        rows: Sequence[Row],
        inputs: Mapping[str, np.ndarray],
        reference: Mapping[str, np.ndarray],
    ) -> Bundle:
        session = self.open(Bundle(stage, manifest), self.proving)
        try:
            outputs = _run_rows(session, manifest, inputs)
        finally:
            session.close()
        error = self._compare(manifest, outputs, reference)
        manifest = replace(manifest, provenance={**manifest.provenance, "relative_error": error})
        write(stage, manifest, preprocessor, rows, inputs, outputs)
        return publish(stage, out)


def _run_rows(
    session: Session, manifest: Manifest, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run the rows in one batch, or one by one where the bundle's batch is fixed at 1."""
    if isinstance(manifest.inputs[0].shape[0], str):
        return session.run(inputs)
    count = len(next(iter(inputs.values())))
    parts = [session.run({k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def available() -> list[str]:
    """Names of every registered exporter."""
    return sorted({*_BUILTIN, *(point.name for point in entry_points(group=GROUP))})


def get(name: str) -> Exporter:
    """Load an exporter by name; imports its package only now."""
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if len(points) > 1 or (points and name in _BUILTIN):
        raise InputError(f"two exporters are registered as '{name}'; uninstall one of them")
    if points:
        return points[0].load()()
    if name not in _BUILTIN:
        known = available()
        raise InputError(
            f"unknown target '{name}'{nearest(name, known)}; the targets are {', '.join(known)}"
        )
    module, attribute = _BUILTIN[name].split(":")
    return getattr(import_module(module), attribute)()


def for_model_file(path: Path) -> Exporter | None:
    """The exporter that can check a bare model file such as ``X.mlpackage``, if there is one."""
    if path.suffix not in (".mlpackage", ".mlmodel", ".mlmodelc") or not path.exists():
        return None
    exporter = get("coreml")
    return exporter if path.suffix in exporter.model_suffixes else None


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """max|a-b| / max|b|, and infinity where either is not finite or the shapes differ.

    Texts are equal (0) or not (infinity).
    """
    if value.shape != reference.shape:
        return float("inf")
    if reference.dtype.kind == "U":
        return 0.0 if np.array_equal(value, reference) else float("inf")
    if not (np.isfinite(value).all() and np.isfinite(reference).all()):
        return float("inf")
    if not reference.size:
        return 0.0
    return float(np.abs(value - reference).max() / max(np.abs(reference).max(), 1e-12))


def worst_error(
    outputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> tuple[float, str]:
    """The largest :func:`relative_error` over the named outputs, and its name."""
    errors = {name: relative_error(outputs[name], reference[name]) for name in reference}
    name = max(errors, key=lambda key: errors[key])
    return errors[name], name


def _check_lengths(program: Program, spec: Spec) -> None:
    longest = getattr(program.preprocessor, "max_length", None)
    if longest and max(spec.shapes.lengths, default=0) > longest:
        raise InputError(
            f"the length {max(spec.shapes.lengths)} is more than the {longest} tokens that the"
            " model reads; ask for a shorter one"
        )


@contextmanager
def _blamed(precision: str, source: Path) -> Iterator[None]:
    """What a quantizer or a runtime raises over one graph is that graph's fault, in one line."""
    try:
        yield
    except EdgekdError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"{precision} cannot be made of {source} ({reason}); take another precision, or keep the"
            " part that breaks in float (quantize --keep)"
        ) from error


def verify(exporter: Exporter, bundle: Bundle) -> float:
    """Self-test of a bundle against its golden outputs; return the relative error.

    Raises :class:`InputError` where a file was cut off or altered and
    :class:`VerificationError` where the outputs differ by more than the bundle's tolerance.
    """
    bundle.check_files()
    rows, inputs, expected = bundle.golden()
    error, name = worst_error(bundle.encode(rows), inputs)
    if error > ENCODING_TOLERANCE:
        raise VerificationError(
            f"{bundle.path}: its golden rows no longer encode to its golden '{name}'; the"
            " tokenizer or the preprocessing was changed: export it again"
        )
    session = exporter.open(bundle, exporter.proving)
    try:
        error, name = worst_error(_run_rows(session, bundle.manifest, inputs), expected)
    finally:
        session.close()
    if not error <= bundle.manifest.tolerance:
        raise VerificationError(
            f"{bundle.path}: output '{name}' differs from its golden value by {error:.2g} relative,"
            f" {bundle.manifest.tolerance:.2g} is allowed; export it again"
        )
    return error
