"""What names an example in the signal store: its content, and nothing else.

A position or a step number would silently pair a signal with another example as soon as the data
is shuffled, extended or filtered. The label is not content: the teacher never sees it, and the
same text labelled later must find the signal it already has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import InputError
from edgekd.preprocess import Row

KEY = np.dtype("S16")
# The mark of a row that only the teacher labels, where the truth is the text and cannot be left out.
SOFT_ONLY = "soft_only"
NOT_CONTENT = frozenset({"label", "labels", "tags", "answers", "score", "id", SOFT_ONLY})


def key(content: bytes | Row) -> bytes:
    """Return the 16-byte BLAKE2b key of raw content or of a row.

    A row is keyed by all its columns except those that hold answers (``NOT_CONTENT``): text
    columns by their characters, arrays (pixels, samples) by their dtype, shape and bytes. The
    last bit is always set, so no key ends in the null byte that NumPy's ``S16`` would drop.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        columns = sorted(k for k, v in content.items() if k not in NOT_CONTENT and v is not None)
        if not columns:
            raise InputError(f"a row has no content to key it by; its columns are {list(content)}")
        for column in columns:
            _update(digest, column)
            _update(digest, content[column])
    value = digest.digest()
    return value[:-1] + bytes([value[-1] | 1])


def keys(rows: Iterable[Row]) -> np.ndarray:
    """Return the keys of ``rows`` as an array of dtype ``S16``."""
    return np.array([key(row) for row in rows], KEY)


def fingerprint(*parts: str | bytes | Path) -> str:
    """Return one hash of strings, bytes, files and folders: 32 hexadecimal digits.

    It names a teacher revision (the folder of its weights) or a preprocessing (its description
    and its tokenizer). A folder counts with the names and bytes of all its files.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Path):
            files = sorted(f for f in part.rglob("*") if f.is_file()) if part.is_dir() else [part]
            for file in files:
                _update(digest, file.relative_to(part).as_posix() if part.is_dir() else file.name)
                with file.open("rb") as stream:
                    _update(digest, hashlib.file_digest(stream, "blake2b").digest())
        else:
            _update(digest, part)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Feed one value with its type and length, so that no two contents read the same."""
    if isinstance(value, str | Path):
        kind, data = b"s", str(value).encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        kind, data = b"b", value
    elif isinstance(value, Mapping):
        digest.update(b"m" + len(value).to_bytes(8, "little"))
        for name in sorted(value):
            _update(digest, name)
            _update(digest, value[name])
        return
    elif isinstance(value, list | tuple):
        digest.update(b"l" + len(value).to_bytes(8, "little"))
        for item in value:
            _update(digest, item)
        return
    else:
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise InputError(f"a row holds a {type(value).__name__}, which cannot be keyed")
        kind, data = f"a{array.dtype.str}{np.shape(value)}".encode(), array.tobytes()
    digest.update(kind + len(data).to_bytes(8, "little") + data)
