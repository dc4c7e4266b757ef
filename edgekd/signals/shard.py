"""One shard of signals: a safetensors file, written whole or not at all.

The format is safetensors (an 8-byte header length, a JSON header, then the raw arrays), so any
tool that reads it can read a shard; it is written here by hand because a shard must be the same
byte for byte however often it is made. ``__metadata__`` carries a CRC-32 of the data.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekd.errors import EdgekdError

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_NAMES = {np.dtype(v): k for k, v in _DTYPES.items()}


class Damaged(Exception):
    """A shard is cut off or its bytes are not those that were written."""


def write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` to ``file`` atomically: temporary file, fsync, rename, fsync of the folder.

    Raises :class:`EdgekdError` where the disk is full or read-only; nothing is left behind then.
    """
    # Wide items first keeps every array aligned to its item size, as safetensors itself does.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    parts = [np.ascontiguousarray(arrays[name]) for name in names]
    entries, offset, checksum = {}, 0, 0
    for name, part in zip(names, parts, strict=True):
        entries[name] = {
            "dtype": _NAMES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [offset, offset + part.nbytes],
        }
        offset += part.nbytes
        checksum = zlib.crc32(part.reshape(-1).view(np.uint8).data, checksum)
    header = json.dumps({"__metadata__": {"crc32": f"{checksum:08x}"}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    temporary = file.with_name(file.name + ".tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            for part in parts:
                stream.write(part.reshape(-1).view(np.uint8).data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EdgekdError(
            f"cannot write the signals {file} ({error.strerror}); make room and run again:"
            " what is complete stays"
        ) from error
    sync_folder(file.parent)


def read(file: Path, *, verify: bool) -> dict[str, np.ndarray]:
    """Map the arrays of a shard read-only; ``verify`` also compares the checksum.

    Raises :class:`Damaged` for a file that is cut off, or whose bytes have changed.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size - 8:
                raise Damaged(f"{file.name} is cut off")
            header = json.loads(stream.read(length))
        checksum = header.pop("__metadata__")["crc32"]
        start = 8 + length
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if size != start + end:
            raise Damaged(f"{file.name} has {size} bytes, its header promises {start + end}")
        data = np.memmap(file, np.uint8, "r", start) if end else np.empty(0, np.uint8)
        if verify and f"{zlib.crc32(data.data):08x}" != checksum:
            raise Damaged(f"{file.name} has another checksum than it was written with")
        arrays = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            view = data[first:last].view(_DTYPES[entry["dtype"]])
            arrays[name] = view.reshape(entry["shape"])
        return arrays
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{file.name} has no readable header ({error})") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable; where folders cannot be synced, the rename stands."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
