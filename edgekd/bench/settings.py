"""One bundle under several settings of its runtime: threads, devices, each figure by itself.

A browser is asked what a phone is not: how many threads the page's visitor has, and whether there
is a GPU. Each setting is one fresh process, and where it cannot run the row says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgekd.bench import statistics


@dataclass(frozen=True)
class Setting:
    """Times in ms, sizes in bytes; None where the runtime does not tell, or ``missing`` says why.

    ``dtype`` is the model that ran, as the runtime asks for it in a folder with several, else its
    precision. ``download_bytes`` are the model's, ``engine_bytes`` the runtime's own; ``create_ms`` is the
    session's creation alone, ``p50_ms`` the steady state.
    """

    threads: int
    device: str
    dtype: str | None
    download_bytes: int | None = None
    engine_bytes: int | None = None
    engine_ms: float | None = None
    download_ms: float | None = None
    create_ms: float | None = None
    first_ms: float | None = None
    p50_ms: float | None = None
    p50_ci: tuple[float, float] | None = None
    memory_bytes: int | None = None
    missing: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def setting(
    session: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    rows: int,
    memory_bytes: int | None,
    dtype: str,
) -> Setting:
    """From the session's own description and the replies of its processes.

    ``rounds`` have ``load_ms``, ``first_ms`` and ``samples_ms``; a session that does not time its
    steps apart has its load as ``create_ms``.
    """
    clock, fetched = session.get("timings") or {}, session.get("download") or {}
    samples = [np.asarray(reply["samples_ms"]) for reply in rounds]
    interval = statistics.rounds_interval(samples, rows)
    return Setting(
        threads=session["threads"],
        device=device(session),
        dtype=dtype,
        download_bytes=fetched.get("model_bytes"),
        engine_bytes=fetched.get("engine_bytes"),
        engine_ms=clock.get("engine_ms"),
        download_ms=clock.get("download_ms"),
        create_ms=clock.get("create_ms", float(np.median([r["load_ms"] for r in rounds]))),
        first_ms=float(np.median([reply["first_ms"] for reply in rounds])),
        p50_ms=interval.value,
        p50_ci=(interval.low, interval.high),
        memory_bytes=memory_bytes,
    )


def device(described: Mapping[str, Any]) -> str:
    """Where a session or a runtime's options run: the browser's ``wasm`` or ``webgpu``."""
    return str(described.get("device") or described.get("provider") or "wasm")
