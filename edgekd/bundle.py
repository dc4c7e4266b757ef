"""What an export leaves on disk: a directory that is complete.

    model file(s)          what the runtime loads
    tokenizer.json, …      what turns a raw row into model inputs
    bundle.json            the manifest below
    golden.npz, golden.json   raw rows, their encoded inputs and this bundle's own outputs:
                           the self-test that a device runs

Reading a bundle needs neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import __version__, audio, preprocess
from edgekd.errors import EdgekdError, InputError

SCHEMA = "edgekd.bundle/1"
MANIFEST = "bundle.json"
STRING = "string"  # the dtype of a raw text: the graph holds its tokenizer


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name, dtype, shape and value range.

    A string in ``shape`` names a dynamic dimension (``"batch"``, ``"sequence"``); ``range`` is
    inclusive and ``None`` where any value goes.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Manifest:
    """``bundle.json``. Every field is plain JSON except the tensor specs."""

    task: str
    target: str  # which exporter made it and can open it
    precision: str
    variant: str  # precision, plus what else tells two bundles of a target apart
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Mapping[str, Any]
    model_files: tuple[str, ...]  # the files that the runtime loads
    runtime: Mapping[str, Any]  # opset or deployment target, shapes, what the exporter wants back
    provenance: Mapping[str, Any]  # source model, parameters, library versions
    tolerance: float  # relative error allowed against the golden outputs
    golden: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # name -> sha256
    schema: str = SCHEMA
    edgekd: str = __version__
    digest: str = ""  # sha256 of all the fields above

    def seal(self) -> str:
        """What ``digest`` has to be."""
        values = json.loads(json.dumps({**asdict(self), "digest": ""}))  # as a reader sees it
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk: ``Bundle.open(path)``."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest; raise :class:`InputError` where it is absent or unreadable."""
        folder = Path(path)
        file = folder / MANIFEST
        if not file.is_file():
            raise InputError(f"{folder} is not a bundle: it has no {MANIFEST}")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("not an object")
            if values.get("schema") != SCHEMA:
                raise InputError(
                    f"{file} has schema {values.get('schema')!r}, this edgekd reads {SCHEMA!r};"
                    " export it again"
                )
            for side in ("inputs", "outputs"):
                values[side] = tuple(_tensor_spec(spec) for spec in values[side])
            for name in ("labels", "model_files"):
                values[name] = tuple(values[name])
            return cls(folder, Manifest(**values))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} cannot be read ({error}); export it again") from error

    @property
    def preprocessor(self) -> preprocess.Preprocessor:
        return preprocess.load(self.manifest.preprocess, self.path)

    def encode(self, rows: Sequence[preprocess.Row]) -> dict[str, np.ndarray]:
        """Turn raw rows into model inputs, padded as the bundle's shapes ask."""
        return encode(self.manifest, self.preprocessor, rows)

    def encode_each(self, rows: Sequence[preprocess.Row]) -> Iterator[dict[str, np.ndarray]]:
        """Encode rows one by one; :class:`InputError` names the first that has another form."""
        for place, row in enumerate(rows, 1):
            try:
                yield self.encode([row])
            except EdgekdError:
                raise
            except Exception as error:  # of Pillow, tokenizers and numpy, each its own
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
                raise InputError(
                    f"row {place} ({_form(row)}) is not what {self.path} reads ({reason}); give rows"
                    " like those that it was trained on"
                ) from error

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that the runtime loads."""
        return sum(_bytes(self.path / name) for name in self.manifest.model_files)

    @property
    def bundle_bytes(self) -> int:
        """Bytes of the whole directory."""
        return _bytes(self.path)

    def golden(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the golden rows, their encoded inputs, and this bundle's outputs for them."""
        try:
            rows = json.loads((self.path / "golden.json").read_text(encoding="utf-8"))["rows"]
            with np.load(self.path / "golden.npz") as arrays:
                inputs = {k[3:]: arrays[k] for k in arrays.files if k.startswith("in.")}
                outputs = {k[4:]: arrays[k] for k in arrays.files if k.startswith("out.")}
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.path}: its golden samples cannot be read ({error}); export it again"
            ) from error
        for row in rows:
            for role in ("image", "audio"):
                if role in row:
                    row[role] = str(self.path / row[role])
        return rows, inputs, outputs

    def check_files(self) -> None:
        """Compare every file's sha256; raise :class:`InputError` naming the first that differs."""
        if self.manifest.digest != self.manifest.seal():
            raise InputError(
                f"{self.path / MANIFEST} is not what was exported (its digest differs); export the"
                " bundle again"
            )
        for name in (*self.manifest.model_files, "golden.json", "golden.npz"):
            if not any(n == name or n.startswith(f"{name}/") for n in self.manifest.files):
                raise InputError(
                    f"{self.path / MANIFEST} has no checksum of {name}; export the bundle again"
                )
        for name, expected in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise InputError(f"{file} is missing; the bundle is incomplete, export it again")
            if sha256(file) != expected:
                raise InputError(
                    f"{file} is not the file that was exported (sha256 differs); export it again"
                )


def _form(row: preprocess.Row) -> str:
    """``image of shape (8, 8, 5)``"""
    return ", ".join(
        f"{name} of shape {value.shape}" if isinstance(value, np.ndarray) else name
        for name, value in row.items()
    )


def encode(
    manifest: Manifest,
    preprocessor: preprocess.Preprocessor,
    rows: Sequence[preprocess.Row],
    length: int | None = None,
) -> dict[str, np.ndarray]:
    """Encode rows as ``manifest`` asks: its padding, its input names, its dtypes.

    Of several allowed lengths the shortest that holds every row is taken, unless ``length`` says.
    """
    if manifest.inputs[0].dtype == STRING:
        return {manifest.inputs[0].name: _texts(rows)}
    lengths = manifest.runtime.get("lengths")  # fixed or enumerated sizes of the variable axis
    if length or not lengths:
        arrays = preprocessor.encode(rows, length)
    else:
        arrays = preprocessor.encode(rows, max(lengths))
        if len(lengths) > 1 and "attention_mask" in arrays:
            used = int(arrays["attention_mask"].sum(1).max())
            arrays = preprocessor.encode(
                rows, min(n for n in lengths if n >= min(used, max(lengths)))
            )
    unknown = [spec.name for spec in manifest.inputs if spec.name not in arrays]
    if unknown:
        raise InputError(
            f"the model wants the input '{unknown[0]}', its preprocessing makes"
            f" {', '.join(arrays)}; export it again"
        )
    return {spec.name: arrays[spec.name].astype(spec.dtype) for spec in manifest.inputs}


def _texts(rows: Sequence[preprocess.Row]) -> np.ndarray:
    if any(row.get("text_pair") is not None for row in rows):
        raise InputError("the tokenizer in this model's graph reads one text, not pairs")
    return np.array([row["text"] for row in rows])


def write(
    folder: Path,
    manifest: Manifest,
    preprocessor: preprocess.Preprocessor,
    rows: Sequence[preprocess.Row],
    golden_inputs: Mapping[str, np.ndarray],
    golden_outputs: Mapping[str, np.ndarray],
) -> Bundle:
    """Complete ``folder``, which already holds the model files, into a bundle."""
    preprocessor.save(folder)
    arrays: dict[str, Any] = {f"in.{k}": v for k, v in golden_inputs.items()}
    arrays |= {f"out.{k}": v for k, v in golden_outputs.items()}
    np.savez(folder / "golden.npz", allow_pickle=False, **arrays)
    plain = [_plain(row, folder, index) for index, row in enumerate(rows)]
    golden = {"schema": "edgekd.golden/1", "rows": plain}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != MANIFEST
    )
    manifest = replace(manifest, files={name: sha256(folder / name) for name in names})
    manifest = replace(manifest, digest=manifest.seal())
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return Bundle(folder, manifest)


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensor_spec(values: Mapping[str, Any]) -> TensorSpec:
    limits = values.get("range")
    return TensorSpec(
        values["name"],
        values["dtype"],
        tuple(values["shape"]),
        (limits[0], limits[1]) if limits else None,
    )


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _plain(row: preprocess.Row, folder: Path, index: int) -> dict[str, Any]:
    """A row as JSON; an image becomes a PNG beside it and a sound a WAV, named by their paths."""
    plain: dict[str, Any] = {
        k: v for k, v in row.items() if isinstance(v, str | int | float | list)
    }
    if "image" in row:
        from PIL import Image

        image = row["image"]
        picture = Image.open(image) if isinstance(image, str | Path) else image
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(np.asarray(picture, np.uint8))
        plain["image"] = f"golden/{index}.png"
        (folder / "golden").mkdir(exist_ok=True)
        picture.save(folder / plain["image"])
    if "audio" in row:
        plain["audio"] = f"golden/{index}.wav"
        (folder / "golden").mkdir(exist_ok=True)
        audio.write(folder / plain["audio"], row)
    return plain
