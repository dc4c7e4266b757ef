"""Teacher signals on disk, found by the content of the example.

    store.json          teacher revision, preprocessing, fields
    <hash>.safetensors  shards; the name is the hash of the keys inside, in order
    index-<hash>.bin    all keys, sorted, with the row each is in; the name says for which shards
    lock                held while one process writes

Reading costs memory that does not grow with the store: shards and the index are mapped, a key is
found by binary search on the mapped index, and only the rows asked for are copied. A shard is
complete or absent; one that is cut off or altered is passed over, so its rows are missing again
and :func:`edgekd.signals.label.label` labels them anew. The index is derived from the shards and
rebuilt whenever they are not those it was made for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgekd.errors import InputError
from edgekd.signals import shard
from edgekd.signals.keys import KEY

SCHEMA = "edgekd.signals/1"
SUFFIX = ".safetensors"
_ENTRY = np.dtype([("key", KEY), ("row", "<u4")])

Signals = dict[str, "np.ndarray | list[np.ndarray]"]


class Field(NamedTuple):
    """One named signal: NumPy dtype, and shape per row.

    A first dimension of ``None`` differs from row to row (tokens, frames): ``("float16", (77,))``
    is dense logits, ``("float16", (None, 384))`` one vector per token.
    """

    dtype: str
    shape: tuple[int | None, ...]

    @property
    def ragged(self) -> bool:
        return bool(self.shape) and self.shape[0] is None

    @property
    def dense(self) -> tuple[int, ...]:
        """The dimensions that every row, or every position of a ragged row, has."""
        return tuple(size for size in self.shape if size is not None)


@dataclass(frozen=True)
class SignalSpec:
    """What a store holds, and of which teacher.

    ``teacher`` and ``preprocessing`` are hashes (:func:`edgekd.signals.keys.fingerprint`) of the
    teacher's weights and of everything between a raw row and its input.
    """

    teacher: str
    preprocessing: str
    fields: Mapping[str, Field]

    def __post_init__(self) -> None:
        fields = {k: Field(v[0], tuple(v[1])) for k, v in sorted(self.fields.items())}
        for name, field in fields.items():
            if None in field.shape[1:] or "." in name or name == "key":
                raise InputError(f"the signal field {name!r} cannot have the shape {field.shape}")
        object.__setattr__(self, "fields", fields)


class SignalStore:
    """A folder of signals: ``SignalStore.open(path, spec)``."""

    def __init__(self, path: Path, spec: SignalSpec) -> None:
        self.path = path
        self.spec = spec
        self.damaged: dict[str, str] = {}  # file name -> what is wrong with it
        self._shards: dict[str, dict[str, np.ndarray]] = {}
        self._index: np.ndarray | None = None

    @classmethod
    def open(
        cls, path: str | Path, spec: SignalSpec | None = None, *, verify: bool = True
    ) -> SignalStore:
        """Open the store in ``path``; with a ``spec``, make one where there is none.

        ``verify`` compares every shard's checksum, which reads each byte once; without it only
        sizes are compared. Raises :class:`InputError` for a store of another teacher revision or
        preprocessing, and for one that lacks a field of ``spec``; a wider dtype serves as well.
        """
        folder = Path(path)
        file = folder / "store.json"
        if file.is_file():
            found = _read_spec(file)
            if spec is not None:
                _refuse_other(folder, found, spec)
        elif spec is None:
            raise InputError(f"{folder} is not a signal store: it has no store.json")
        else:
            found = spec
            _write_spec(file, spec)
        store = cls(folder, found)
        for name in sorted(p.name for p in folder.glob(f"*{SUFFIX}")):
            store._load(name, verify)
        return store

    def __reduce__(self) -> Any:
        """Another process opens the folder itself: what is mapped is not sent."""
        return _reopen, (self.path, self.spec)

    def __len__(self) -> int:
        """Number of examples whose signals are here."""
        keys = self._lookup()["key"]  # a row that two labellers met stands here twice
        return int((keys[1:] != keys[:-1]).sum()) + 1 if len(keys) else 0

    def contains(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Whether each key is here: bool [len(keys)]."""
        return self._find(np.asarray(keys, KEY))[1]

    def missing(self, keys: Sequence[bytes] | np.ndarray) -> np.ndarray:
        """Return the keys that are not here, each once, in their first order: ``S16`` array."""
        wanted = np.asarray(keys, KEY)
        absent = wanted[~self.contains(wanted)]
        _, first = np.unique(absent, return_index=True)
        return absent[np.sort(first)]

    def append(
        self, keys: Sequence[bytes] | np.ndarray, signals: Mapping[str, Sequence[Any] | np.ndarray]
    ) -> None:
        """Write the signals of ``keys`` as one complete shard.

        ``signals`` has every field of the store: an array [len(keys), ...], or for a ragged field
        one array per key. Raises :class:`InputError` for NaN or infinity (also where a value does
        not fit the field's dtype), a missing field or a wrong shape.
        """
        names = np.asarray(keys, KEY)
        if not len(names):
            return
        arrays = {"key": names.view(np.uint8).reshape(-1, KEY.itemsize)}
        for name, field in self.spec.fields.items():
            if name not in signals:
                raise InputError(
                    f"the store {self.path} keeps the signal '{name}', which the teacher was not"
                    " asked for; ask for the same signals or label into another folder"
                )
            arrays |= _columns(name, field, signals[name], len(names))
        digest = hashlib.blake2b(names.tobytes(), digest_size=8).hexdigest()
        with self._writing():
            for damaged in self.damaged:
                (self.path / damaged).unlink(missing_ok=True)
            self.damaged.clear()
            shard.write(self.path / (digest + SUFFIX), arrays)
        self._load(digest + SUFFIX, verify=False)
        # The same order whoever wrote which shard when: row numbers and the index depend on it.
        self._shards = dict(sorted(self._shards.items()))
        self._index = None

    def get(
        self, keys: Sequence[bytes] | np.ndarray, fields: Sequence[str] | None = None
    ) -> Signals:
        """Return the signals of ``keys`` in their order; ``fields`` limits which.

        A dense field is an array [len(keys), ...], a ragged one a list of arrays.
        Raises :class:`InputError` where a key is not here.
        """
        wanted = np.asarray(keys, KEY)
        rows, found = self._find(wanted)
        if not found.all():
            raise InputError(
                f"{int((~found).sum())} of {len(wanted)} rows have no teacher signal in"
                f" {self.path}; label them first"
            )
        names = list(self.spec.fields if fields is None else fields)
        result: Signals = {}
        for name in names:
            field = self.spec.fields[name]
            result[name] = (
                [np.empty(0)] * len(wanted)
                if field.ragged
                else np.empty((len(wanted), *field.dense), field.dtype)
            )
        starts, shards = self._starts, list(self._shards.values())
        owner = np.searchsorted(starts, rows, "right") - 1
        for number in np.unique(owner):
            here = np.flatnonzero(owner == number)
            inside = rows[here] - starts[number]
            arrays = shards[number]
            if (arrays["key"].view(KEY)[inside, 0] != wanted[here]).any():
                raise InputError(
                    f"the index of {self.path} is damaged; delete its index-*.bin and run again"
                )
            for name in names:
                out = result[name]
                if isinstance(out, list):
                    offsets = arrays[f"{name}.offsets"]
                    for index, row in zip(here, inside, strict=True):
                        out[index] = np.array(arrays[name][offsets[row] : offsets[row + 1]])
                else:
                    out[here] = arrays[name][inside]
        return result

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, the index included."""
        self._lookup()
        return sum(file.stat().st_size for file in self.path.iterdir())

    @property
    def _starts(self) -> np.ndarray:
        """The number of the first row of each shard, int64 [shards]."""
        sizes = [len(arrays["key"]) for arrays in self._shards.values()]
        return np.cumsum([0, *sizes[:-1]])

    def _find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return row numbers, int64, and whether each key was found, bool."""
        index = self._lookup()
        if not len(index):
            return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
        place = np.minimum(np.searchsorted(index["key"], wanted), len(index) - 1)
        return index["row"][place].astype(np.int64), index["key"][place] == wanted

    def _load(self, name: str, verify: bool) -> None:
        try:
            arrays = shard.read(self.path / name, verify=verify)
        except shard.Damaged as error:
            self.damaged[name] = str(error)
            return
        self.damaged.pop(name, None)
        self._shards[name] = arrays

    def _lookup(self) -> np.ndarray:
        """Map the index of exactly these shards, building it where there is none."""
        if self._index is None:
            total = sum(len(arrays["key"]) for arrays in self._shards.values())
            digest = hashlib.blake2b("\n".join(self._shards).encode(), digest_size=8).hexdigest()
            file = self.path / f"index-{digest}.bin"
            self._index = self._map(file, total) if total else np.empty(0, _ENTRY)
        return self._index

    def _map(self, file: Path, total: int) -> np.ndarray:
        with contextlib.suppress(FileNotFoundError, ValueError):  # or cut off
            found = np.memmap(file, _ENTRY, "r")
            if len(found) == total:
                return found
        try:
            with self._writing():  # mapped under the lock: another process may replace it after
                self._build(file)
                return np.memmap(file, _ENTRY, "r")
        except OSError:  # a read-only or full disk: the index is derived, memory will do
            index = np.concatenate(list(self._entries()))
            index.view(f"S{_ENTRY.itemsize}").sort()
            return index

    def _entries(self) -> Iterator[np.ndarray]:
        for start, arrays in zip(self._starts, self._shards.values(), strict=True):
            entries = np.empty(len(arrays["key"]), _ENTRY)
            entries["key"] = arrays["key"].view(KEY)[:, 0]
            entries["row"] = np.arange(start, start + len(entries))
            yield entries

    def _build(self, file: Path) -> None:
        temporary = file.with_name(file.name + ".tmp")
        try:  # written, not mapped: on a full disk a mapped write is SIGBUS, not an error
            with temporary.open("wb") as stream:
                for entries in self._entries():
                    stream.write(entries.tobytes())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        index = np.memmap(temporary, _ENTRY, "r+")
        index.view(f"S{_ENTRY.itemsize}").sort()  # in place, in the file: no copy in memory
        index.flush()
        temporary.replace(file)
        for other in self.path.glob("index-*.bin"):
            if other != file:
                other.unlink()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the store's lock, and clear what a killed writer left behind."""
        import fcntl

        handle = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for leftover in self.path.glob("*.tmp"):
                leftover.unlink()
            yield
        finally:
            os.close(handle)


def _reopen(path: Path, spec: SignalSpec) -> SignalStore:
    return SignalStore.open(path, spec, verify=False)


def pad(
    rows: Sequence[np.ndarray], length: int | None = None, value: float = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pad ragged rows [n_i, ...] to one array [rows, length, ...] and its mask, bool.

    ``length`` defaults to the longest row; longer rows are cut.
    """
    width = max((len(row) for row in rows), default=0) if length is None else length
    sample = rows[0] if rows else np.empty(0)
    out = np.full((len(rows), width, *sample.shape[1:]), value, sample.dtype)
    mask = np.zeros((len(rows), width), bool)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row[:width]
        mask[index, : len(row)] = True
    return out, mask


def _columns(name: str, field: Field, values: Any, rows: int) -> dict[str, np.ndarray]:
    """Check one field's values and return the arrays that store them."""
    if len(values) != rows:
        raise InputError(f"the signal '{name}' has {len(values)} rows for {rows} keys")
    shape = field.dense
    parts = [np.asarray(v) for v in values] if field.ragged else [np.asarray(values)]
    for part in parts:
        if part.shape[1:] != shape:
            raise InputError(
                f"the signal '{name}' has the shape {part.shape[1:]} per"
                f" {'position' if field.ragged else 'row'}, the store keeps {shape}"
            )
    joined = np.concatenate(parts) if field.ragged else parts[0]
    with np.errstate(over="ignore", invalid="ignore"):
        array = joined.astype(field.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        cause = (
            f"values up to {np.abs(joined).max():.3g}, too large for {field.dtype}"
            if np.isfinite(joined).all()
            else "NaN or infinity"
        )
        raise InputError(
            f"the teacher's '{name}' holds {cause}; check the teacher in fp32, or keep its answers"
            " in a wider dtype (edgekd label --dtype float32, and data.signals in the recipe)"
        )
    if array.dtype.kind in "iu" and (array != joined).any():
        raise InputError(f"the teacher's '{name}' does not fit {field.dtype}; use a wider dtype")
    if not field.ragged:
        return {name: array}
    lengths = [len(part) for part in parts]
    return {name: array, f"{name}.offsets": np.cumsum([0, *lengths], dtype=np.int64)}


def _refuse_other(folder: Path, found: SignalSpec, wanted: SignalSpec) -> None:
    mend = "give another folder, or delete this one to label anew"
    for what, mine, theirs in (
        ("another teacher revision", wanted.teacher, found.teacher),
        ("another preprocessing", wanted.preprocessing, found.preprocessing),
    ):
        if mine != theirs:
            raise InputError(
                f"the signals in {folder} were made by {what} ({theirs[:12]}, now {mine[:12]});"
                f" {mend}"
            )
    for name, field in wanted.fields.items():
        kept = found.fields.get(name)
        wider = kept is not None and np.can_cast(field.dtype, kept.dtype)
        if kept is None or kept.shape != field.shape or not wider:
            has = ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in found.fields.items())
            raise InputError(
                f"the signals in {folder} lack '{name}' as {field.dtype}{list(field.shape)} (it has"
                f" {has}); {mend}"
            )


def _read_spec(file: Path) -> SignalSpec:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']!r}, not {SCHEMA!r}")
        return SignalSpec(values["teacher"], values["preprocessing"], values["fields"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); delete the store to label anew"
        ) from error


def _write_spec(file: Path, spec: SignalSpec) -> None:
    values = {
        "schema": SCHEMA,
        "teacher": spec.teacher,
        "preprocessing": spec.preprocessing,
        "fields": {name: [field.dtype, list(field.shape)] for name, field in spec.fields.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".json{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)
    shard.sync_folder(file.parent)
